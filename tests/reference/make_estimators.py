# SPDX-FileCopyrightText: Kokomoe authors
# SPDX-License-Identifier: BSD-3-Clause
"""Writes estimators.kkref: choices, scales, weights and gradients of the sampled estimators from
their definitions, in numpy alone, after a check of their orders. README.md lists the records."""

import pathlib

import numpy as np

import kkref
import philox
from make_routers import Draws, INF, central_difference, close, degenerate_rows, gap, sanitize

# name -> value of s for a coin u, argmax exception, factor, mask_eps, temperature, unmasked balance
GATES = {
    "sparsemixer": (lambda u: 1 if u > 1 / 2 else 1 / 2, True, 2, 0.1, 1, False),
    "sparsemixer_v2": (lambda u: 1 if u > 3 / 4 else 1 / 3, True, 1, 0.01, 1, True),
    "sparsemixer_v2_star": (lambda u: 1 if u > 3 / 8 else 1 / 3, True, 2, 0.01, 2, True),
    "euler": (lambda u: 1, False, 2, 0.1, 1, False),
    "midpoint": (lambda u: 1 if u > 1 / 2 else 1 / 2, False, 2, 0.1, 1, False),
    "heun": (lambda u: 1 if u > 3 / 8 else 1 / 3, False, 2, 0.1, 1, False),
    "uniform_path": (lambda u: 1 if u > 1 / 2 else 2 * u, False, 2, 0.1, 1, False),
    "reinforce": (lambda u: 1, False, 1, 0.1, 1, False),
}


# ---------------------------------------------------------------- one round of one token


def distance_kept(v, rest, eps, form):
    """Which of the experts of `rest` are near enough to the best; eps 0 keeps them all."""
    if eps == 0:
        return rest.copy(), INF
    m = v[rest].max()
    size = np.abs(v) + abs(m) if form == "sum" else np.maximum(np.abs(v), m)
    if form == "sum":  # as a product: both sides may be infinite
        with np.errstate(invalid="ignore"):
            near = ~(m - v > v.dtype.type(2 * eps) * size)
    else:
        with np.errstate(invalid="ignore", divide="ignore"):
            near = ~((m - v) / size > v.dtype.type(2 * eps))
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio = ((m - v) / size).astype(np.float64)[rest]
    return rest & near, np.min(np.abs(ratio[np.isfinite(ratio)] - 2 * eps), initial=INF)


def softmax(v, kept, temperature=1):
    x = (v - v[kept].max())[kept] / v.dtype.type(temperature)
    p = np.zeros_like(v)
    p[kept] = np.exp(x) / np.exp(x).sum(dtype=v.dtype)
    return p


def jacobian(p):
    return np.diag(p) - np.outer(p, p)


def gate(z, k, draws, name, train=True, sampling=True, exception=None, eps=None, form="maximum",
         temperature=None):
    """Every token's rounds; `p` (T, k, E) and `balance` (T, E) beside the records."""
    law, usual_exception, _, usual_eps, usual_temperature, unmasked = GATES[name]
    exception = usual_exception if exception is None else exception
    eps = usual_eps if eps is None else eps
    temperature = usual_temperature if temperature is None else temperature
    T, E = z.shape
    kind = z.dtype.type
    noise = draws(philox.GUMBEL, range(k * E)).reshape(T, k, E)
    coin = draws(philox.COIN, range(k))
    out = dict(expert=np.zeros((T, k), np.int64), scale=np.ones((T, k), z.dtype),
               weight=np.zeros((T, k), z.dtype), kept=np.zeros((T, k), np.int64))
    p_all, balance = np.zeros((T, k, E), z.dtype), np.zeros((T, E), z.dtype)
    margin = np.full(T, INF)
    for t in range(T):
        rest = np.ones(E, bool)
        for r in range(k):
            v = np.full(E, kind(-INF))
            v[rest] = sanitize(z[t][rest])
            best = int(np.flatnonzero(rest)[np.argmax(v[rest])])
            kept, far = distance_kept(v, rest, eps, form)
            p = softmax(v, kept, temperature)
            chosen, s = best, 1.0
            if train:
                if sampling:
                    noisy = np.full(E, kind(-INF))
                    noisy[kept] = (v[kept] / kind(temperature)
                                   - np.log(-np.log(noise[t, r][kept])))
                    chosen = int(np.flatnonzero(kept)[np.argmax(noisy[kept])])
                    far = min(far, gap(noisy[kept]))
                s = 1.0 if exception and chosen == best else law(coin[t, r])
            out["expert"][t, r], out["scale"][t, r] = chosen, s
            out["weight"][t, r] = kind(s) * p[chosen]
            out["kept"][t, r] = sum(1 << e for e in range(E) if kept[e])
            p_all[t, r], margin[t] = p, min(margin[t], far)
            if r == 0:
                balance[t] = softmax(v, rest) if unmasked else p
            rest[chosen] = False
    return out, p_all, balance, margin, temperature


