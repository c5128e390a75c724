# SPDX-FileCopyrightText: Kokomoe authors
# SPDX-License-Identifier: BSD-3-Clause
"""Writes routers.kkref: choices, weights and gradients of switch, sparsemixer, top_k and
dense_mixture, from their definitions, in numpy alone. README.md says what each record holds."""

import pathlib

import numpy as np

import kkref
import philox

INF = np.inf


# ---------------------------------------------------------------- definitions, one token at a time


def sanitize(z):
    """What a router makes of infinite logits before anything else."""
    top = z.max()
    if top == -INF:
        return np.zeros_like(z)
    if top == INF:
        return np.where(z == INF, z.dtype.type(0), z.dtype.type(-INF))
    return z.copy()


def first_largest(v):
    """argmax, the lowest index among equals."""
    return int(np.argmax(v))


def softmax(z, keep=None):
    keep = np.ones(z.shape, bool) if keep is None else keep
    e = np.where(keep, np.exp(z - z[keep].max()), z.dtype.type(0))
    return e / e.sum(dtype=z.dtype)


def softmax_backward(p, g):
    """dL/dz from dL/dp = g; entries with p = 0 (masked) get 0 and give nothing."""
    return p * (g - (p * g).sum(dtype=p.dtype))


def mask_ratio(z):
    """(m - z_i) / max(|z_i|, m) with IEEE arithmetic: 0/0 and inf/inf are NaN."""
    m = z.max()
    with np.errstate(invalid="ignore", divide="ignore"):
        return (m - z) / np.maximum(np.abs(z), m)


def kept_by_mask(z, eps):
    with np.errstate(invalid="ignore"):
        return ~(mask_ratio(z) > z.dtype.type(2 * eps))


def gap(v, absolute=True):
    """How far the largest of v is above the second, in units that rounding is measured in: absolute
    about numbers of order one, relative for larger ones. Equal numbers that no rounding can part
    (zeros, infinities, and those so large that the noise vanished in them) count as far apart."""
    if len(v) < 2:
        return INF
    second, top = np.sort(v.astype(np.float64))[-2:]
    if second == -INF:
        return INF
    if top == second and (top == 0 or abs(top) > 1e20):
        return INF
    size = max(abs(top), abs(second))
    return (top - second) / (max(1.0, size) if absolute else size)


# ---------------------------------------------------------------- routers: forward on (T, E)


class Draws:
    """The uniforms of a case's tokens."""

    def __init__(self, seed, step, layer, sequence, position, dtype):
        self.args, self.dtype = (seed, step), dtype
        self.layer, self.sequence, self.position = layer, sequence, position

    def __call__(self, purpose, draws):
        seed, step = self.args
        return philox.uniforms(
            seed, purpose, step, self.sequence, self.layer, self.position, draws, self.dtype
        )


def sparsemixer(z, draws, eps=0.1, train=True, sampling=True, exception=True):
    T, E = z.shape
    out = dict(
        expert=np.zeros((T, 1), np.int64),
        weight=np.zeros((T, 1), z.dtype),
        scale=np.ones(T, z.dtype),
        mask=np.zeros((T, E), np.int64),
        probability=np.zeros((T, E), z.dtype),
        margin=np.full(T, INF),
    )
    u = draws(philox.GUMBEL, range(E))
    coin = draws(philox.COIN, [0])[:, 0]
    for t in range(T):
        row = sanitize(z[t])
        keep = kept_by_mask(row, eps)
        p = softmax(row, keep)
        best = first_largest(row)
        ratio = mask_ratio(row).astype(np.float64)
        margin = np.min(np.abs(ratio[np.isfinite(ratio)] - 2 * eps), initial=INF)
        chosen, scale = best, 1.0
        if train:
            if sampling:
                noisy = np.where(keep, row - np.log(-np.log(u[t])), z.dtype.type(-INF))
                chosen = first_largest(noisy)
                margin = min(margin, gap(noisy))
            first = coin[t] > 0.5 or (exception and chosen == best)
            scale = 1.0 if first else 0.5
        out["expert"][t, 0] = chosen
        out["scale"][t] = scale
        out["weight"][t, 0] = p[chosen] * z.dtype.type(scale)
        out["mask"][t], out["probability"][t], out["margin"][t] = keep, p, margin
    return out


