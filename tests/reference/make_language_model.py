# SPDX-FileCopyrightText: Kokomoe authors
# SPDX-License-Identifier: BSD-3-Clause
"""Writes language_model.kkref: a small decoder with and without experts, its logits, gradients and
ten AdamW steps, in torch (float64, CPU, autograd). README.md says what each record holds.

Autograd differentiates everything but SparseMixer's factor 2, a torch.autograd.Function here.
Choices, masks, coins and jitter are constants, from make_routers.py."""

import dataclasses
import math
import pathlib

import numpy as np
import torch
import torch.nn.functional as F

import kkref
import make_routers
import philox

torch.set_default_dtype(torch.float64)
torch.set_num_threads(1)

VOCABULARY, D, HIDDEN, LAYERS, HEADS, POSITIONS = 13, 8, 10, 2, 2, 9
STEPS = 10
LENGTHS = [6, 1, 9, 4]  # packed, T = 20
SEQUENCES = [3, 0, 40, 17]  # global index of each


@dataclasses.dataclass
class Config:
    router: str  # "" where every = 0
    experts: int
    every: int  # experts in the layers i with i % every == 0; 0: nowhere
    norm: str = "rms_norm"
    positions: str = "rotary"
    activation: str = "gelu"
    bias: bool = False  # of attention, feed-forward and experts
    tied: bool = False
    omega: bool = False  # output_gain
    k: int = 1
    balance: float = 0.0
    z_loss: float = 0.0
    label_smoothing: float = 0.0
    clip: float = 1.0
    weight_decay: float = 0.1
    learning_rate: float = 1e-2
    beta1: float = 0.9
    beta2: float = 0.98
    epsilon: float = 1e-8
    mask_eps: float = 0.1
    jitter: float = 0.0
    grad_factor: float = 2.0
    seed: int = 1

    def has_experts(self, layer):
        return self.every > 0 and layer % self.every == 0

    @property
    def chosen(self):
        return self.experts if self.router == "dense_mixture" else self.k


CASES = {
    "A": Config(
        "sparsemixer", 3, 1, activation="swiglu", tied=True, omega=True, balance=0.01,
        z_loss=0.001, label_smoothing=0.1, clip=1.0, seed=2**33 + 12345,
    ),
    "B": Config(
        "switch", 4, 2, norm="layer_norm", positions="learned", activation="relu", bias=True,
        balance=0.01, jitter=0.1, clip=0.5, learning_rate=5e-3, beta2=0.999, seed=42,
    ),
    "C": Config(
        "top_k_before", 4, 1, k=2, balance=0.01, z_loss=0.001, label_smoothing=0.05,
        weight_decay=0.0,
    ),
    "D": Config(
        "top_k_after", 4, 1, norm="layer_norm", activation="swiglu", bias=True, tied=True,
        omega=True, k=2, balance=0.02, clip=100.0, learning_rate=3e-3, weight_decay=0.01,
    ),
    "E": Config("", 1, 0, label_smoothing=0.1, beta1=0.8),
    "F": Config(
        "dense_mixture", 3, 1, positions="learned", activation="relu", tied=True, z_loss=0.01,
        clip=0.25, epsilon=1e-3,
    ),
}


class Batch:
    def __init__(self, rng):
        self.offsets = np.concatenate([[0], np.cumsum(LENGTHS)])
        self.T = int(self.offsets[-1])
        self.position = np.concatenate([np.arange(n) for n in LENGTHS])
        self.sequence = np.repeat(SEQUENCES, LENGTHS)
        self.ids = rng.integers(0, VOCABULARY, self.T)
        self.targets = np.roll(self.ids, -1)
        self.targets[self.offsets[1:] - 1] = rng.integers(0, VOCABULARY, len(LENGTHS))
        self.targets[[2, 6, 11]] = -1  # 6 is the whole of the second sequence


# ---------------------------------------------------------------- parameters