def gate_backward(expert, p, dw, factor, temperature, score=None):
    """Sum over rounds of the Jacobian's column of what was chosen, times factor dL/dw; with `score`
    (T) also score d log p."""
    T, k, E = p.shape
    dz = np.zeros((T, E), p.dtype)
    for t in range(T):
        for r in range(k):
            D = expert[t, r]
            column = jacobian(p[t, r])[:, D] / p.dtype.type(temperature)
            dz[t] += p.dtype.type(factor) * dw[t, r] * column
            if score is not None:
                one_hot = (np.arange(E) == D).astype(p.dtype)
                dz[t] += p.dtype.type(factor) * score[t] * (one_hot - p[t, r])
    return dz


def one_hot_backward(z, p, D, g, tau):
    """tau None: straight-through; else ReinMax."""
    if tau is None:
        return jacobian(p) @ g
    tempered = softmax(z, p > 0, tau)
    pi = (tempered + (np.arange(len(p)) == D)) / 2
    return (2 * jacobian(pi) @ g - jacobian(p) @ g / 2).astype(p.dtype)


# ---------------------------------------------------------------- cases


def make_set(rng, T, E, seed, step, layer):
    """Half of the rows plain, half with several logits within the mask."""
    near = rng.choice([-1.0, 1.0], (T, 1)) * (1 + 0.12 * rng.standard_normal((T, E)))
    plain = rng.standard_normal((T, E))
    case = dict(logits=np.where(np.arange(T)[:, None] % 2 == 0, near, plain), seed=seed, step=step,
                layer=layer, sequence_index=np.sort(rng.integers(0, 1000, T)),
                position=rng.integers(0, 5000, T))
    return with_gradients(rng, case)


