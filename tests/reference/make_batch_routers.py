# SPDX-FileCopyrightText: Kokomoe authors
# SPDX-License-Identifier: BSD-3-Clause
"""Writes batch_routers.kkref: choices, weights and gradients of the routers that look at a group of
tokens (gshard, base, s_base, expert_choice, quantile_balance), what a capacity drops, and the
load-balance loss by scope, from their definitions, in numpy and scipy. README.md says what each
record holds. All in float64 from logits that are float32 numbers, choices clear of rounding."""

import math
import pathlib

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.special import expit, logsumexp, softmax

import kkref
import philox

SECOND_CHOICE = 9
MARGIN = 1e-5  # how clear of another choice every choice is, in units of what is compared


# ---------------------------------------------------------------- groups


def ranges(lengths, size):
    """(begin, end) of the groups: the sequences, or runs of `size` tokens."""
    if size == 0:
        ends = np.cumsum(lengths)
        return [(int(e - n), int(e)) for n, e in zip(lengths, ends)]
    total = int(np.sum(lengths))
    return [(b, min(b + size, total)) for b in range(0, total, size)]


def capacity(n, E, k, factor):
    return min(max(math.ceil(n * k * factor / E), 1), n)


# ---------------------------------------------------------------- routers


def top(scores, k, margins):
    """The k best of each row; `margins` gets their least distance from each other and the next."""
    order = np.argsort(-scores, axis=1, kind="stable")
    ordered = np.take_along_axis(scores, order, axis=1)
    if scores.shape[1] > 1:
        gaps = ordered[:, : min(k, scores.shape[1] - 1)] - ordered[:, 1 : k + 1]
        margins.append(gaps.min(initial=np.inf))
    return order[:, :k]


def gather(matrix, chosen):
    return np.take_along_axis(matrix, chosen, axis=1)


def gshard(z, u):
    """u: None where the second always runs."""
    margins = []
    p = softmax(z, axis=1)
    chosen = top(z, 2, margins)
    pair = gather(p, chosen)
    weight = pair / pair.sum(1, keepdims=True)
    dropped = np.zeros(chosen.shape, int)
    if u is not None:
        dropped[:, 1] = u >= 2 * weight[:, 1]
        margins.append(np.abs(u - 2 * weight[:, 1]).min(initial=np.inf))
    return dict(expert=chosen, weight=weight, dropped=dropped, probability=p), min(margins)


def balanced_optimum(z):
    """Largest sum of z with floor or ceil of n / E tokens for each expert: tokens and idle bidders
    against copies of experts, the idle ones for the spare copies alone."""
    n, E = z.shape
    floor, rest = divmod(n, E)
    required = np.repeat(z, floor, axis=1)
    spare = z if rest else np.zeros((n, 0))
    idle = E - rest if rest else 0
    value = np.vstack([
        np.hstack([required, spare]),
        np.hstack([np.full((idle, E * floor), -1e6), np.zeros((idle, spare.shape[1]))]),
    ])
    rows, columns = linear_sum_assignment(value, maximize=True)
    assert value[rows, columns].min() > -1e5
    return value[rows, columns].sum()


def sinkhorn_scores(z, tolerance):
    """z + the logarithm of the experts' scales, by logarithms."""
    column = np.zeros(z.shape[1])
    for _ in range(100000):
        row = -logsumexp(z + column, axis=1, keepdims=True)
        share = logsumexp(z + column + row, axis=0)
        even = math.log(len(z) / z.shape[1])
        if np.abs(np.expm1(share - even)).max() <= tolerance:
            break
        column = column - (share - even)
    return z + column


def s_base(z, k, groups, train):
    margins = []
    score = z.copy()
    for b, e in groups if train else []:
        if e - b < 2:
            continue  # one token alone would have equal shares of all experts
        score[b:e] = sinkhorn_scores(z[b:e], 1e-4)
        exact = sinkhorn_scores(z[b:e], 1e-10)
        if (top(exact, k, []) != top(score[b:e], k, [])).any():
            margins.append(0)
    chosen = top(score, k, margins)
    z_chosen = gather(z, chosen)
    return chosen, expit(z_chosen), softmax(z_chosen, axis=1), min(margins, default=np.inf)