def sparsemixer_backward(out, dw, factor=2.0):
    dz = np.zeros_like(out["probability"])
    for t, p in enumerate(out["probability"]):
        g = np.zeros_like(p)
        g[out["expert"][t, 0]] = p.dtype.type(factor) * dw[t, 0]
        dz[t] = softmax_backward(p, g)
    return dz


def switch(z, draws, jitter=0.0):
    T, E = z.shape
    factor = np.ones_like(z)
    if jitter > 0:
        eps = z.dtype.type(jitter)
        u = draws(philox.JITTER, range(E))
        factor = z.dtype.type(1) - eps + z.dtype.type(2) * eps * u
    out = dict(
        expert=np.zeros((T, 1), np.int64),
        weight=np.zeros((T, 1), z.dtype),
        mask=np.ones((T, E), np.int64),
        probability=np.zeros((T, E), z.dtype),
        jitter=factor,
        margin=np.full(T, INF),
    )
    for t in range(T):
        row = sanitize(z[t]) * factor[t]
        p = softmax(row)
        chosen = first_largest(row)
        out["expert"][t, 0], out["weight"][t, 0], out["probability"][t] = chosen, p[chosen], p
        if jitter > 0:
            out["margin"][t] = gap(row, absolute=False)
    return out


def switch_backward(out, dw):
    return sparsemixer_backward(out, dw, factor=1.0) * out["jitter"]


def top_k(z, k, before):
    T, E = z.shape
    out = dict(
        expert=np.zeros((T, k), np.int64),
        weight=np.zeros((T, k), z.dtype),
        mask=np.ones((T, E), np.int64),
        probability=np.zeros((T, E), z.dtype),
        margin=np.full(T, INF),  # the logits decide as they are: nothing is rounded
    )
    for t in range(T):
        row = sanitize(z[t])
        chosen = np.argsort(-row, kind="stable")[:k]  # largest first, the lower index among equals
        p = softmax(row)
        out["expert"][t], out["probability"][t] = chosen, p
        out["weight"][t] = p[chosen] if before else softmax(row[chosen])
    return out


def top_k_backward(out, dw, before):
    dz = np.zeros_like(out["probability"])
    for t, p in enumerate(out["probability"]):
        chosen = out["expert"][t]
        if before:
            g = np.zeros_like(p)
            g[chosen] = dw[t]
            dz[t] = softmax_backward(p, g)
        else:
            dz[t, chosen] = softmax_backward(out["weight"][t], dw[t])
    return dz


def dense_mixture(z):
    p = np.array([softmax(sanitize(row)) for row in z], z.dtype)
    T, E = z.shape
    return dict(
        expert=np.tile(np.arange(E), (T, 1)),
        weight=p.copy(),
        mask=np.ones((T, E), np.int64),
        probability=p,
        margin=np.full(T, INF),
    )


def probability_backward(out, gP):
    """dL/dz from dL/dP of the probabilities that the balance loss uses."""
    dz = np.array([softmax_backward(p, g) for p, g in zip(out["probability"], gP)], gP.dtype)
    return dz * out.get("jitter", 1)


# ---------------------------------------------------------------- cases


