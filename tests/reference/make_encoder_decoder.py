# SPDX-FileCopyrightText: Kokomoe authors
# SPDX-License-Identifier: BSD-3-Clause
"""Writes encoder_decoder.kkref: a small encoder-decoder with experts, post- and pre-norm, its logits,
gradients and ten AdamW steps, in torch (float64, CPU, autograd). README.md says what each record holds.

Routing, experts, norms and the optimizer are those of make_language_model.py, which checks them."""

import dataclasses
import math
import pathlib

import numpy as np
import torch
import torch.nn.functional as F

import kkref
import make_language_model as lm
import philox

torch.set_default_dtype(torch.float64)
torch.set_num_threads(1)

VOCABULARY, D, HIDDEN, LAYERS, HEADS, POSITIONS = lm.VOCABULARY, lm.D, lm.HIDDEN, 2, lm.HEADS, 12
STEPS = 10
SOURCE_LENGTHS, TARGET_LENGTHS = [5, 2, 7], [4, 6, 1]
SEQUENCES = [3, 0, 40]


@dataclasses.dataclass
class Config(lm.Config):
    post_norm: bool = True


CASES = {
    "post": Config(
        "switch", 4, 2, norm="layer_norm", activation="relu", bias=True, balance=0.02, jitter=0.1,
        label_smoothing=0.1, clip=0.5, learning_rate=5e-3, seed=77,
    ),
    "pre": Config(
        "sparsemixer", 3, 1, post_norm=False, activation="swiglu", omega=True, balance=0.01,
        z_loss=0.002, label_smoothing=0.05, clip=2.0, seed=2**33 + 5,
    ),
    "dense": Config("", 1, 0, norm="layer_norm", activation="gelu", bias=True, clip=100.0),
}


class Batch:
    def __init__(self, rng, lengths):
        self.offsets = np.concatenate([[0], np.cumsum(lengths)])
        self.T = int(self.offsets[-1])
        self.position = np.concatenate([np.arange(n) for n in lengths])
        self.sequence = np.repeat(SEQUENCES, lengths)
        self.ids = rng.integers(0, VOCABULARY, self.T)
        self.targets = rng.integers(0, VOCABULARY, self.T)
        self.targets[2] = -1


def make_parameters(c, rng):
    def weight(*shape, scale=0.3):
        return scale * rng.standard_normal(shape)

    p = {"embedding.weight": weight(VOCABULARY, D, scale=0.3)}

    def norm(name):
        p[f"{name}.weight"] = 1 + weight(D, scale=0.1)
        if c.norm == "layer_norm":
            p[f"{name}.bias"] = weight(D, scale=0.1)

    def linear(name, rows):
        p[f"{name}.weight"] = weight(rows, D)
        if c.bias:
            p[f"{name}.bias"] = weight(rows)

    for side in ("encoder", "decoder"):
        for i in range(LAYERS):
            b = f"{side}.{i}"
            norm(f"{b}.attention_norm")
            linear(f"{b}.attention.qkv", 3 * D)
            linear(f"{b}.attention.out", D)
            if side == "decoder":
                norm(f"{b}.cross_norm")
                linear(f"{b}.cross.query", D)
                linear(f"{b}.cross.key_value", 2 * D)
                linear(f"{b}.cross.out", D)
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
                if c.router == "sparsemixer":
                    router = weight(1, D, scale=0.6) + weight(c.experts, D, scale=0.06)
                p[f"{b}.moe.router.weight"] = router
                if c.omega:
                    p[f"{b}.moe.output_gain"] = 1 + weight(D, scale=0.1)
        if not c.post_norm:
            norm(f"{side}_norm")
    return {name: torch.tensor(value, requires_grad=True) for name, value in p.items()}


