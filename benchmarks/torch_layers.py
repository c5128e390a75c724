# SPDX-FileCopyrightText: Kokomoe authors
# SPDX-License-Identifier: BSD-3-Clause

"""Feed-forward layers in PyTorch, dense and with experts, from the routers' papers."""

import torch
from torch import nn
from torch.nn import functional as F


class Unsupported(Exception):
    """This torch, or this peer, has no such thing."""


def normal(*shape, deviation):
    return nn.Parameter(torch.randn(*shape) * deviation)


def activate(kind, a):
    if kind == "swiglu":
        gate, up = a.chunk(2, dim=-1)
        return F.silu(gate) * up
    return F.relu(a) if kind == "relu" else F.gelu(a)


def first_width(kind, hidden):
    return 2 * hidden if kind == "swiglu" else hidden


class LoopExperts(nn.Module):
    """One linear layer after the other, over tokens sorted by expert."""

    def __init__(self, experts, d, hidden, activation, bias):
        super().__init__()
        self.activation = activation
        width = first_width(activation, hidden)
        self.first = nn.ModuleList(nn.Linear(d, width, bias) for _ in range(experts))
        self.second = nn.ModuleList(nn.Linear(hidden, d, bias) for _ in range(experts))

    # Sizes differ in every step: compiled for each of them, this would never end.
    @torch.compiler.disable
    def forward(self, x, expert, counts):
        parts = x.split(counts.tolist())
        return torch.cat([second(activate(self.activation, first(part))) if part.shape[0] else part
                          for part, first, second in zip(parts, self.first, self.second)])


class GroupedExperts(nn.Module):
    """One call for all experts of a stacked matrix."""

    def __init__(self, experts, d, hidden, activation, bias):
        super().__init__()
        if not hasattr(F, "grouped_mm"):
            raise Unsupported(f"torch {torch.__version__} has no grouped_mm")
        self.activation = activation
        width = first_width(activation, hidden)
        self.first = normal(experts, d, width, deviation=d ** -0.5)
        self.second = normal(experts, hidden, d, deviation=hidden ** -0.5)
        self.first_bias = nn.Parameter(torch.zeros(experts, width)) if bias else None
        self.second_bias = nn.Parameter(torch.zeros(experts, d)) if bias else None

    def forward(self, x, expert, counts):
        ends = counts.cumsum(0).to(torch.int32)
        a = F.grouped_mm(x, self.first, offs=ends)
        if self.first_bias is not None:
            a = a + self.first_bias[expert]
        y = F.grouped_mm(activate(self.activation, a), self.second, offs=ends)
        return y if self.second_bias is None else y + self.second_bias[expert]


EXPERTS = {"loop": LoopExperts, "grouped": GroupedExperts}


class Switch(nn.Module):
    """The most probable expert, weighted by its probability (arXiv 2101.03961)."""

    def __init__(self, jitter=0.0):
        super().__init__()
        self.jitter = jitter

    def forward(self, z):
        if self.jitter > 0:
            z = z * torch.empty_like(z).uniform_(1 - self.jitter, 1 + self.jitter)
        p = z.softmax(-1)
        weight, expert = p.max(-1)
        return p, weight, expert


class SparseMixer(nn.Module):
    """A drawn expert D ~ p over those near the best; its weight is p_D, or half of that with chance
    1/2 unless D is the best, and its gradient is of 2 p_D: the midpoint rule (arXiv 2310.00811)."""

    def __init__(self, mask_eps=0.1):
        super().__init__()
        self.mask_eps = mask_eps

    def forward(self, z):
        with torch.no_grad():
            best, best_expert = z.max(-1, keepdim=True)
            far = (best - z) > 2 * self.mask_eps * torch.maximum(z.abs(), best)
        z = z.masked_fill(far, -torch.inf)
        p = z.softmax(-1)
        # Gumbel-max: z - log(-log u), with -log u an exponential draw.
        expert = (z.detach() - torch.empty_like(z).exponential_().log()).argmax(-1)
        chosen = p.gather(-1, expert[:, None])[:, 0]
        whole = (expert == best_expert[:, 0]) | (torch.rand_like(chosen) > 0.5)
        value = torch.where(whole, chosen, 0.5 * chosen).detach()
        doubled = 2 * chosen
        return p, value + (doubled - doubled.detach()), expert


class MoeLayer(nn.Module):
    def __init__(self, router, experts, d, hidden, activation, bias, implementation, gain,
                 options=None):
        super().__init__()
        kinds = {"switch": Switch, "sparsemixer": SparseMixer}
        if router not in kinds:
            raise Unsupported(f"router {router} is not written here")
        self.project = nn.Linear(d, experts, bias=False)
        nn.init.normal_(self.project.weight, std=d ** -0.5)
        self.router = kinds[router](**(options or {}))
        self.experts = EXPERTS[implementation](experts, d, hidden, activation, bias)
        self.gain = nn.Parameter(torch.ones(d)) if gain else None

    def forward(self, x):
        """x (T, d) -> y (T, d) and the balance loss, 1 when balanced."""
        z = self.project(x)
        count = z.shape[1]
        p, weight, expert = self.router(z)
        # bincount would be a number for the host under the compiler.
        counts = torch.zeros(count, dtype=torch.int64).scatter_add_(0, expert,
                                                                    torch.ones_like(expert))
        by_expert, order = expert.sort()
        y = self.experts(x.index_select(0, order), by_expert, counts)
        place = torch.empty_like(order).scatter_(0, order, torch.arange(len(order)))
        y = y.index_select(0, place) * weight[:, None]
        if self.gain is not None:
            y = y * self.gain
        balance = count * (p.mean(0) * (counts / len(expert))).sum()
        return y, balance


class DenseLayer(nn.Module):
    def __init__(self, d, hidden, activation, bias):
        super().__init__()
        self.activation = activation
        self.first = nn.Linear(d, first_width(activation, hidden), bias)
        self.second = nn.Linear(hidden, d, bias)

    def forward(self, x):
        return self.second(activate(self.activation, self.first(x))), x.new_zeros(())