def degenerate_rows():
    """Rows of four logits, each with a name."""
    i = INF
    return {
        "zeros": [0, 0, 0, 0],
        "all_equal_positive": [1.5, 1.5, 1.5, 1.5],
        "all_equal_negative": [-1.5, -1.5, -1.5, -1.5],
        "tie_of_two_best": [0.5, 2, 2, 1],
        "tie_of_two_worst": [1, 3, 1, 2.9],
        "tie_at_the_end": [0.25, 0.5, 1, 1],
        "all_negative_near": [-1.0, -1.1, -1.2, -1.3],
        "all_negative_far": [-0.5, -3, -0.55, -7],
        "mixed_sign": [0.01, -0.001, 0.009, -5],
        "best_is_zero": [0, -1, -1e-20, 0],
        "negative_zero": [-0.0, 0.0, -2, -0.0],
        "tiny": [1e-30, 2e-30, 1.9e-30, -1e-30],
        "tiny_negative": [-1e-30, -1.1e-30, -2e-30, -1.15e-30],
        "huge": [1e30, -1e30, 1, 0.9e30],
        "huge_equal": [1e30, 1e30, 1e30, 1e30],
        "huge_negative": [-1e30, -1e30, -1.1e30, -3e30],
        "huge_and_one": [-1e30, 1, 0.95, -1e30],
        "one_plus_inf": [1, i, -3, 1e30],
        "two_plus_inf": [1, i, -3, i],
        "plus_and_minus_inf": [-i, 2, i, i],
        "one_minus_inf": [-i, 1.0, 0.95, 0.9],
        "three_minus_inf": [-i, -i, -2, -i],
        "minus_inf_negative_rest": [-1.0, -i, -1.05, -1.1],
        "all_minus_inf": [-i, -i, -i, -i],
        "all_plus_inf": [i, i, i, i],
    }


def make_sets():
    rng = np.random.default_rng(20240229)

    def tokens(T):
        return dict(
            sequence_index=np.sort(rng.integers(0, 1000, T)), position=rng.integers(0, 5000, T)
        )

    def near(T, E):
        """Rows with several logits within the mask: one level, positive or negative, plus noise."""
        return rng.choice([-1.0, 1.0], (T, 1)) * (1 + 0.12 * rng.standard_normal((T, E)))

    sets = {
        "random_e4": dict(
            logits=np.concatenate([rng.standard_normal((12, 4)), near(28, 4)]),
            seed=12345, step=0, layer=0, **tokens(40),
        ),
        "random_e3": dict(logits=near(16, 3), seed=1, step=77, layer=1, **tokens(16)),
        "random_e16": dict(
            logits=np.concatenate([2 * rng.standard_normal((4, 16)), near(8, 16)]),
            seed=2**39 + 987654321, step=2**31 + 5, layer=11, **tokens(12),
        ),
        "random_e1": dict(
            logits=np.array([[0.7], [-2.0], [0.0], [1e30], [-1e30], [INF], [-INF]]),
            seed=7, step=3, layer=2, **tokens(7),
        ),
        "degenerate_e4": dict(
            logits=np.array(list(degenerate_rows().values())),
            seed=99, step=12, layer=4, **tokens(len(degenerate_rows())),
        ),
        # Equal tokens apart from their place: frequencies, the same for every dtype.
        "one_token": dict(logits=near(1, 4), seed=5, step=1, layer=0, **tokens(1)),
    }
    # The largest index that each field holds.
    sets["one_token"]["sequence_index"][:] = 2**32 - 1
    sets["one_token"]["position"][:] = 2**24 - 1
    for case in sets.values():
        T, E = case["logits"].shape
        case["dP"] = rng.standard_normal((T, E))
        case["dweight"] = {k: rng.standard_normal((T, k)) for k in sorted({1, 2, E}) if k <= E}
    return sets