def expert_choice(z, groups, factor):
    s = softmax(z, axis=1)
    chosen = np.zeros(z.shape, int)
    margin = np.inf
    for b, e in groups:
        c = capacity(e - b, z.shape[1], 1, factor)
        for i in range(z.shape[1]):
            order = np.argsort(-s[b:e, i], kind="stable")
            chosen[b + order[:c], i] = 1
            if c < e - b and z.shape[1] > 1:  # one expert: equal by definition, not by rounding
                margin = min(margin, s[b + order[c - 1], i] - s[b + order[c], i])
    return s, chosen, margin


def quantile_balance(s, k, groups, iterations):
    margins = []
    E = s.shape[1]
    score = s.copy()
    for b, e in groups:
        n, part = e - b, s[b:e]
        m = math.ceil(n * k / E)
        if m + 1 > n:
            continue
        beta = np.zeros(E)
        for _ in range(iterations):
            alpha = np.sort(part - beta, axis=1)[:, -(k + 1)]
            beta = np.sort(part - alpha[:, None], axis=0)[-(m + 1) : n - m + 1].mean(0)
        score[b:e] = part - beta
    return top(score, k, margins), min(margins, default=np.inf)


# ---------------------------------------------------------------- backwards


def softmax_jacobian(p, g):
    return p * (g - (p * g).sum(1, keepdims=True))


def scatter(shape, chosen, values):
    out = np.zeros(shape)
    np.add.at(out, (np.arange(shape[0])[:, None], chosen), values)
    return out


def central(f, z, h=1e-6):
    g = np.zeros_like(z)
    for index in np.ndindex(z.shape):
        up, down = z.copy(), z.copy()
        up[index] += h
        down[index] -= h
        g[index] = (f(up) - f(down)) / (2 * h)
    return g


def checked(name, analytic, f, z):
    if z.size <= 120 and checked.on:
        error = np.abs(analytic - central(f, z)).max(initial=0)
        assert error < 1e-7, (name, error)
    return analytic


checked.on = False


# ---------------------------------------------------------------- capacity


def dropped_by_capacity(expert, weight, before, groups, E, factor, by_probability):
    """Places are given in the order of a sorted list of claims."""
    T, k = expert.shape
    dropped = np.ones((T, k), int)
    for b, e in groups:
        room = np.full(E, capacity(e - b, E, k, factor))
        claims = [(r, t) for r in range(k) for t in range(b, e)
                  if expert[t, r] < E and not before[t, r]]
        if by_probability:
            claims.sort(key=lambda claim: -weight[claim[1], claim[0]])  # stable
        for r, t in claims:
            if room[expert[t, r]] > 0:
                room[expert[t, r]] -= 1
                dropped[t, r] = 0
    return dropped


# ---------------------------------------------------------------- writing


CASES = {  # lengths, routing_group, E
    "sequences": ([7, 1, 12, 4], 0, 4),
    "runs": ([7, 1, 12, 4], 8, 4),
    "few_tokens": ([9, 3, 1, 6], 0, 5),
    "two_experts": ([5, 2], 0, 2),
    "one_expert": ([3, 1], 0, 1),
    "one_token": ([1], 0, 3),
    "larger": ([24, 12], 0, 8),
}
ITERATIONS = 8


