#!/usr/bin/env python3
# SPDX-FileCopyrightText: Kokomoe authors
# SPDX-License-Identifier: BSD-3-Clause
"""Cost of sharded experts by a latency-bandwidth model: against measurements, and extrapolated.

    mpirun -n 2 kokomoe bench exchange --mib 0.25,1,4,16 --d-hidden 2048 --json exchange.json
    scripts/exchange_model.py exchange.json

One exchange of B bytes a rank among P ranks costs alpha (P - 1) + B (P - 1) / P / beta when flat.
By node, with S ranks on each of N nodes: the same within a node, then between nodes, each with its
own alpha and beta, and one more pass through memory between the two. A layer's update is four exchanges (rows
there and back, gradients there and back) and the experts' arithmetic. docs/scaling.md says more.
"""

import argparse
import json


def flat(ranks, bytes_, alpha, beta, in_node, alpha_in, beta_in):
    """Every rank to every other; those of its own node over memory."""
    near, far = in_node - 1, ranks - in_node
    share = bytes_ / ranks
    return near * alpha_in + near * share / beta_in + far * alpha + far * share / beta


def by_node(ranks, bytes_, alpha, beta, in_node, alpha_in, beta_in, memory):
    nodes = ranks // in_node
    within = (in_node - 1) * alpha_in + bytes_ * (in_node - 1) / in_node / beta_in
    between = (nodes - 1) * alpha + bytes_ * (nodes - 1) / nodes / beta
    return within + bytes_ / memory + between


def compare(results, machine):
    print("Predicted against measured (this run's alpha, beta):")
    print(f"{'MiB/rank':>9} {'alone ms':>9} {'4 exchanges':>12} {'predicted':>10} {'measured':>9} {'ratio':>6}")
    for row in results:
        if "layer_sharded_ms" not in row:
            continue
        one = machine["alpha_us"] * 1e-3 + row["bytes_to_others"] / machine["beta_gbs"] * 1e-6
        predicted = row["layer_alone_ms"] + 4 * one
        print(f"{row['bytes'] / 2**20:9.3f} {row['layer_alone_ms']:9.2f} {4 * one:12.3f}"
              f" {predicted:10.2f} {row['layer_sharded_ms']:9.2f}"
              f" {row['layer_sharded_ms'] / predicted:6.2f}")


def extrapolate(o):
    rows = o.tokens * o.k
    bytes_ = rows * o.d_model * o.element
    seconds = 3 * 2 * 2 * rows * o.d_model * o.d_hidden / (o.gflops * 1e9)
    print(f"\nExtrapolated: {o.tokens} tokens a rank, k = {o.k}, d = {o.d_model}, h = {o.d_hidden}, "
          f"{o.gflops:.0f} GFLOP/s a rank -> {seconds * 1e3:.2f} ms of arithmetic;\n"
          f"{o.in_node} ranks a node; between nodes {o.alpha:g} us a message and {o.beta:g} GB/s a "
          f"rank; within {o.alpha_in:g} us and {o.beta_in:g} GB/s; memory {o.memory:g} GB/s")
    print(f"{'ranks':>6} {'message KiB':>12} {'flat ms':>9} {'by node ms':>11} {'layer flat':>11} "
          f"{'by node':>8} {'share of arithmetic':>20}")
    for ranks in o.ranks:
        near = (o.in_node, o.alpha_in * 1e-6, o.beta_in * 1e9)
        a = flat(ranks, bytes_, o.alpha * 1e-6, o.beta * 1e9, *near)
        b = by_node(ranks, bytes_, o.alpha * 1e-6, o.beta * 1e9, *near, o.memory * 1e9)
        best = min(a, b)
        print(f"{ranks:6d} {bytes_ / ranks / 1024:12.1f} {a * 1e3:9.3f} {b * 1e3:11.3f}"
              f" {(seconds + 4 * a) * 1e3:11.2f} {(seconds + 4 * b) * 1e3:8.2f}"
              f" {seconds / (seconds + 4 * best):20.2f}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("measured", nargs="?", help="JSON of kokomoe bench exchange")
    parser.add_argument("--ranks", type=int, nargs="+", default=[64, 1024, 16384])
    parser.add_argument("--in-node", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=8192)
    parser.add_argument("--k", type=int, default=2)
    parser.add_argument("--d-model", type=int, default=4096)
    parser.add_argument("--d-hidden", type=int, default=4096)
    parser.add_argument("--element", type=int, default=4, help="bytes of a number")
    parser.add_argument("--gflops", type=float, default=50000, help="of one rank")
    parser.add_argument("--alpha", type=float, default=2.0, help="us a message between nodes")
    parser.add_argument("--beta", type=float, default=25.0, help="GB/s a rank between nodes")
    parser.add_argument("--alpha-in", type=float, default=1.0)
    parser.add_argument("--beta-in", type=float, default=150.0)
    parser.add_argument("--memory", type=float, default=1000.0, help="GB/s of the extra pass")
    options = parser.parse_args()
    if options.measured:
        with open(options.measured) as file:
            measured = json.load(file)
        compare(measured["results"], measured["machine"])
    extrapolate(options)


if __name__ == "__main__":
    main()