def write_case(w, prefix, case, dtype):
    z = case["logits"].astype(dtype)
    T, E = z.shape
    dP = case["dP"].astype(dtype)
    dw = {k: v.astype(dtype) for k, v in case["dweight"].items()}
    draws = Draws(
        case["seed"], case["step"], case["layer"], case["sequence_index"], case["position"], dtype
    )

    w.put(f"{prefix}/logits", z)
    w.put(f"{prefix}/sequence_index", case["sequence_index"], "i8")
    w.put(f"{prefix}/position", case["position"], "i4")
    for name in ("seed", "step", "layer"):
        w.put(f"{prefix}/{name}", case[name], "i8")
    w.put(f"{prefix}/dP", dP)
    w.put(f"{prefix}/uniform_gumbel", draws(philox.GUMBEL, range(E)))
    w.put(f"{prefix}/uniform_coin", draws(philox.COIN, [0])[:, 0])
    w.put(f"{prefix}/uniform_jitter", draws(philox.JITTER, range(E)))

    def put(variant, out, dz=None, k=1):
        for name, value in out.items():
            w.put(f"{prefix}/{variant}/{name}", value, "f8" if name == "margin" else None)
        if dz is not None:
            w.put(f"{prefix}/{variant}/dweight", dw[k])
            w.put(f"{prefix}/{variant}/dlogits", dz)
            w.put(f"{prefix}/{variant}/dlogits_from_dP", probability_backward(out, dP))

    for variant, options, factor in [
        ("sparsemixer_train", {}, 2.0),
        ("sparsemixer_no_exception", dict(exception=False), 2.0),
        ("sparsemixer_grad_factor_1", {}, 1.0),
        ("sparsemixer_no_sampling", dict(sampling=False), 2.0),
        ("sparsemixer_no_sampling_no_exception", dict(sampling=False, exception=False), 2.0),
        ("sparsemixer_mask_eps_0.01", dict(eps=0.01), 2.0),
        ("sparsemixer_mask_eps_0.3", dict(eps=0.3), 2.0),
    ]:
        out = sparsemixer(z, draws, **options)
        put(variant, out, sparsemixer_backward(out, dw[1], factor))
    put("sparsemixer_eval", sparsemixer(z, draws, train=False))
    for variant, jitter in (("switch_train", 0.1), ("switch_eval", 0.0)):
        out = switch(z, draws, jitter)
        put(variant, out, switch_backward(out, dw[1]))
    for k in sorted(dw):
        for before in (True, False):
            out = top_k(z, k, before)
            put(
                f"top_k_{k}_{'before' if before else 'after'}",
                out, top_k_backward(out, dw[k], before), k,
            )
    out = dense_mixture(z)
    put("dense_mixture", out, top_k_backward(out, dw[E], True), E)


# ---------------------------------------------------------------- truth checks


def central_difference(f, z, h=1e-6):
    g = np.zeros_like(z)
    for index in np.ndindex(z.shape):
        up, down = z.copy(), z.copy()
        up[index] += h
        down[index] -= h
        g[index] = (f(up) - f(down)) / (2 * h)
    return g


def close(name, a, b, tolerance):
    error = np.max(np.abs(a - b), initial=0)
    assert error <= tolerance, f"{name}: {error:.3e} > {tolerance:.0e}"
    print(f"OK  {name}: {error:.1e}")


def check_backwards(case):
    """Gradients of sum dw w (and of sum dP P) with choices, coins and masks held."""
    z = case["logits"]
    T, E = z.shape
    draws = Draws(
        case["seed"], case["step"], case["layer"], case["sequence_index"], case["position"],
        np.float64,
    )
    dP, dw = case["dP"], case["dweight"]
    here = f"T {T}, E {E}"
    rows = np.arange(T)[:, None]

    def held_softmax(x, mask):
        e = np.exp(x) * mask
        return e / e.sum(1, keepdims=True)

    out = sparsemixer(z, draws)
    picked = lambda x: held_softmax(x, out["mask"])[rows, out["expert"]]
    close(
        f"sparsemixer: factor 2 on dp, whatever the coin ({here})",
        sparsemixer_backward(out, dw[1]),
        central_difference(lambda x: (2 * dw[1] * picked(x)).sum(), z), 1e-8,
    )
    close(
        f"sparsemixer: dP through the kept set ({here})",
        probability_backward(out, dP),
        central_difference(lambda x: (dP * held_softmax(x, out["mask"])).sum(), z), 1e-8,
    )
    out = switch(z, draws, 0.1)
    close(
        f"switch with jitter ({here})",
        switch_backward(out, dw[1]),
        central_difference(lambda x: (dw[1] * switch(x, draws, 0.1)["weight"]).sum(), z), 1e-8,
    )
    close(
        f"switch with jitter: dP ({here})",
        probability_backward(out, dP),
        central_difference(lambda x: (dP * switch(x, draws, 0.1)["probability"]).sum(), z), 1e-8,
    )
    for k in dw:
        for before in (True, False):
            close(
                f"top_k {k}, softmax {'before' if before else 'after'} ({here})",
                top_k_backward(top_k(z, k, before), dw[k], before),
                central_difference(lambda x: (dw[k] * top_k(x, k, before)["weight"]).sum(), z),
                1e-8,
            )
    close(
        f"dense_mixture ({here})",
        top_k_backward(dense_mixture(z), dw[E], True),
        central_difference(lambda x: (dw[E] * dense_mixture(x)["weight"]).sum(), z), 1e-8,
    )