def make_parameters(c, rng):
    def weight(*shape, scale=0.3):
        return scale * rng.standard_normal(shape)

    p = {"embedding.weight": weight(VOCABULARY, D, scale=0.6)}
    if c.positions == "learned":
        p["positions.weight"] = weight(POSITIONS, D)

    def norm(name):
        p[f"{name}.weight"] = 1 + weight(D, scale=0.1)
        if c.norm == "layer_norm":
            p[f"{name}.bias"] = weight(D, scale=0.1)

    for i in range(LAYERS):
        b = f"blocks.{i}"
        norm(f"{b}.attention_norm")
        p[f"{b}.attention.qkv.weight"] = weight(3 * D, D)
        p[f"{b}.attention.out.weight"] = weight(D, D)
        if c.bias:
            p[f"{b}.attention.qkv.bias"] = weight(3 * D)
            p[f"{b}.attention.out.bias"] = weight(D)
        norm(f"{b}.ffn_norm")
        E, at = (c.experts, f"{b}.moe.experts") if c.has_experts(i) else (1, f"{b}.ffn")
        rows = 2 * HIDDEN if c.activation == "swiglu" else HIDDEN
        p[f"{at}.w1"] = weight(E, rows, D)
        p[f"{at}.w2"] = weight(E, D, HIDDEN)
        if c.bias:
            p[f"{at}.b1"] = weight(E, rows)
            p[f"{at}.b2"] = weight(E, D)
        if c.has_experts(i):
            router = weight(c.experts, D)
            if c.router == "sparsemixer":  # logits near each other: several experts kept
                router = weight(1, D, scale=0.6) + weight(c.experts, D, scale=0.06)
            p[f"{b}.moe.router.weight"] = router
            if c.omega:
                p[f"{b}.moe.output_gain"] = 1 + weight(D, scale=0.1)
    norm("final_norm")
    if not c.tied:
        p["head.weight"] = weight(VOCABULARY, D)
    return {name: torch.tensor(value, requires_grad=True) for name, value in p.items()}


def decays(name):
    return not name.endswith((".bias", ".b1", ".b2", ".output_gain", "norm.weight"))


# ---------------------------------------------------------------- model


class ScaledProbability(torch.autograd.Function):
    """SparseMixer: w = s p_D forward, dL/dp_D = factor dL/dw backward."""

    @staticmethod
    def forward(ctx, p, scale, factor):
        ctx.save_for_backward(factor)
        return p * scale

    @staticmethod
    def backward(ctx, g):
        (factor,) = ctx.saved_tensors
        return g * factor, None, None


