# SPDX-FileCopyrightText: Kokomoe authors
# SPDX-License-Identifier: BSD-3-Clause
"""Writes token_routers.kkref: noisy_top_k, xmoe, deepseek_v3, remoe, default_moe and group limits,
from their definitions, in torch (float64, gradients by autograd). README.md says what each record
holds."""

import pathlib

import numpy as np
import torch

import kkref
import philox

NOISE = 8
torch.set_default_dtype(torch.float64)


def tensor(array, grad=False):
    return torch.tensor(np.asarray(array, dtype=np.float64), requires_grad=grad)


def narrow(array):
    """Numbers that float holds exactly, so that both types start from the same."""
    return np.asarray(array, dtype=np.float32).astype(np.float64)


def largest(scores, k, allowed=None):
    """Indices of the k largest, largest first, lower index among equals; and the least gap."""
    order = sorted(
        (i for i in range(len(scores)) if allowed is None or i in allowed),
        key=lambda i: (-scores[i], i),
    )
    gap = min((scores[order[r]] - scores[order[r + 1]] for r in range(min(k, len(order) - 1))),
              default=np.inf)
    return order[:k], gap


def allowed_experts(scores, groups, limit, summed):
    """Experts of the `limit` best groups, a group's score being the sum of its `summed` best."""
    E = len(scores)
    size = E // groups
    score = [sum(sorted(scores[g * size : (g + 1) * size])[::-1][:summed]) for g in range(groups)]
    kept, gap = largest(score, limit)
    if limit == groups:
        gap = np.inf
    return {e for g in kept for e in range(g * size, (g + 1) * size)}, gap


def choose(scores, k, groups=1, limit=1, summed=1, group_scores=None):
    """(T, k) experts from (T, E) scores; asserts that nothing is nearly a tie."""
    experts = []
    for t, row in enumerate(scores):
        by = row if group_scores is None else group_scores[t]
        allowed, gap1 = allowed_experts(by, groups, limit, summed)
        picked, gap2 = largest(row, k, allowed)
        assert min(gap1, gap2) > 1e-5, (t, gap1, gap2)
        experts.append(picked)
    return np.array(experts)


def pick(matrix, expert):
    return matrix.gather(1, torch.tensor(expert))


# ---------------------------------------------------------------- noisy_top_k


def normals(case, dtype):
    """Box-Muller: expert e has draws 2 e and 2 e + 1."""
    T, E = case["z"].shape
    u = philox.uniforms(case["seed"], NOISE, case["step"], case["sequence_index"], case["layer"],
                        case["position"], range(2 * E), dtype).astype(np.float64)
    return np.sqrt(-2 * np.log(u[:, 0::2])) * np.cos(2 * np.pi * u[:, 1::2])


def squared_variation(x):
    return x.var(unbiased=False) / x.mean() ** 2


def noisy_top_k(case, k, dtype, importance, load, update_tokens, training=True):
    z, y = tensor(case["z"], True), tensor(case["y"], True)
    T, E = z.shape
    noise = tensor(normals(case, dtype))
    s = torch.nn.functional.softplus(y)
    h = z + noise * s if training else z
    expert = choose(h.detach().numpy(), k)
    weight = torch.softmax(pick(h, expert), 1)
    P = torch.softmax(h, 1)
    dweight = case["dweight"][k]
    total = (tensor(dweight) * weight).sum() + (tensor(case["dP"]) * P).sum()
    out = {}
    if training:
        gates = torch.zeros(T, E).scatter(1, torch.tensor(expert), weight)
        own = importance * squared_variation(gates.sum(0))
        if k < E:
            chance = torch.zeros(T, E)
            rows = []
            for t in range(T):
                row = []
                for i in range(E):
                    others = torch.cat([h[t, :i], h[t, i + 1 :]])
                    kth = torch.sort(others, descending=True).values[k - 1]
                    row.append(0.5 * (1 + torch.erf((z[t, i] - kth) / s[t, i] / 2**0.5)))
                rows.append(torch.stack(row))
            chance = torch.stack(rows)
            own = own + load * squared_variation(chance.sum(0))
        total = total + own * T / update_tokens
        out["loss"] = own.detach().numpy() * T
    total.backward()
    dy = y.grad.numpy() if y.grad is not None else np.zeros((T, E))
    return dict(out, expert=expert, weight=weight.detach().numpy(), dweight=dweight,
                probability=P.detach().numpy(), dlogits=np.concatenate([z.grad.numpy(), dy], 1))