def check_midpoint_is_exact_for_quadratics():
    """Without the exception, the mean over choice and coin of the estimator is the exact gradient
    of sum_i p_i f_i(p_i) when f_i(w) = a_i w + b_i w^2: the midpoint rule. Fixes the factor 2."""
    rng = np.random.default_rng(3)
    E = 5
    z, a, b = rng.standard_normal((3, E))
    p = softmax(z)
    mean = np.zeros(E)
    for chosen in range(E):
        for scale in (1.0, 0.5):
            dw = a[chosen] + 2 * b[chosen] * scale * p[chosen]
            out = dict(expert=np.array([[chosen]]), probability=p[None])
            mean += 0.5 * p[chosen] * sparsemixer_backward(out, np.array([[dw]]))[0]
    objective = lambda x: (softmax(x) * (a * softmax(x) + b * softmax(x) ** 2)).sum()
    close("midpoint is exact for quadratic f", mean, central_difference(objective, z), 1e-8)


def check_frequencies():
    """Gumbel-max draws the masked softmax; the coin is fair and independent of the choice."""
    T = 4096
    row = np.array([1.0, 0.93, 0.3, 0.85])
    for dtype in (np.float64, np.float32):
        z = np.tile(row, (T, 1)).astype(dtype)
        draws = Draws(2024, 9, 3, np.arange(T) // 64, np.arange(T) % 64, dtype)
        out = sparsemixer(z, draws, exception=False)
        count = np.bincount(out["expert"][:, 0], minlength=4)
        p = out["probability"][0]
        assert p[2] == 0 and count[2] == 0
        expected = T * p[p > 0]
        chi2 = ((count[p > 0] - expected) ** 2 / expected).sum()
        assert chi2 < 13.8, chi2  # 2 degrees of freedom: 0.1 %
        half = (out["scale"] == 0.5).mean()
        assert abs(half - 0.5) < 4 * 0.5 / T**0.5
        print(f"OK  frequencies in {np.dtype(dtype).name}: chi2(2) {chi2:.2f}, coin {half:.4f}")


def main():
    philox.self_check()
    print("OK  Philox4x32-10 gives Random123's known answers")
    sets = make_sets()
    for name in ("random_e4", "random_e3", "random_e16"):
        check_backwards(sets[name])
    check_midpoint_is_exact_for_quadratics()
    check_frequencies()

    w = kkref.Writer()
    for i, (counter, key, result) in enumerate(philox.KNOWN):
        w.put(f"philox/{i}/counter", counter, "i8")
        w.put(f"philox/{i}/key", key, "i8")
        w.put(f"philox/{i}/words", result, "i8")
    for name, case in sets.items():
        for dtype, short in ((np.float64, "f8"), (np.float32, "f4")):
            write_case(w, f"{name}/{short}", case, dtype)

    for name, (_, array) in w.records.items():
        ok = not np.isnan(array).any() and (
            np.isfinite(array).all() or name.endswith(("/logits", "/margin"))
        )
        assert ok, f"{name} is not finite"
    for name, (_, margin) in w.records.items():
        if name.endswith("/margin") and (margin < 1e-5).any():
            print(f"    {name}: margin under 1e-5 at tokens {np.flatnonzero(margin < 1e-5)}")
    for name in ("random_e4", "random_e3", "random_e16"):
        for short in ("f8", "f4"):
            get = lambda x: w.records[f"{name}/{short}/sparsemixer_train/{x}"][1]
            print(
                f"    {name}/{short}: kept per token {get('mask').sum(1).mean():.2f},"
                f" half weights {int((get('scale') == 0.5).sum())},"
                f" least margin {get('margin').min():.1e}"
            )
    path = pathlib.Path(__file__).with_name("routers.kkref")
    w.save(path)
    print(f"{path}: {len(w.records)} records, {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