def attend(q, k, v, of_queries, of_keys, causal):
    """Rows of packed sequences, head by head."""
    dh, heads = D // HEADS, []
    for h in range(HEADS):
        here = slice(h * dh, (h + 1) * dh)
        rows = []
        for b in range(len(SEQUENCES)):
            first, end = of_keys.offsets[b], of_keys.offsets[b + 1]
            for t in range(of_queries.offsets[b], of_queries.offsets[b + 1]):
                last = first + of_queries.position[t] + 1 if causal else end
                score = k[first:last, here] @ q[t, here] / math.sqrt(dh)
                rows.append(torch.softmax(score, 0) @ v[first:last, here])
        heads.append(torch.stack(rows))
    return torch.cat(heads, 1)


def positions(batch):
    table = torch.zeros(batch.T, D)
    for t, p in enumerate(batch.position):
        for i in range(0, D, 2):
            angle = p / 10000 ** (i / D)
            table[t, i], table[t, i + 1] = math.sin(angle), math.cos(angle)
    return table


class Model:
    def __init__(self, c, p, source, target, exact=False):
        self.c, self.p = c, p
        self.side = [lm.Model(c, p, batch, exact) for batch in (source, target)]

    def residual(self, side, x, name, branch):
        if self.c.post_norm:
            return side.norm(x + branch(x), name)
        return x + branch(side.norm(x, name))

    def stack(self, which, x, memory, step, train, trace):
        side, name = self.side[which], ("encoder", "decoder")[which]
        for i in range(LAYERS):
            b = f"{name}.{i}"

            def own(n):
                q, k, v = side.linear(n, f"{b}.attention.qkv").split(D, 1)
                return side.linear(attend(q, k, v, side.b, side.b, which == 1), f"{b}.attention.out")

            def cross(n):
                k, v = self.side[0].linear(memory, f"{b}.cross.key_value").split(D, 1)
                q = side.linear(n, f"{b}.cross.query")
                return side.linear(attend(q, k, v, side.b, self.side[0].b, False), f"{b}.cross.out")

            def feed_forward(n):
                if self.c.has_experts(i):
                    return side.moe(n, f"{b}.moe", which * LAYERS + i, step, train, trace)
                return side.expert(n, f"{b}.ffn", 0)

            x = self.residual(side, x, f"{b}.attention_norm", own)
            if which == 1:
                x = self.residual(side, x, f"{b}.cross_norm", cross)
            x = self.residual(side, x, f"{b}.ffn_norm", feed_forward)
        return x if self.c.post_norm else side.norm(x, f"{name}_norm")

    def forward(self, step, train=True):
        c, table = self.c, self.p["embedding.weight"]
        trace, memory = [], None
        for which, side in enumerate(self.side):
            side.aux = torch.zeros(())
            x = math.sqrt(D) * table[torch.tensor(side.b.ids)] + positions(side.b)
            features = memory = self.stack(which, x, memory, step, train, trace)
        logits = features @ table.T
        b = self.side[1].b
        scored = torch.tensor(np.flatnonzero(b.targets >= 0))
        log_p = logits - torch.logsumexp(logits, 1, keepdim=True)
        nll = -log_p[scored, torch.tensor(b.targets)[scored]]
        ls = c.label_smoothing
        task = ((1 - ls) * nll + ls * -log_p[scored].mean(1)).sum() / len(scored)
        return logits, task, self.side[0].aux + self.side[1].aux, trace


def check_gradients(name, c, p, batches):
    rng = np.random.default_rng(8)
    model = Model(c, p, *batches, exact=True)
    loss = lambda: sum(model.forward(0)[1:3])
    g = lm.gradients(c, p, loss())
    worst, h = 0.0, 1e-6
    for n, v in p.items():
        order = np.argsort(-np.abs(g[n].numpy().ravel()))
        for i in {int(order[0]), int(rng.integers(v.numel()))}:
            flat = v.detach().view(-1)
            kept = flat[i].item()
            with torch.no_grad():
                flat[i] = kept + h
                up = loss().item()
                flat[i] = kept - h
                down = loss().item()
                flat[i] = kept
            worst = max(worst, abs((up - down) / (2 * h) - g[n].view(-1)[i].item()))
    assert worst < 1e-8, (name, worst)
    print(f"OK  {name}: central differences: {worst:.1e}")


