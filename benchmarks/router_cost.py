#!/usr/bin/env python3
# SPDX-FileCopyrightText: Kokomoe authors
# SPDX-License-Identifier: BSD-3-Clause

"""What a router costs against the number of experts: time, share of its layer, operations, bytes.

    router_cost.py [--json FILE] [--picture FILE.svg]   measures; prints a table in Markdown
    router_cost.py --from FILE [--picture FILE.svg]     the same from a file written before

Runs `kokomoe bench layer` once for each number of experts, with all routers interleaved. 256
experts of the default size take 9 GB. The picture needs matplotlib.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent

# For one token and one expert, forward and backward, beside the three products with W: what the
# kernels in src/moe/routers and src/moe/auxiliary_loss.cpp do, counted by hand. Arithmetic includes
# comparisons. Both: the largest logit 1, the softmax 3 and an exponential, its Jacobian 8, the
# balance loss 2.
COUNTED = {
    # Jitter multiplies, by 1 too.
    "switch": {"arithmetic": 1 + 1 + 3 + 8 + 2, "exp_log": 1, "integer": 0},
    # The softmax has a temperature; the mask 5; for each expert that it keeps (here: all), the
    # Gumbel draw 6 and two logarithms, of a quarter of a Philox block: ten rounds of two
    # multiplications, four exclusive ors and two additions.
    "sparsemixer": {"arithmetic": 1 + 4 + 8 + 2 + 5 + 6, "exp_log": 3, "integer": 20},
}


def measure(options):
    environment = dict(os.environ, OMP_NUM_THREADS=str(options.threads), OMP_PROC_BIND="spread",
                       OMP_PLACES="cores")
    results, machine = [], {}
    for experts in options.experts.split(","):
        command = [options.program, "bench", "layer", "--experts", experts,
                   "--router", ",".join(COUNTED), "--tokens", options.tokens,
                   "--d-model", options.d_model, "--d-hidden", options.d_hidden,
                   "--repeats", options.repeats, "--router-repeats", options.router_repeats,
                   "--json", "-"]
        done = subprocess.run([str(part) for part in command], env=environment,
                              capture_output=True, text=True)
        if done.returncode != 0:
            sys.exit(done.stderr)
        measured = json.loads(done.stdout)
        results += [row for row in measured["results"] if row["router"] != "dense"]
        machine = measured["machine"]
        print(f"{experts} experts done", file=sys.stderr)
    return {"results": results, "machine": machine}


def with_figures(row):
    counted = COUNTED[row["router"]]
    pairs = row["tokens"] * row["experts"]
    return dict(row, share=row["router_ms"] / row["both_ms"],
                arithmetic=row["router_product_flops"] + pairs * counted["arithmetic"],
                exp_log=pairs * counted["exp_log"], integer=pairs * counted["integer"],
                kept=row["router_saved_bytes"] / row["tokens"])


def table(rows):
    head = rows[0]
    print(f"T = {head['tokens']}, d = {head['d_model']}, h = {head['d_hidden']}, {head['dtype']}; "
          "forward and backward\n")
    print("| E | router | least ms | median ms | layer ms | share of layer | MFLOP of products | "
          "all MFLOP | exp, log (M) | integer (M) | bytes kept a token |")
    print("| ---: | --- " + "| ---: " * 9 + "|")
    for row in rows:
        print(f"| {row['experts']} | {row['router']} | {row['router_ms_least']:.3f} | "
              f"{row['router_ms']:.3f} | {row['both_ms']:.2f} | {100 * row['share']:.2f} % | "
              f"{row['router_product_flops'] * 1e-6:.1f} | {row['arithmetic'] * 1e-6:.1f} | "
              f"{row['exp_log'] * 1e-6:.2f} | {row['integer'] * 1e-6:.2f} | {row['kept']:.0f} |")


def draw(rows, path):
    try:
        import matplotlib
    except ImportError:
        sys.exit("error: no matplotlib for --picture: install it, for example in a virtual "
                 "environment")
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure = plt.figure(layout="constrained", figsize=(9, 3.6))
    time, share = figure.subplots(1, 2)
    for router, marker in zip(COUNTED, "os"):
        chosen = [row for row in rows if row["router"] == router]
        experts = [row["experts"] for row in chosen]
        time.plot(experts, [row["router_ms_least"] for row in chosen], marker=marker, label=router)
        share.plot(experts, [100 * row["share"] for row in chosen], marker=marker, label=router)
    time.set_ylabel("router alone, least ms")
    share.set_ylabel("share of the layer, % of its median")
    for axis in (time, share):
        axis.set_xscale("log", base=2)
        axis.set_xlabel("experts")
        axis.set_ylim(bottom=0)
        axis.legend(fontsize=8)
    figure.savefig(path)


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", default=str(HERE.parent / "build/openmp/bin/kokomoe"))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--experts", default="2,4,8,16,32,64,128,256")
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--d-model", type=int, default=512)
    parser.add_argument("--d-hidden", type=int, default=2048)
    parser.add_argument("--repeats", type=int, default=7, help="of the whole layer")
    parser.add_argument("--router-repeats", type=int, default=50)
    parser.add_argument("--json", help="write what was measured")
    parser.add_argument("--from", dest="source", help="read what was measured")
    parser.add_argument("--picture", help="PNG or SVG")
    options = parser.parse_args()
    if options.source:
        try:
            with open(options.source, encoding="utf-8") as file:
                measured = json.load(file)
        except (OSError, ValueError) as error:
            sys.exit(f"{options.source}: {error}")
    else:
        measured = measure(options)
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump(measured, file, indent=1)
    rows = [with_figures(row) for row in measured["results"]]
    table(rows)
    if options.picture:
        draw(rows, options.picture)


if __name__ == "__main__":
    main()