class Model:
    def __init__(self, c, p, batch, exact=False):
        """exact: SparseMixer's weight is differentiated as it is (factor = scale), for the check
        against central differences."""
        self.c, self.p, self.b, self.exact = c, p, batch, exact

    def norm(self, x, name):
        if self.c.norm == "rms_norm":
            unit = x * torch.rsqrt((x * x).mean(-1, keepdim=True) + 1e-6)
            return unit * self.p[f"{name}.weight"]
        centred = x - x.mean(-1, keepdim=True)
        unit = centred / torch.sqrt((centred * centred).mean(-1, keepdim=True) + 1e-5)
        return unit * self.p[f"{name}.weight"] + self.p[f"{name}.bias"]

    def linear(self, x, name):
        y = x @ self.p[f"{name}.weight"].T
        return y + self.p[f"{name}.bias"] if self.c.bias else y

    def rotate(self, x):
        """x (T, dh)"""
        half = x.shape[1] // 2
        rate = 10000.0 ** (-2.0 * torch.arange(half) / x.shape[1])
        angle = torch.tensor(self.b.position, dtype=torch.float64)[:, None] * rate
        a, b = x[:, :half], x[:, half:]
        cos, sin = angle.cos(), angle.sin()
        return torch.cat([a * cos - b * sin, a * sin + b * cos], 1)

    def attention(self, x, name):
        q, k, v = self.linear(x, f"{name}.qkv").split(D, 1)
        dh = D // HEADS
        heads = []
        for h in range(HEADS):
            here = slice(h * dh, (h + 1) * dh)
            qh, kh, vh = q[:, here], k[:, here], v[:, here]
            if self.c.positions == "rotary":
                qh, kh = self.rotate(qh), self.rotate(kh)
            rows = []
            for begin, end in zip(self.b.offsets[:-1], self.b.offsets[1:]):
                for t in range(begin, end):
                    score = kh[begin : t + 1] @ qh[t] / math.sqrt(dh)
                    rows.append(torch.softmax(score, 0) @ vh[begin : t + 1])
            heads.append(torch.stack(rows))
        return self.linear(torch.cat(heads, 1), f"{name}.out")

    def expert(self, x, name, e):
        h = x @ self.p[f"{name}.w1"][e].T
        if self.c.bias:
            h = h + self.p[f"{name}.b1"][e]
        if self.c.activation == "relu":
            a = torch.relu(h)
        elif self.c.activation == "gelu":
            a = 0.5 * h * (1 + torch.erf(h / math.sqrt(2)))
        else:
            gate, up = h.split(HIDDEN, -1)
            a = gate * torch.sigmoid(gate) * up
        y = a @ self.p[f"{name}.w2"][e].T
        return y + self.p[f"{name}.b2"][e] if self.c.bias else y

    def route(self, z, layer, step, train):
        """Experts (T, k), weights (T, k), the balance loss's probabilities (T, E)."""
        c = self.c
        plain = z.detach().numpy()
        draws = make_routers.Draws(
            c.seed, step, layer, self.b.sequence, self.b.position, np.float64
        )
        if c.router == "sparsemixer":
            out = make_routers.sparsemixer(plain, draws, c.mask_eps, train)
            P = torch.softmax(z.masked_fill(torch.tensor(out["mask"]) == 0, -math.inf), 1)
            picked = P.gather(1, torch.tensor(out["expert"]))
            scale = torch.tensor(out["scale"])[:, None]
            factor = scale if self.exact else torch.full_like(scale, c.grad_factor)
            w = ScaledProbability.apply(picked, scale, factor)
        elif c.router == "switch":
            out = make_routers.switch(plain, draws, c.jitter if train else 0.0)
            P = torch.softmax(z * torch.tensor(out["jitter"]), 1)
            w = P.gather(1, torch.tensor(out["expert"]))
        elif c.router in ("top_k_before", "top_k_after"):
            out = make_routers.top_k(plain, c.k, c.router == "top_k_before")
            expert = torch.tensor(out["expert"])
            P = torch.softmax(z, 1)
            w = P.gather(1, expert)
            if c.router == "top_k_after":
                w = torch.softmax(z.gather(1, expert), 1)
            # How near another choice was.
            far = -np.sort(-plain, 1)
            out["margin"] = (far[:, : c.k] - far[:, 1 : c.k + 1]).min(1)
        else:
            out = make_routers.dense_mixture(plain)
            P = w = torch.softmax(z, 1)
        assert np.allclose(w.detach().numpy(), out["weight"], rtol=0, atol=1e-14)
        return out, w, P

    def moe(self, x, name, layer, step, train, trace):
        c = self.c
        z = x @ self.p[f"{name}.router.weight"].T
        out, w, P = self.route(z, layer, step, train)
        y = []
        for t in range(self.b.T):
            y.append(
                sum(
                    w[t, r] * self.expert(x[t], f"{name}.experts", int(e))
                    for r, e in enumerate(out["expert"][t])
                )
            )
        y = torch.stack(y)
        if c.omega:
            y = y * self.p[f"{name}.output_gain"]
        count = np.bincount(out["expert"].ravel(), minlength=c.experts)
        f = torch.tensor(count / out["expert"].size)
        self.aux = self.aux + c.balance * c.experts * (f * P.mean(0)).sum()
        self.aux = self.aux + c.z_loss * (torch.logsumexp(z, 1) ** 2).mean()
        if z.requires_grad:
            z.retain_grad()
            w.retain_grad()
        trace.append(dict(layer=layer, z=z, w=w, P=P, f=f, out=out))
        return y

    def forward(self, step, train=True):
        """Logits, the task's loss, the auxiliary loss, and what each expert layer did."""
        c, p, b = self.c, self.p, self.b
        trace = []
        self.aux = torch.zeros(())
        x = p["embedding.weight"][torch.tensor(b.ids)]
        if c.positions == "learned":
            x = x + p["positions.weight"][torch.tensor(b.position)]
        for i in range(LAYERS):
            block = f"blocks.{i}"
            x = x + self.attention(self.norm(x, f"{block}.attention_norm"), f"{block}.attention")
            n = self.norm(x, f"{block}.ffn_norm")
            if c.has_experts(i):
                x = x + self.moe(n, f"{block}.moe", i, step, train, trace)
            else:
                x = x + self.expert(n, f"{block}.ffn", 0)
        x = self.norm(x, "final_norm")
        logits = x @ p["embedding.weight" if c.tied else "head.weight"].T

        scored = torch.tensor(np.flatnonzero(b.targets >= 0))
        log_p = logits - torch.logsumexp(logits, 1, keepdim=True)
        nll = -log_p[scored, torch.tensor(b.targets)[scored]]
        smooth = -log_p[scored].mean(1)
        ls = c.label_smoothing
        task = ((1 - ls) * nll + ls * smooth).sum() / len(scored)
        return logits, task, self.aux, trace


