# SPDX-FileCopyrightText: Kokomoe authors
# SPDX-License-Identifier: BSD-3-Clause
"""Writes electra.kkref: small models of replaced-token detection and sentence classifiers on the same
encoder, their logits, losses, gradients and five AdamW steps, in torch (float64, CPU, autograd).
README.md says what each record holds.

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

VOCABULARY, D, HIDDEN, LAYERS, HEADS, POSITIONS, MASK = 13, 8, lm.HIDDEN, 2, 2, 9, 12
STEPS = 5
LENGTHS = [6, 1, 9, 4]
SEQUENCES = [3, 0, 40, 17]
HIDDEN_ROWS = [1, 4, 6, 8, 9, 15, 19]


@dataclasses.dataclass
class Config(lm.Config):
    post_norm: bool = True
    segments: int = 0
    generator_width: float = 1.0
    generator_layers: int = 2
    discriminator_weight: float = 50.0
    classes: int = 0  # 0: replaced tokens, 1: a number, else classes


CASES = {
    "post": Config(
        "switch", 4, 2, norm="layer_norm", positions="learned", activation="gelu", bias=True, balance=0.02, jitter=0.1,
        clip=0.5, learning_rate=5e-3, seed=77, segments=2, generator_width=0.5,
        generator_layers=1,
    ),
    "pre": Config(
        "sparsemixer", 3, 1, post_norm=False, activation="swiglu", omega=True, balance=0.01,
        z_loss=0.002, clip=2.0, seed=2**33 + 5, discriminator_weight=7.0,
    ),
    "classes": Config(
        "switch", 4, 2, norm="layer_norm", positions="learned", activation="gelu", bias=True, balance=0.02, jitter=0.1,
        clip=0.5, learning_rate=5e-3, seed=78, segments=2, classes=3,
    ),
    "number": Config(
        "sparsemixer", 3, 1, post_norm=False, activation="relu", z_loss=0.002, clip=100.0,
        seed=79, classes=1,
    ),
}


class Batch:
    def __init__(self, rng, c):
        self.offsets = np.concatenate([[0], np.cumsum(LENGTHS)])
        self.T = int(self.offsets[-1])
        self.position = np.concatenate([np.arange(n) for n in LENGTHS])
        self.sequence = np.repeat(SEQUENCES, LENGTHS)
        self.ids = rng.integers(0, MASK, self.T)
        # Every second half is the second segment.
        self.segments = np.concatenate([np.arange(n) >= (n + 1) // 2 for n in LENGTHS]).astype(int)
        self.rows = np.array(HIDDEN_ROWS)
        self.masked = self.ids.copy()
        self.masked[self.rows] = MASK
        self.replacements = rng.integers(0, VOCABULARY, (STEPS, len(self.rows)))
        self.replacements[0, [0, 3]] = self.ids[self.rows[[0, 3]]]  # drawn right: not replaced
        self.labels = np.array([2, 0, -1, 1])
        self.numbers = rng.uniform(-2, 2, len(LENGTHS))


def make_parameters(c, rng):
    p = {}

    def weight(*shape, scale=0.3):
        return scale * rng.standard_normal(shape)

    def norm(name, d):
        p[f"{name}.weight"] = 1 + weight(d, scale=0.1)
        if c.norm == "layer_norm":
            p[f"{name}.bias"] = weight(d, scale=0.1)

    def linear(name, rows, d, bias):
        p[f"{name}.weight"] = weight(rows, d)
        if bias:
            p[f"{name}.bias"] = weight(rows)

    def encoder(name, d, hidden, layers, sparse):
        if d != D:
            linear(f"{name}.projection", d, D, True)
        for i in range(layers):
            b = f"{name}.{i}"
            norm(f"{b}.attention_norm", d)
            linear(f"{b}.attention.qkv", 3 * d, d, c.bias)
            linear(f"{b}.attention.out", d, d, c.bias)
            norm(f"{b}.ffn_norm", d)
            experts = sparse and c.has_experts(i)
            E, at = (c.experts, f"{b}.moe.experts") if experts else (1, f"{b}.ffn")
            rows = 2 * hidden if c.activation == "swiglu" else hidden
            p[f"{at}.w1"] = weight(E, rows, d)
            p[f"{at}.w2"] = weight(E, d, hidden)
            if c.bias:
                p[f"{at}.b1"] = weight(E, rows)
                p[f"{at}.b2"] = weight(E, d)
            if experts:
                router = weight(c.experts, d)
                if c.router == "sparsemixer":
                    router = weight(1, d, scale=0.6) + weight(c.experts, d, scale=0.06)
                p[f"{b}.moe.router.weight"] = router
                if c.omega:
                    p[f"{b}.moe.output_gain"] = 1 + weight(d, scale=0.1)
        if not c.post_norm:
            norm(f"{name}.final_norm", d)

    p["embedding.weight"] = weight(VOCABULARY, D, scale=0.6)
    if c.positions == "learned":
        p["embedding.positions.weight"] = weight(POSITIONS, D)
    if c.segments:
        p["embedding.segments.weight"] = weight(c.segments, D)
    norm("embedding.norm", D)
    encoder("discriminator.encoder", D, HIDDEN, LAYERS, True)
    if c.classes:
        linear("sentence.dense", D, D, True)
        linear("sentence.out", c.classes, D, True)
    else:
        d = round(c.generator_width * D)
        encoder("generator.encoder", d, round(c.generator_width * HIDDEN), c.generator_layers, False)
        linear("generator.dense", D, d, True)
        norm("generator.norm", D)
        p["generator.bias"] = weight(VOCABULARY)
        linear("discriminator.dense", D, D, True)
        linear("discriminator.out", 1, D, True)
    return {name: torch.tensor(value, requires_grad=True) for name, value in p.items()}


def attend(q, k, v, heads, offsets):
    """Every row to all rows of its sequence."""
    d = q.shape[1] // heads
    out = []
    for h in range(heads):
        here, rows = slice(h * d, (h + 1) * d), []
        for begin, end in zip(offsets[:-1], offsets[1:]):
            score = q[begin:end, here] @ k[begin:end, here].T / math.sqrt(d)
            rows.append(torch.softmax(score, 1) @ v[begin:end, here])
        out.append(torch.cat(rows))
    return torch.cat(out, 1)


def gelu(x):
    return 0.5 * x * (1 + torch.erf(x / math.sqrt(2)))


class Model:
    def __init__(self, c, p, batch, exact=False):
        self.c, self.p, self.b = c, p, batch
        self.parts = lm.Model(c, p, batch, exact)

    def affine(self, x, name):
        return x @ self.p[f"{name}.weight"].T + self.p[f"{name}.bias"]

    def encode(self, ids, name, heads, layers, sparse, step, train, trace):
        c, p, parts = self.c, self.p, self.parts
        x = p["embedding.weight"][torch.tensor(ids)]
        if c.positions == "learned":
            x = x + p["embedding.positions.weight"][torch.tensor(self.b.position)]
        if c.segments:
            x = x + p["embedding.segments.weight"][torch.tensor(self.b.segments)]
        x = parts.norm(x, "embedding.norm")
        if f"{name}.projection.weight" in p:
            x = self.affine(x, f"{name}.projection")

        def residual(x, norm, branch):
            if c.post_norm:
                return parts.norm(x + branch(x), norm)
            return x + branch(parts.norm(x, norm))

        for i in range(layers):
            b = f"{name}.{i}"

            def attention(n):
                q, k, v = parts.linear(n, f"{b}.attention.qkv").chunk(3, 1)
                if c.positions == "rotary":
                    q, k = (torch.cat([parts.rotate(head) for head in x.chunk(heads, 1)], 1)
                            for x in (q, k))
                return parts.linear(attend(q, k, v, heads, self.b.offsets), f"{b}.attention.out")

            def feed_forward(n):
                if sparse and c.has_experts(i):
                    return parts.moe(n, f"{b}.moe", i, step, train, trace)
                return parts.expert(n, f"{b}.ffn", 0)

            x = residual(x, f"{b}.attention_norm", attention)
            x = residual(x, f"{b}.ffn_norm", feed_forward)
        return x if c.post_norm else parts.norm(x, f"{name}.final_norm")

    def forward(self, step, train=True):
        """Outputs by name, losses [total, ...], what the expert layers did."""
        c, p, b = self.c, self.p, self.b
        trace = []
        self.parts.aux = torch.zeros(())
        encode = lambda ids: self.encode(
            ids, "discriminator.encoder", HEADS, LAYERS, True, step, train, trace)
        if c.classes:
            x = encode(b.ids)[torch.tensor(b.offsets[:-1])]
            y = self.affine(gelu(self.affine(x, "sentence.dense")), "sentence.out")
            if c.classes > 1:
                scored = torch.tensor(np.flatnonzero(b.labels >= 0))
                labels = torch.tensor(b.labels)[scored]
                each = torch.logsumexp(y[scored], 1) - y[scored, labels]
                assert torch.allclose(each.mean(), F.cross_entropy(y[scored], labels))
                sums = [each.sum().item(), (y[scored].argmax(1) == labels).sum().item()]
            else:
                each = (y[:, 0] - torch.tensor(b.numbers)) ** 2
                sums = [each.sum().item(), 0]
            losses = [each.mean() + self.parts.aux, each.mean(), self.parts.aux]
            return dict(predictions=y), losses, sums, trace

        heads = max(1, round(c.generator_width * HEADS))
        rows = torch.tensor(b.rows)
        x = self.encode(
            b.masked, "generator.encoder", heads, c.generator_layers, False, step, train, trace)
        x = self.parts.norm(gelu(self.affine(x[rows], "generator.dense")), "generator.norm")
        z = x @ p["embedding.weight"].T + p["generator.bias"]
        original = torch.tensor(b.ids)[rows]
        guess = torch.logsumexp(z, 1) - z[torch.arange(len(rows)), original]
        assert torch.allclose(guess.mean(), F.cross_entropy(z, original))

        corrupted = b.ids.copy()
        corrupted[b.rows] = b.replacements[step]
        replaced = torch.tensor((corrupted != b.ids).astype(float))
        y = self.affine(gelu(self.affine(encode(corrupted), "discriminator.dense")),
                        "discriminator.out")[:, 0]
        probability = 1 / (1 + torch.exp(-y))
        tell = -(replaced * torch.log(probability) + (1 - replaced) * torch.log(1 - probability))
        assert torch.allclose(tell.mean(), F.binary_cross_entropy_with_logits(y, replaced))
        said = y > 0
        sums = [guess.sum().item(), (z.argmax(1) == original).sum().item(), tell.sum().item(),
                (said == (replaced > 0)).sum().item(), replaced.sum().item(),
                (said & (replaced > 0)).sum().item()]
        total = guess.mean() + c.discriminator_weight * tell.mean() + self.parts.aux
        losses = [total, guess.mean(), tell.mean(), self.parts.aux]
        return dict(generator_logits=z, discriminator_logits=y), losses, sums, trace


def check_gradients(name, c, p, batch):
    rng = np.random.default_rng(8)
    model = Model(c, p, batch, exact=True)
    loss = lambda: model.forward(0)[1][0]
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
    assert worst < 1e-7, (name, worst)
    print(f"OK  {name}: central differences: {worst:.1e}")


def check_attention(rng, batch):
    """Against torch's own, sequence by sequence."""
    q, k, v = (torch.tensor(rng.standard_normal((batch.T, D))) for _ in range(3))
    rows = []
    for begin, end in zip(batch.offsets[:-1], batch.offsets[1:]):
        cut = [x[begin:end].view(-1, HEADS, D // HEADS).transpose(0, 1) for x in (q, k, v)]
        rows.append(F.scaled_dot_product_attention(*cut).transpose(0, 1).reshape(-1, D))
    assert torch.allclose(attend(q, k, v, HEADS, batch.offsets), torch.cat(rows), atol=1e-13)


def run_case(w, name, c, index):
    rng = np.random.default_rng(3000 + index)
    batch = Batch(rng, c)
    p = make_parameters(c, rng)
    check_attention(rng, batch)
    check_gradients(name, c, p, batch)

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
    for key in ("ids", "offsets", "position", "segments"):
        w.put(f"{name}/{key}", getattr(batch, key))
    w.put(f"{name}/sequence_index", batch.sequence)
    if c.classes > 1:
        w.put(f"{name}/labels", batch.labels)
    elif c.classes == 1:
        w.put(f"{name}/numbers", batch.numbers)
    else:
        w.put(f"{name}/masked_ids", batch.masked)
        w.put(f"{name}/rows", batch.rows)
        w.put(f"{name}/replacements", batch.replacements)
    for n, v in p.items():
        w.put(f"{name}/initial/{n}", v.detach().numpy())

    model, optimizer = Model(c, p, batch), lm.AdamW(c, p)
    with torch.no_grad():
        for n, v in model.forward(0, train=False)[0].items():
            w.put(f"{name}/eval_{n}", v.numpy())
    losses, norms, margin = [], [], math.inf
    for step in range(STEPS):
        outputs, parts, sums, trace = model.forward(step)
        g = lm.gradients(c, p, parts[0])
        norm = lm.global_norm(g)
        losses.append([part.item() for part in parts])
        norms.append(norm.item())
        margin = min([margin] + [s["out"]["margin"].min() for s in trace])
        if step == 0:
            w.put(f"{name}/sums", np.array(sums, dtype=float))
            for n, v in outputs.items():
                w.put(f"{name}/{n}", v.detach().numpy())
            for n, d in g.items():
                w.put(f"{name}/gradient/{n}", d.numpy())
        optimizer.step({n: d * min(1.0, c.clip / (norm.item() + 1e-6)) for n, d in g.items()})
    assert margin > 1e-7, f"{name}: a choice hangs on {margin:.1e}: take another seed"
    w.put(f"{name}/losses", np.array(losses))
    w.put(f"{name}/gradient_norms", np.array(norms))
    for n, v in p.items():
        w.put(f"{name}/final/{n}", v.detach().numpy())
    print(f"    {name}: loss {losses[0][0]:.4f} -> {losses[-1][0]:.4f}, gradient norm "
          f"{norms[0]:.3f} -> {norms[-1]:.3f}, margin {margin:.1e}, sums {sums}")


def main():
    philox.self_check()
    w = kkref.Writer()
    for index, (name, c) in enumerate(CASES.items()):
        run_case(w, name, c, index)
    for name, (_, array) in w.records.items():
        assert np.isfinite(array).all(), name
    path = pathlib.Path(__file__).with_name("electra.kkref")
    w.save(path)
    print(f"{path}: {len(w.records)} records, {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