# ---------------------------------------------------------------- the others


def top_k(case, k, before, groups, limit, score):
    z = tensor(case["z"], True)
    p = torch.softmax(z, 1)
    if score == "sum":
        summed, by = -(-k // limit), p.detach().numpy()
    else:
        summed, by = 1, None
    expert = choose(case["z"], k, groups, limit, summed, by)
    weight = pick(p, expert) if before else torch.softmax(pick(z, expert), 1)
    dweight = case["dweight"][k]
    ((tensor(dweight) * weight).sum() + (tensor(case["dP"]) * p).sum()).backward()
    return dict(expert=expert, weight=weight.detach().numpy(), probability=p.detach().numpy(),
                dweight=dweight, dlogits=z.grad.numpy())


def deepseek_v3(case, k, groups, limit, score, scale):
    z = tensor(case["z"], True)
    s = torch.sigmoid(z)
    biased = s.detach().numpy() + case["bias"]
    expert = choose(biased, k, groups, limit, -(-k // limit) if score == "sum" else 1)
    chosen = pick(s, expert)
    weight = scale * chosen / chosen.sum(1, keepdim=True)
    p = s / s.sum(1, keepdim=True)
    dweight = case["dweight"][k]
    ((tensor(dweight) * weight).sum() + (tensor(case["dP"]) * p).sum()).backward()
    return dict(expert=expert, weight=weight.detach().numpy(), probability=p.detach().numpy(),
                dweight=dweight, dlogits=z.grad.numpy())


def remoe(case, k, regularization, update_tokens):
    z = tensor(case["z"], True)
    T, E = z.shape
    weight = torch.relu(z)
    active = (weight > 0).double()
    f = E / (k * T) * active.sum(0)
    own = regularization * (f * weight).sum()  # lambda (1/T) sum, times T
    dweight = case["dweight"][E]
    ((tensor(dweight) * weight).sum() + own / update_tokens).backward()
    expert = np.where(case["z"] > 0, np.arange(E), E)
    return dict(expert=expert, weight=weight.detach().numpy(), dweight=dweight,
                loss=own.detach().numpy(), dlogits=z.grad.numpy())


def default_moe(case, k):
    z, table = tensor(case["z"], True), tensor(case["table"])
    T, E = z.shape
    p = torch.softmax(z, 1)
    expert = choose(case["z"], k)
    weight = pick(p, expert)
    missing = torch.ones(T, E).scatter(1, torch.tensor(expert), 0.0)
    output = (missing * p) @ table
    dweight = case["dweight"][k]
    ((tensor(dweight) * weight).sum() + (tensor(case["d_output"]) * output).sum()
     + (tensor(case["dP"]) * p).sum()).backward()
    return dict(expert=expert, weight=weight.detach().numpy(), probability=p.detach().numpy(),
                dweight=dweight, output=output.detach().numpy(), dlogits=z.grad.numpy())


def xmoe_projection(x, projection, vectors, log_t, dz):
    x, projection, vectors = tensor(x, True), tensor(projection, True), tensor(vectors, True)
    log_t = tensor(log_t, True)
    norm = lambda a: a.norm(dim=1, keepdim=True).clamp(min=1e-6)
    u = x @ projection.T
    cosine = (u / norm(u)) @ (vectors / norm(vectors)).T
    z = torch.clamp(torch.exp(log_t), max=100.0) * cosine
    (z * tensor(dz)).sum().backward()
    return dict(z=z.detach().numpy(), d_x=x.grad.numpy(), d_projection=projection.grad.numpy(),
                d_vectors=vectors.grad.numpy(), d_log_temperature=log_t.grad.numpy())


def make_case(rng, T, E, ks, seed):
    """Logits without near ties; both types hold every number exactly."""
    dweight = {k: narrow(rng.standard_normal((T, k))) for k in ks}
    return dict(
        z=narrow(rng.standard_normal((T, E))), y=narrow(rng.standard_normal((T, E))),
        dP=narrow(0.5 * rng.standard_normal((T, E))), dweight=dweight,
        bias=narrow(0.2 * rng.standard_normal(E)), table=narrow(rng.standard_normal((E, 5))),
        d_output=narrow(rng.standard_normal((T, 5))), seed=seed, step=6, layer=2,
        sequence_index=np.arange(T) // 7 + 3, position=np.arange(T) % 7,
    )


def main():
    philox.self_check()
    rng = np.random.default_rng(17)
    w = kkref.Writer()
    for name, T, E, ks in (("e4", 20, 4, (1, 2, 4)), ("e8", 14, 8, (1, 2, 3, 4, 8)),
                           ("e1", 3, 1, (1,)), ("one_token", 1, 6, (1, 2, 6))):
        case = make_case(rng, T, E, ks, 2**39 + 77)
        update_tokens = T + 16
        for key in ("z", "y", "dP", "bias", "table", "d_output"):
            w.put(f"{name}/{key}", case[key])
        for key in ("seed", "step", "layer", "sequence_index", "position"):
            w.put(f"{name}/{key}", case[key], "i8")

        def put(variant, out):
            for key, value in out.items():
                w.put(f"{name}/{variant}/{key}", value)

        for k in ks:
            for dtype, short in ((np.float64, "f8"), (np.float32, "f4")):
                put(f"noisy_{k}/{short}", noisy_top_k(case, k, dtype, 0.3, 0.7, update_tokens))
            put(f"noisy_{k}_eval", noisy_top_k(case, k, np.float64, 0.3, 0.7, update_tokens, False))
            put(f"deepseek_{k}", deepseek_v3(case, k, 1, 1, "sum", 2.5))
            put(f"default_{k}", default_moe(case, k))
            put(f"remoe_{k}", remoe(case, k, 0.25, update_tokens))
        if E == 8:
            for k, G, g in ((1, 4, 2), (2, 4, 1), (3, 4, 2), (4, 2, 1), (4, 4, 2), (8, 4, 4)):
                for score in ("sum", "best"):
                    tag = f"{k}_of_{g}_in_{G}_{score}"
                    put(f"deepseek_{tag}", deepseek_v3(case, k, G, g, score, 1.0))
                    put(f"top_k_{tag}_before", top_k(case, k, True, G, g, score))
                    put(f"top_k_{tag}_after", top_k(case, k, False, G, g, score))

    T, d, r, E = 11, 6, 3, 5
    x = narrow(rng.standard_normal((T, d)))
    x[4] = 0  # shorter than the least norm
    projection, vectors = narrow(rng.standard_normal((r, d))), narrow(rng.standard_normal((E, r)))
    dz = narrow(rng.standard_normal((T, E)))
    for key, value in (("x", x), ("projection", projection), ("vectors", vectors), ("dz", dz)):
        w.put(f"xmoe/{key}", value)
    for variant, log_t in (("usual", 1.25), ("limit", 5.0)):
        w.put(f"xmoe/{variant}/log_temperature", np.array([log_t]))
        for key, value in xmoe_projection(x, projection, vectors, np.array([log_t]), dz).items():
            w.put(f"xmoe/{variant}/{key}", value)
    for name, (_, array) in w.records.items():
        assert np.isfinite(array).all(), name
    path = pathlib.Path(__file__).with_name("token_routers.kkref")
    w.save(path)
    print(f"{path}: {len(w.records)} records, {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