def make_case(name, lengths, size, E, seed):
    """A case of clear choices, or None."""
    rng = np.random.default_rng(seed)
    T = sum(lengths)
    # Expert 0 is liked by all: balancing has something to do.
    z = (rng.standard_normal((T, E)) + 1.5 * (np.arange(E) == 0)).astype(np.float32)
    z = z.astype(np.float64)
    groups = ranges(lengths, size)
    index = np.concatenate([np.full(n, 7 * b + 3) for b, n in enumerate(lengths)])
    position = np.concatenate([np.arange(n) for n in lengths])
    records = dict(
        logits=z, lengths=np.array(lengths), routing_group=size, dP=rng.standard_normal((T, E))
    )
    ks = sorted({1, min(2, E), E if E < 8 else 1})
    dw = {k: rng.standard_normal((T, k)) for k in ks}
    for k in ks:
        records[f"dweight_{k}"] = dw[k]
    dw_all = records["dweight_all"] = rng.standard_normal((T, E))
    margins = []
    rows = np.arange(T)[:, None]

    def put(variant, **values):
        for key, value in values.items():
            records[f"{variant}/{key}"] = value

    if E >= 2:
        u = philox.uniforms(4711, SECOND_CHOICE, 3, index, 2, position, [0], np.float64)[:, 0]
        for variant, draw in (("gshard_train", u), ("gshard_eval", None)):
            out, margin = gshard(z, draw)
            margins.append(margin)
            kept = dw[2] * (1 - out["dropped"])

            def loss(x):
                pair = softmax(x, axis=1)[rows, out["expert"]]
                return (kept * pair / pair.sum(1, keepdims=True)).sum()

            w = out["weight"]
            dz = scatter(z.shape, out["expert"], w * (kept - (w * kept).sum(1, keepdims=True)))
            put(variant, **out, dlogits=checked(variant, dz, loss, z),
                dlogits_from_dP=softmax_jacobian(out["probability"], records["dP"]))

    put("base_train", objective=np.array([balanced_optimum(z[b:e]) for b, e in groups]),
        spread=np.array([np.ptp(z[b:e], axis=1).max() for b, e in groups]),
        sigmoid=expit(z), slope=expit(z) * expit(-z))
    best = top(z, 1, margins)
    put("base_eval", expert=best, weight=expit(gather(z, best)),
        dlogits=scatter(z.shape, best, dw[1] * gather(expit(z) * expit(-z), best)))

    for k in ks:
        for train in (True, False):
            variant = f"s_base_{k}_{'train' if train else 'eval'}"
            chosen, sigmoid, after, margin = s_base(z, k, groups, train)
            margins.append(margin)
            p = softmax(z, axis=1)
            put(variant, expert=chosen)
            if k == 1:
                put(variant, weight=sigmoid,
                    dlogits=scatter(z.shape, chosen, dw[1] * sigmoid * (1 - sigmoid)))
                continue
            inner = (after * dw[k]).sum(1, keepdims=True)
            dz = scatter(z.shape, chosen, after * (dw[k] - inner))
            put(variant, weight=after, dlogits=checked(
                variant, dz, lambda x: (dw[k] * softmax(x[rows, chosen], axis=1)).sum(), z))
            dz = softmax_jacobian(p, scatter(z.shape, chosen, dw[k]))
            put(f"{variant}_before", expert=chosen, weight=gather(p, chosen), dlogits=checked(
                variant, dz, lambda x: (dw[k] * softmax(x, axis=1)[rows, chosen]).sum(), z))

    for factor in (0.0, 0.6, 1.0):
        variant = f"expert_choice_{factor}"
        s, chosen, margin = expert_choice(z, groups, factor or 2.0)
        margins.append(margin)
        g = chosen * dw_all
        put(variant, chosen=chosen, weight=s * chosen, probability=s, dlogits=checked(
            variant, softmax_jacobian(s, g), lambda x: (g * softmax(x, axis=1)).sum(), z))

    for score, function in (("sigmoid", expit), ("softmax", lambda x: softmax(x, axis=1))):
        s = function(z)
        for k in ks:
            variant = f"quantile_balance_{k}_{score}"
            chosen, margin = quantile_balance(s, k, groups, ITERATIONS)
            margins.append(margin)
            held = gather(s, chosen)

            def weights(x):
                part = function(x)[rows, chosen]
                return part if k == 1 else part / part.sum(1, keepdims=True)

            # ds first, then the score's own Jacobian.
            total = held.sum(1, keepdims=True)
            ds = dw[k] if k == 1 else (
                dw[k] / total - (dw[k] * held).sum(1, keepdims=True) / total**2)
            ds = scatter(z.shape, chosen, ds)
            dz = ds * s * (1 - s) if score == "sigmoid" else softmax_jacobian(s, ds)
            put(variant, expert=chosen, weight=weights(z), dlogits=checked(
                variant, dz, lambda x: (dw[k] * weights(x)).sum(), z))
            load = [np.bincount(chosen[b:e].ravel(), minlength=E).max() for b, e in groups]
            even = [math.ceil((e - b) * k / E) for b, e in groups]
            put(variant, largest_load=np.array(load), even_load=np.array(even))

    # Load balance of top-2 choices by scope: alpha 3, of a whole update of T + 16 tokens.
    k = min(2, E)
    chosen = top(z, k, margins)
    p = softmax(z, axis=1)
    value, gradient = 0.0, np.zeros_like(z)
    for b, e in ranges(lengths, 0):
        f = np.bincount(chosen[b:e].ravel(), minlength=E) / ((e - b) * k)
        value += (e - b) * 3 * E * (f * p[b:e].mean(0)).sum()
        gradient[b:e] = 3 * E * f / (T + 16)
    put("balance_sequence", value=value, gradient=gradient)
    f = np.bincount(chosen.ravel(), minlength=E) / (T * k)
    put("balance_micro_batch", value=T * 3 * E * (f * p.mean(0)).sum(),
        gradient=np.tile(3 * E * f / (T + 16), (T, 1)))
    return records if min(margins) > MARGIN else None