def check_attention(c, p, batches):
    """Cross-attention against torch's own, sequence by sequence."""
    rng = np.random.default_rng(3)
    source, target = batches
    q = torch.tensor(rng.standard_normal((target.T, D)))
    k, v = (torch.tensor(rng.standard_normal((source.T, D))) for _ in range(2))
    rows = []
    for b in range(len(SEQUENCES)):
        cut = [x[s.offsets[b]:s.offsets[b + 1]].view(-1, HEADS, D // HEADS).transpose(0, 1)
               for x, s in ((q, target), (k, source), (v, source))]
        rows.append(F.scaled_dot_product_attention(*cut).transpose(0, 1).reshape(-1, D))
    assert torch.allclose(attend(q, k, v, target, source, False), torch.cat(rows), atol=1e-13)


def run_case(w, name, c, index):
    rng = np.random.default_rng(2000 + index)
    batches = Batch(rng, SOURCE_LENGTHS), Batch(rng, TARGET_LENGTHS)
    p = make_parameters(c, rng)
    check_attention(c, p, batches)
    check_gradients(name, c, p, batches)

    numbers = dataclasses.asdict(c)
    for key in ("router", "norm", "positions", "activation"):
        del numbers[key]
    numbers |= dict(vocabulary=VOCABULARY, d_model=D, d_hidden=HIDDEN, layers=LAYERS, heads=HEADS,
                    max_positions=POSITIONS)
    for key, value in numbers.items():
        if isinstance(value, float):
            w.put(f"{name}/config/{key}", np.float64(value))
        else:
            w.put(f"{name}/config/{key}", int(value), "i8")
    for side, batch in zip(("source", "target"), batches):
        w.put(f"{name}/{side}/ids", batch.ids)
        w.put(f"{name}/{side}/targets", batch.targets)
        w.put(f"{name}/{side}/offsets", batch.offsets)
        w.put(f"{name}/{side}/sequence_index", batch.sequence)
        w.put(f"{name}/{side}/position", batch.position)
    for n, v in p.items():
        w.put(f"{name}/initial/{n}", v.detach().numpy())

    model, optimizer = Model(c, p, *batches), lm.AdamW(c, p)
    with torch.no_grad():
        w.put(f"{name}/eval_logits", model.forward(0, train=False)[0].numpy())
    losses, norms, margin = [], [], math.inf
    for step in range(STEPS):
        logits, task, aux, trace = model.forward(step)
        g = lm.gradients(c, p, task + aux)
        norm = lm.global_norm(g)
        losses.append([(task + aux).item(), task.item(), aux.item()])
        norms.append(norm.item())
        margin = min([margin] + [s["out"]["margin"].min() for s in trace])
        if step == 0:
            w.put(f"{name}/logits", logits.detach().numpy())
            for n, d in g.items():
                w.put(f"{name}/gradient/{n}", d.numpy())
        optimizer.step({n: d * min(1.0, c.clip / (norm.item() + 1e-6)) for n, d in g.items()})
    assert margin > 1e-7, f"{name}: a choice hangs on {margin:.1e}: take another seed"
    w.put(f"{name}/losses", np.array(losses))
    w.put(f"{name}/gradient_norms", np.array(norms))
    for n, v in p.items():
        w.put(f"{name}/final/{n}", v.detach().numpy())
    print(f"    {name}: loss {losses[0][0]:.4f} -> {losses[-1][0]:.4f}, gradient norm "
          f"{norms[0]:.3f} -> {norms[-1]:.3f}")


def main():
    philox.self_check()
    w = kkref.Writer()
    for index, (name, c) in enumerate(CASES.items()):
        run_case(w, name, c, index)
    path = pathlib.Path(__file__).with_name("encoder_decoder.kkref")
    w.save(path)
    print(f"{path}: {len(w.records)} records, {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