class AdamW:
    def __init__(self, c, p):
        self.c, self.p, self.t = c, p, 0
        self.m = {n: torch.zeros_like(v) for n, v in p.items()}
        self.v = {n: torch.zeros_like(v) for n, v in p.items()}

    @torch.no_grad()
    def step(self, gradient):
        c = self.c
        self.t += 1
        for n, p in self.p.items():
            g = gradient[n]
            if decays(n):
                p.mul_(1 - c.learning_rate * c.weight_decay)
            self.m[n] = c.beta1 * self.m[n] + (1 - c.beta1) * g
            self.v[n] = c.beta2 * self.v[n] + (1 - c.beta2) * g * g
            m = self.m[n] / (1 - c.beta1**self.t)
            v = self.v[n] / (1 - c.beta2**self.t)
            p.sub_(c.learning_rate * m / (torch.sqrt(v) + c.epsilon))


def gradients(c, p, loss):
    g = torch.autograd.grad(loss, list(p.values()), allow_unused=True, retain_graph=True)
    return {n: torch.zeros_like(v) if d is None else d for (n, v), d in zip(p.items(), g)}


def global_norm(g):
    return torch.sqrt(sum((d * d).sum() for d in g.values()))


# ---------------------------------------------------------------- truth checks


def check_gradients(name, c, p, batch):
    """Central differences, a few entries of every parameter; for sparsemixer with the weight
    differentiated as it is."""
    rng = np.random.default_rng(8)
    model = Model(c, p, batch, exact=True)
    loss = lambda: sum(model.forward(0)[1:3])
    g = gradients(c, p, loss())
    worst, entries, h = 0.0, 0, 1e-6
    for n, v in p.items():
        order = np.argsort(-np.abs(g[n].numpy().ravel()))
        for i in {int(order[0]), int(order[len(order) // 2]), int(rng.integers(v.numel()))}:
            flat = v.detach().view(-1)
            kept = flat[i].item()
            with torch.no_grad():
                flat[i] = kept + h
                up = loss().item()
                flat[i] = kept - h
                down = loss().item()
                flat[i] = kept
            worst = max(worst, abs((up - down) / (2 * h) - g[n].view(-1)[i].item()))
            entries += 1
    assert worst < 1e-8, (name, worst)
    print(f"OK  {name}: {entries} entries against central differences: {worst:.1e}")


def check_router_gradient(name, c, p, batch):
    """dL/dz of every expert layer, put together by hand from dL/dw."""
    _, task, aux, trace = Model(c, p, batch).forward(0)
    (task + aux).backward()
    worst, T = 0.0, batch.T
    for s in trace:
        z, dw = s["z"].detach().numpy(), s["w"].grad.numpy()
        if c.router == "sparsemixer":
            hand = make_routers.sparsemixer_backward(s["out"], dw, c.grad_factor)
        elif c.router == "switch":
            hand = make_routers.switch_backward(s["out"], dw)
        else:
            hand = make_routers.top_k_backward(s["out"], dw, c.router != "top_k_after")
        dP = np.tile(c.balance * c.experts * s["f"].numpy() / T, (T, 1))
        if c.router == "dense_mixture":
            assert c.balance == 0  # w is P itself here: dw would hold the balance loss too
        hand = hand + make_routers.probability_backward(s["out"], dP)
        top = z.max(1, keepdims=True)
        lse = top + np.log(np.exp(z - top).sum(1, keepdims=True))
        hand = hand + c.z_loss * 2 * lse * np.exp(z - lse) / T
        worst = max(worst, np.abs(hand - s["z"].grad.numpy()).max())
    for v in p.values():
        v.grad = None
    assert worst < 1e-14, (name, worst)
    print(f"OK  {name}: dL/dz by hand: {worst:.1e}")


def check_pieces():
    """Our formulas against torch's own layers."""
    rng = np.random.default_rng(5)
    batch = Batch(rng)
    c = CASES["B"]
    p = make_parameters(c, rng)
    model = Model(c, p, batch)
    x = torch.tensor(rng.standard_normal((batch.T, D)))
    w, b = p["final_norm.weight"], p["final_norm.bias"]
    ours, theirs = model.norm(x, "final_norm"), F.layer_norm(x, (D,), w, b, 1e-5)
    assert torch.allclose(ours, theirs, rtol=0, atol=1e-13)
    ours = model.attention(x, "blocks.0.attention")
    qkv = model.linear(x, "blocks.0.attention.qkv")
    rows = []
    for begin, end in zip(batch.offsets[:-1], batch.offsets[1:]):
        q, k, v = (
            s.view(-1, HEADS, D // HEADS).transpose(0, 1) for s in qkv[begin:end].split(D, 1)
        )
        a = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        rows.append(a.transpose(0, 1).reshape(-1, D))
    theirs = model.linear(torch.cat(rows), "blocks.0.attention.out")
    assert torch.allclose(ours, theirs, rtol=0, atol=1e-13)
    for name in ("A", "C"):
        c = CASES[name]
        p = make_parameters(c, rng)
        logits, task, _, _ = Model(c, p, batch).forward(0)
        theirs = F.cross_entropy(
            logits, torch.tensor(batch.targets), ignore_index=-1,
            label_smoothing=c.label_smoothing,
        )
        assert torch.allclose(task, theirs, rtol=0, atol=1e-13)
    c = CASES["A"]
    weight = torch.tensor(rng.standard_normal(D))
    ours = Model(c, {"n.weight": weight}, batch).norm(x, "n")
    assert torch.allclose(ours, F.rms_norm(x, (D,), weight, 1e-6), rtol=0, atol=1e-13)
    # Rotary: scores depend on the difference of positions only.
    q, k = torch.tensor(rng.standard_normal((2, 1, 4)))
    score = {}
    for i in range(9):
        for j in range(9):
            at = lambda v, where: Model(c, {}, type("", (), {"position": [where]})).rotate(v)[0]
            score.setdefault(i - j, []).append((at(q, i) @ at(k, j)).item())
    assert max(max(s) - min(s) for s in score.values()) < 1e-13
    assert max(s[0] for s in score.values()) - min(s[0] for s in score.values()) > 1e-2
    # Exact GELU, SwiGLU.
    x = torch.tensor(rng.standard_normal(D))
    for name in ("C", "A"):
        c = CASES[name]
        p = make_parameters(c, rng)
        e = "blocks.0.moe.experts"
        h = x @ p[f"{e}.w1"][2].T
        a = F.gelu(h) if name == "C" else F.silu(h[:HIDDEN]) * h[HIDDEN:]
        theirs = p[f"{e}.w2"][2] @ a
        assert torch.allclose(Model(c, p, batch).expert(x, e, 2), theirs, rtol=0, atol=1e-13)
    print("OK  norms, attention, rotary, activations and cross-entropy against torch's own")


class TorchPeer:
    """torch.optim.AdamW and clip_grad_norm_ on copies, fed the same gradients."""

    def __init__(self, c, p):
        self.c = c
        self.p = {n: torch.nn.Parameter(v.detach().clone()) for n, v in p.items()}
        groups = [
            {"params": [v for n, v in self.p.items() if decays(n) == d], "weight_decay": wd}
            for d, wd in ((True, c.weight_decay), (False, 0.0))
        ]
        self.optimizer = torch.optim.AdamW(
            groups, lr=c.learning_rate, betas=(c.beta1, c.beta2), eps=c.epsilon
        )

    def step(self, gradient):
        for n, v in self.p.items():
            v.grad = gradient[n].clone()
        norm = torch.nn.utils.clip_grad_norm_(self.p.values(), self.c.clip)
        self.optimizer.step()
        return norm


# ---------------------------------------------------------------- main


def run_case(w, name, c, index):
    rng = np.random.default_rng(1000 + index)
    batch = Batch(rng)
    p = make_parameters(c, rng)
    check_gradients(name, c, p, batch)
    if c.every:
        check_router_gradient(name, c, p, batch)

    numbers = dataclasses.asdict(c)
    for key in ("router", "norm", "positions", "activation"):
        del numbers[key]
    numbers |= dict(
        vocabulary=VOCABULARY, d_model=D, d_hidden=HIDDEN, layers=LAYERS, heads=HEADS,
        max_positions=POSITIONS,
    )
    for key, value in numbers.items():
        if isinstance(value, float):
            w.put(f"{name}/config/{key}", np.float64(value))
        else:
            w.put(f"{name}/config/{key}", int(value), "i8")
    w.put(f"{name}/ids", batch.ids)
    w.put(f"{name}/targets", batch.targets)
    w.put(f"{name}/offsets", batch.offsets)
    w.put(f"{name}/sequence_index", batch.sequence)
    w.put(f"{name}/position", batch.position)
    w.put(f"{name}/index_of_sequence", np.array(SEQUENCES))
    for n, v in p.items():
        w.put(f"{name}/initial/{n}", v.detach().numpy())

    model, optimizer, peer = Model(c, p, batch), AdamW(c, p), TorchPeer(c, p)
    with torch.no_grad():
        w.put(f"{name}/eval_logits", model.forward(0, train=False)[0].numpy())

    losses, norms, margin, experts = [], [], math.inf, {}
    for step in range(STEPS):
        logits, task, aux, trace = model.forward(step)
        total = task + aux
        g = gradients(c, p, total)
        norm = global_norm(g)
        losses.append([total.item(), task.item(), aux.item()])
        norms.append(norm.item())
        for s in trace:
            margin = min(margin, s["out"]["margin"].min())
            experts.setdefault(s["layer"], []).append(s["out"]["expert"])
        if step == 0:
            w.put(f"{name}/logits", logits.detach().numpy())
            for n, d in g.items():
                w.put(f"{name}/gradient/{n}", d.numpy())
            for s in trace:
                at = f"{name}/step0/layer{s['layer']}"
                w.put(f"{at}/router_logits", s["z"].detach().numpy())
                w.put(f"{at}/weight", s["w"].detach().numpy())
                w.put(f"{at}/probability", s["P"].detach().numpy())
                w.put(f"{at}/mask", s["out"]["mask"])
                if "scale" in s["out"]:
                    w.put(f"{at}/scale", s["out"]["scale"])
        clipped = {n: d * min(1.0, c.clip / (norm.item() + 1e-6)) for n, d in g.items()}
        optimizer.step(clipped)
        peer_norm = peer.step(g)
        assert abs(peer_norm.item() - norm.item()) < 1e-13
    worst = max((p[n] - peer.p[n]).abs().max().item() for n in p)
    assert worst < 1e-13, worst
    assert margin > 1e-7, f"{name}: a choice hangs on {margin:.1e}: take another seed"
    print(f"OK  {name}: AdamW and clipping against torch.optim: {worst:.1e}")

    for layer, choice in experts.items():
        w.put(f"{name}/step0/layer{layer}/expert", choice[0])
        w.put(f"{name}/experts/layer{layer}", np.array(choice))
    w.put(f"{name}/losses", np.array(losses))
    w.put(f"{name}/gradient_norms", np.array(norms))
    w.put(f"{name}/margin", np.float64(margin))
    for n, v in p.items():
        w.put(f"{name}/final/{n}", v.detach().numpy())

    kept = [w.records[r][1] for r in w.records if r.startswith(f"{name}/") and r.endswith("/mask")]
    half = [w.records[r][1] for r in w.records if r.startswith(f"{name}/") and r.endswith("/scale")]
    print(
        f"    {name}: loss {losses[0][0]:.4f} -> {losses[-1][0]:.4f}, aux {losses[0][2]:.2e},"
        f" gradient norm {norms[0]:.3f} -> {norms[-1]:.3f} (clip {c.clip}), margin {margin:.1e}"
        + (f", kept per token {np.mean([m.sum(1).mean() for m in kept]):.2f}" if kept else "")
        + (f", half weights {sum(int((h == 0.5).sum()) for h in half)}" if half else "")
    )
    for layer, choice in experts.items():
        counts = [np.bincount(e.ravel(), minlength=c.experts).tolist() for e in choice]
        print(f"        layer {layer}: tokens per expert {counts[0]} -> {counts[-1]}")


def main():
    philox.self_check()
    check_pieces()
    w = kkref.Writer()
    for index, (name, c) in enumerate(CASES.items()):
        run_case(w, name, c, index)
    for name, (_, array) in w.records.items():
        assert name.endswith("/margin") or np.isfinite(array).all(), name
    path = pathlib.Path(__file__).with_name("language_model.kkref")
    w.save(path)
    print(f"{path}: {len(w.records)} records, {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