def capacity_cases():
    rng = np.random.default_rng(5)
    for i, (lengths, size, E, k, factor, unused) in enumerate([
        ([7, 1, 12, 4], 0, 4, 1, 1.0, 0), ([7, 1, 12, 4], 8, 4, 2, 1.0, 0.2),
        ([7, 1, 12, 4], 0, 4, 2, 0.5, 0), ([30], 0, 3, 3, 0.7, 0.1),
        ([16, 16], 16, 6, 2, 1.25, 0), ([5, 5], 0, 8, 2, 0.1, 0), ([9], 0, 2, 2, 100.0, 0.3),
    ]):
        T = sum(lengths)
        expert = np.array([rng.permutation(E)[:k] for _ in range(T)])
        expert[rng.random((T, k)) < 0.3] = 0  # a favourite, twice for some tokens
        expert[rng.random((T, k)) < unused / 2] = E
        before = (rng.random((T, k)) < unused).astype(int)
        weight = rng.integers(0, 5, (T, k)) / 4.0  # with ties
        groups = ranges(lengths, size)
        record = dict(lengths=np.array(lengths), routing_group=size, experts=E, factor=factor,
                      expert=expert, before=before, weight=weight)
        for rule in ("position", "probability"):
            record[rule] = dropped_by_capacity(
                expert, weight, before, groups, E, factor, rule == "probability")
        yield i, record


def assignments():
    """Larger groups for the auction: even, uneven and one-sided preferences."""
    rng = np.random.default_rng(8)
    for i, (lengths, E, favour) in enumerate(
        [([128], 8, 0), ([131, 62], 8, 1), ([100], 6, 5), ([40], 64, 0), ([96], 2, 0.3)]
    ):
        z = rng.standard_normal((sum(lengths), E)) + favour * (np.arange(E) == 0)
        z = z.astype(np.float32)
        yield i, dict(
            logits=z, lengths=np.array(lengths),
            objective=np.array([
                balanced_optimum(z[b:e].astype(np.float64)) for b, e in ranges(lengths, 0)]),
            spread=np.array([np.ptp(z[b:e].astype(np.float64), axis=1).max()
                             for b, e in ranges(lengths, 0)]),
        )


def main():
    philox.self_check()
    w = kkref.Writer()
    for name, (lengths, size, E) in CASES.items():
        records, seed = None, 0
        while records is None:
            seed += 1
            assert seed < 3000, name
            records = make_case(name, lengths, size, E, 1000 * len(name) + seed)
        checked.on = True  # after the search, which it would slow down
        make_case(name, lengths, size, E, 1000 * len(name) + seed)
        checked.on = False
        for key, value in records.items():
            w.put(f"{name}/{key}", value)
        loads = [(r, records[r.replace("largest", "even")]) for r in records if "largest" in r]
        worst = max((records[r] - even).max() for r, even in loads)
        print(f"{name}: try {seed}, quantile loads at most {worst} over even")
    for i, record in assignments():
        for key, value in record.items():
            w.put(f"assignment/{i}/{key}", value)
    for i, record in capacity_cases():
        for key, value in record.items():
            w.put(f"capacity/{i}/{key}", value)
    path = pathlib.Path(__file__).with_name("batch_routers.kkref")
    w.save(path)
    print(f"{path}: {len(w.records)} records, {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