def with_gradients(rng, case):
    T, E = case["logits"].shape
    case["dP"] = rng.standard_normal((T, E))
    case["dweight"] = rng.standard_normal((T, E))
    # The second of three sequences is empty.
    case["offsets"] = np.array([0, T // 3, T // 3, T])
    case["sequence_loss"] = np.array([3.5, 0.0, 20.25])
    case["loss_scale"] = 1 / 32
    return case


def variants(E, few):
    """name, k, tag, what gate() takes, factor (None: default)."""
    for name, (_, exception, *_rest) in GATES.items():
        for k in (2,) if few else (1, 2, E):
            yield name, k, "default", {}, None
        if few:
            continue
        for k in (1, 2):
            yield name, k, "open", dict(eps=0, exception=not exception), None
        yield name, 2, "evaluation", dict(train=False), None
    if few:
        yield "sparsemixer_v2_star", E, "default", {}, None
        return
    yield "sparsemixer_v2", 2, "sum", dict(form="sum", eps=0.1), None
    yield "sparsemixer_v2", 2, "factor", {}, -0.75
    yield "sparsemixer_v2", 2, "no_sampling", dict(sampling=False, exception=False), None
    yield "sparsemixer_v2_star", 2, "temperature_1", dict(temperature=1), None
    yield "reinforce", 2, "factor", {}, 0.5


def write_case(w, prefix, case, dtype, few):
    z = case["logits"].astype(dtype)
    T, E = z.shape
    dP, dw = case["dP"].astype(dtype), case["dweight"].astype(dtype)
    draws = Draws(case["seed"], case["step"], case["layer"], case["sequence_index"],
                  case["position"], dtype)
    w.put(f"{prefix}/logits", z)
    w.put(f"{prefix}/dP", dP)
    w.put(f"{prefix}/dweight", dw)  # columns 0..k-1 for k slots a token
    for name in ("sequence_index", "offsets", "position"):
        w.put(f"{prefix}/{name}", case[name], "i4")
    for name in ("seed", "step", "layer"):
        w.put(f"{prefix}/{name}", case[name], "i8")
    for name in ("sequence_loss", "loss_scale"):
        w.put(f"{prefix}/{name}", case[name], "f8")
    f = np.repeat(case["sequence_loss"] * case["loss_scale"], np.diff(case["offsets"]))
    least = INF
    for name, k, tag, options, factor in variants(E, few):
        out, p, balance, margin, temperature = gate(z, k, draws, name, **options)
        least = min(least, margin.min())
        at = f"{prefix}/{name}/{k}/{tag}"
        for record, value in out.items():
            w.put(f"{at}/{record}", value)
        if k == 2 and tag != "evaluation" and not few:
            w.put(f"{at}/probability", p[:, 0])
            w.put(f"{at}/balance", balance)
            w.put(f"{at}/dlogits_from_dP", np.stack([jacobian(b) @ g for b, g in zip(balance, dP)]))
        if tag != "evaluation":
            factor = GATES[name][2] if factor is None else factor
            score = f.astype(dtype) if name == "reinforce" else None
            w.put(f"{at}/dlogits",
                  gate_backward(out["expert"], p, dw[:, :k], factor, temperature, score))
    for name, tau, eps, tag in (
        ("straight_through", None, 0.1, "default"),
        ("straight_through", None, 0, "open"),
        ("reinmax", 1, 0.1, "default"),
        ("reinmax", 1, 0, "open"),
        ("reinmax", 1.5, 0, "tempered"),
    ):
        out, p, _, margin, _ = gate(z, 1, draws, "euler", eps=eps)
        least = min(least, margin.min())
        at = f"{prefix}/{name}/{tag}"
        D = out["expert"][:, 0]
        w.put(f"{at}/chosen", D)
        w.put(f"{at}/kept", out["kept"])
        w.put(f"{at}/probability", p[:, 0])
        rows = [one_hot_backward(sanitize(z[t]), p[t, 0], D[t], dw[t], tau) for t in range(T)]
        w.put(f"{at}/dlogits", np.array(rows))
        w.put(f"{at}/dlogits_from_dP", np.stack([jacobian(q) @ g for q, g in zip(p[:, 0], dP)]))
    return least


# ---------------------------------------------------------------- truth checks


def check_backwards(case):
    """Central differences of sum factor dw p with choices and masks held."""
    z = case["logits"]
    T, E = z.shape
    draws = Draws(case["seed"], case["step"], case["layer"], case["sequence_index"],
                  case["position"], np.float64)
    for name, k, tag, options, factor in variants(E, False):
        if options.get("train") is False:
            continue
        out, p, _, _, temperature = gate(z, k, draws, name, **options)
        factor = GATES[name][2] if factor is None else factor
        score = np.linspace(-1, 1, T) if name == "reinforce" else None

        def loss(x):
            total = 0
            for t in range(T):
                for r in range(k):
                    kept = np.array([out["kept"][t, r] >> e & 1 for e in range(E)], bool)
                    q = softmax(x[t], kept, temperature)[out["expert"][t, r]]
                    total += factor * case["dweight"][t, r] * q
                    if score is not None:
                        total += factor * score[t] * np.log(q)
            return total

        got = gate_backward(out["expert"], p, case["dweight"], factor, temperature, score)
        close(f"{name} k {k} {tag}", got, central_difference(loss, z), 1e-8)


def check_exactness():
    """With choice and coin enumerated, exact for what the rule's order promises."""
    rng = np.random.default_rng(5)
    E, d = 5, 3
    z, experts = rng.standard_normal(E), rng.standard_normal((E, d))
    a, B = rng.standard_normal(d), rng.standard_normal((d, d))
    c = rng.standard_normal(d)

    def polynomial(degree):
        f = lambda y: a @ y + (degree > 1) * y @ B @ y + (degree > 2) * (c @ y) ** 3
        df = lambda y: a + (degree > 1) * (B + B.T) @ y + (degree > 2) * 3 * (c @ y) ** 2 * c
        return f, df

    smooth = (lambda y: np.exp(a @ y) + np.sin(c @ y),
              lambda y: np.exp(a @ y) * a + np.cos(c @ y) * c)
    everything = np.ones(E, bool)
    nodes, weights = np.polynomial.legendre.leggauss(40)
    path = [((x + 1) / 2, v / 4) for x, v in zip(nodes, weights)]
    for name, coins, (f, df), b in (
        ("euler", [(1, 1)], polynomial(1), None),
        ("midpoint", [(1, 1 / 2), (1 / 2, 1 / 2)], polynomial(2), None),
        ("heun", [(1, 5 / 8), (1 / 3, 3 / 8)], polynomial(3), None),
        ("uniform_path", [(1, 1 / 2)] + path, smooth, None),
        ("reinforce", [(1, 1)], smooth, 0.37),
    ):
        p = softmax(z, everything)
        mean = np.zeros(E)
        for D in range(E):
            for s, chance in coins:
                dw = np.array([[df(s * p[D] * experts[D]) @ experts[D]]])
                score = None if b is None else np.array([f(p[D] * experts[D]) - b])
                mean += p[D] * chance * gate_backward(
                    np.array([[D]]), p[None, None], dw, GATES[name][2], 1, score)[0]
        objective = lambda x: sum(q * f(q * e) for q, e in zip(softmax(x, everything), experts))
        close(f"{name} is exact as its order says", mean, central_difference(objective, z), 1e-8)
    f, df = polynomial(2)
    p = softmax(z, everything)
    mean = sum(p[D] * one_hot_backward(z, p, D, experts @ df(experts[D]), 1) for D in range(E))
    objective = lambda x: sum(q * f(e) for q, e in zip(softmax(x, everything), experts))
    close("reinmax is exact for quadratic f", mean, central_difference(objective, z), 1e-8)


def main():
    philox.self_check()
    check_exactness()
    w = kkref.Writer()
    rng = np.random.default_rng(20260101)
    sets = {
        "e4": make_set(rng, 9, 4, 12345, 0, 0),
        "e7": make_set(rng, 5, 7, 2**39 + 987654321, 2**31 + 5, 11),
        "degenerate": with_gradients(rng, dict(
            logits=np.array(list(degenerate_rows().values())), seed=99, step=12, layer=4,
            sequence_index=np.arange(25), position=np.arange(25) % 7)),
    }
    check_backwards(sets["e4"])
    for name, case in sets.items():
        for dtype, short in ((np.float64, "f8"), (np.float32, "f4")):
            least = write_case(w, f"{name}/{short}", case, dtype, name == "degenerate")
            print(f"    {name}/{short}: least margin {least:.1e}")
            assert least > 1e-5
    for name, (_, array) in w.records.items():
        assert name.endswith("/logits") or np.isfinite(array).all(), f"{name} is not finite"
    path = pathlib.Path(__file__).with_name("estimators.kkref")
    w.save(path)
    print(f"{path}: {len(w.records)} records, {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
