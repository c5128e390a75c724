#!/usr/bin/env python3
# SPDX-FileCopyrightText: Kokomoe authors
# SPDX-License-Identifier: BSD-3-Clause

"""What `kokomoe bench layer` and `kokomoe bench step` run, in PyTorch on the CPU.

Reads one request a line from standard input and answers each with a line of JSON; see
compare_torch.py, which asks. What was built for a request is kept for the next one like it, so that
models are compiled once. Needs torch and nothing else; requests for a step want Python 3.11.
"""

import functools
import json
import sys
import time

import torch
import torch._dynamo
from torch import nn
from torch.nn import functional as F

from torch_layers import DenseLayer, MoeLayer, Unsupported, normal

WARM_UP = 2


class Norm(nn.Module):
    def __init__(self, kind, d):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(d))
        self.bias = nn.Parameter(torch.zeros(d)) if kind == "layer_norm" else None

    def forward(self, x):
        if self.bias is not None:
            return F.layer_norm(x, x.shape[-1:], self.weight, self.bias, 1e-5)
        return F.rms_norm(x, x.shape[-1:], self.weight, 1e-6)


class Attention(nn.Module):
    def __init__(self, model, length):
        super().__init__()
        d, self.heads = model["d_model"], model["heads"]
        self.dropout = model["attention_dropout"]
        self.qkv = nn.Linear(d, 3 * d, model["bias"])
        self.out = nn.Linear(d, d, model["bias"])
        self.rotary = model["positions"] == "rotary"
        half = d // self.heads // 2
        angle = torch.arange(length)[:, None] * 10000.0 ** (-torch.arange(half) / half)
        self.register_buffer("cosine", angle.cos(), persistent=False)
        self.register_buffer("sine", angle.sin(), persistent=False)

    def turn(self, x):
        a, b = x.chunk(2, dim=-1)
        return torch.cat([a * self.cosine - b * self.sine, a * self.sine + b * self.cosine], -1)

    def forward(self, x):
        batch, length, d = x.shape
        q, k, v = (self.qkv(x).view(batch, length, 3, self.heads, d // self.heads)
                   .permute(2, 0, 3, 1, 4))
        if self.rotary:
            q, k = self.turn(q), self.turn(k)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True, dropout_p=self.dropout)
        return self.out(y.transpose(1, 2).reshape(batch, length, d))


class Block(nn.Module):
    def __init__(self, deck, index, implementation):
        super().__init__()
        model, moe, length = deck["model"], deck["moe"], deck["data"]["sequence_length"]
        d = model["d_model"]
        self.dropout = model["dropout"]
        self.attention_norm, self.ffn_norm = Norm(model["norm"], d), Norm(model["norm"], d)
        self.attention = Attention(model, length)
        shape = (d, model["d_hidden"], model["activation"], model["bias"])
        if moe["every"] > 0 and index % moe["every"] == 0:
            own = {"switch": "jitter", "sparsemixer": "mask_eps"}.get(moe["router"])
            options = {own: moe[own]} if own in moe else {}
            self.ffn = MoeLayer(moe["router"], moe["experts"], *shape, implementation,
                                moe["output_gain"], options)
        else:
            self.ffn = DenseLayer(*shape)

    def forward(self, x):
        x = x + F.dropout(self.attention(self.attention_norm(x)), self.dropout)
        y, balance = self.ffn(self.ffn_norm(x).flatten(0, 1))
        return x + F.dropout(y.view_as(x), self.dropout), balance


class Decoder(nn.Module):
    def __init__(self, deck, vocabulary, implementation):
        super().__init__()
        model = deck["model"]
        d, length = model["d_model"], deck["data"]["sequence_length"]
        self.dropout, self.balance = model["dropout"], deck["moe"]["balance"]
        self.smoothing = deck["train"]["label_smoothing"]
        self.embedding = normal(vocabulary, d, deviation=0.02)
        self.positions = (normal(length, d, deviation=0.02)
                          if model["positions"] == "learned" else None)
        self.blocks = nn.ModuleList(Block(deck, i, implementation) for i in range(model["layers"]))
        self.final_norm = Norm(model["norm"], d)
        self.head = self.embedding if model["tied"] else normal(vocabulary, d, deviation=0.02)

    def forward(self, ids, targets):
        x = F.embedding(ids, self.embedding)
        if self.positions is not None:
            x = x + self.positions
        x = F.dropout(x, self.dropout)
        balance = x.new_zeros(())
        for block in self.blocks:
            x, of_block = block(x)
            balance = balance + of_block
        logits = F.linear(self.final_norm(x), self.head).flatten(0, 1)
        loss = F.cross_entropy(logits, targets.flatten(), label_smoothing=self.smoothing)
        return loss + self.balance * balance


def require_supported(deck):
    moe = deck["moe"]
    if moe["every"] == 0:
        return
    for key, plain in (("k", 1), ("z_loss", 0), ("capacity_factor", 0), ("shared_experts", 0)):
        if moe[key] != plain:
            raise Unsupported(f"moe/{key} = {moe[key]} is not written here")


def saved_bytes(run, parameters):
    """Bytes that forward keeps for backward, parameters apart; views of one storage count once."""
    own = {p.untyped_storage().data_ptr() for p in parameters}
    kept = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = run()
    del result
    return sum(kept.values())


class LayerCase:
    def __init__(self, request):
        torch.manual_seed(1)
        tokens, d, hidden = request["tokens"], request["d_model"], request["d_hidden"]
        if request["router"] == "dense":
            module = DenseLayer(d, hidden, request["activation"], True)
        else:
            module = MoeLayer(request["router"], request["experts"], d, hidden,
                              request["activation"], True, request["implementation"],
                              gain=request["router"] == "sparsemixer")
        self.x = torch.empty(tokens, d).uniform_(-1.7, 1.7)
        if request["router"] != "dense" and request["routing"] != "random":
            self.steer(module.project.weight.detach(), request["routing"])
        self.x.requires_grad_()
        self.dy = torch.empty(tokens, d).uniform_(-1e-3, 1e-3)
        self.parameters = list(module.parameters())
        self.bytes = saved_bytes(lambda: module(self.x), self.parameters)
        self.module = torch.compile(module) if request["compile"] else module

    def steer(self, weight, routing):
        """As kokomoe bench layer --routing."""
        t, experts = torch.arange(len(self.x)), len(weight)
        aim = t % experts
        if routing == "skewed" and experts > 1:
            aim = torch.where(t % 2 == 0, 0, 1 + t // 2 % (experts - 1))
        rows = weight[aim]
        self.x += 30 * rows / rows.square().sum(-1, keepdim=True)

    def once(self):
        for tensor in (*self.parameters, self.x):
            tensor.grad = None
        start = time.perf_counter()
        y, balance = self.module(self.x)
        middle = time.perf_counter()
        torch.autograd.backward((y, 0.01 * balance) if balance.requires_grad else y,
                                (self.dy, torch.ones(())) if balance.requires_grad else self.dy)
        return {"forward_ms": (middle - start) * 1e3,
                "backward_ms": (time.perf_counter() - middle) * 1e3}


class StepCase:
    def __init__(self, request):
        import tomllib

        torch.manual_seed(1)
        deck = tomllib.loads(request["deck"])
        require_supported(deck)
        self.deck, self.vocabulary = deck, request["vocabulary"]
        model = Decoder(deck, self.vocabulary, request["implementation"])
        o = deck["optimizer"]
        groups = [{"params": [p for p in model.parameters() if p.dim() > 1],
                   "weight_decay": o["weight_decay"]},
                  {"params": [p for p in model.parameters() if p.dim() == 1], "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, lr=o["learning_rate"], eps=o["epsilon"],
                                           betas=(o["beta1"], o["beta2"]), fused=True)
        self.parameters = list(model.parameters())
        self.bytes = saved_bytes(lambda: model(*self.batch()), self.parameters)
        self.model = torch.compile(model) if request["compile"] else model

    def batch(self):
        length, accumulate = self.deck["data"]["sequence_length"], self.deck["train"]["accumulate"]
        sequences = self.deck["train"]["batch_tokens"] // length // accumulate
        ids = torch.randint(self.vocabulary, (sequences, length + 1))
        return ids[:, :-1], ids[:, 1:]

    def once(self):
        accumulate, clip = self.deck["train"]["accumulate"], self.deck["train"]["clip"]
        start = time.perf_counter()
        self.optimizer.zero_grad(set_to_none=True)
        total = 0.0
        for _ in range(accumulate):
            loss = self.model(*self.batch()) / accumulate
            loss.backward()
            total += loss.item()
        if clip > 0:
            nn.utils.clip_grad_norm_(self.parameters, clip)
        self.optimizer.step()
        return {"step_ms": (time.perf_counter() - start) * 1e3, "loss": total}


@functools.lru_cache(maxsize=None)
def case_of(line):
    request = json.loads(line)
    case = {"layer": LayerCase, "step": StepCase}[request["kind"]](request)
    for _ in range(WARM_UP):
        case.once()
    return case


def gemm_gflops(repeats, size=2048):
    a, b = torch.randn(size, size), torch.randn(size, size)
    seconds = []
    for _ in range(repeats + WARM_UP):
        start = time.perf_counter()
        a @ b
        seconds.append(time.perf_counter() - start)
    return 2e-9 * size ** 3 / sorted(seconds[WARM_UP:])[repeats // 2]


def answer(request):
    repeats = request.pop("repeats")
    if request["kind"] == "gemm":
        return {"torch": torch.__version__, "gemm_gflops": gemm_gflops(repeats)}
    case = case_of(json.dumps(request, sort_keys=True))
    case.once()  # others have used the caches meanwhile
    laps = [case.once() for _ in range(repeats)]
    return {"saved_bytes": case.bytes, **{key: [lap[key] for lap in laps] for key in laps[0]}}


def let_each_case_compile():
    """Every case is another model under the same code: with the usual limit the ninth would run
    uncompiled, and nobody would know."""
    config = torch._dynamo.config
    name = "recompile_limit" if hasattr(config, "recompile_limit") else "cache_size_limit"
    setattr(config, name, 1000)
    config.accumulated_cache_size_limit = 1000


def main():
    torch.set_num_threads(int(sys.argv[1]))
    let_each_case_compile()
    for line in sys.stdin:
        try:
            result = answer(json.loads(line))
        except Unsupported as error:
            result = {"unsupported": str(error)}
        print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
