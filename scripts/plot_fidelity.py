#!/usr/bin/env python3
# SPDX-FileCopyrightText: Kokomoe authors
# SPDX-License-Identifier: BSD-3-Clause

"""Draws what `kokomoe fidelity --json` wrote: plot_fidelity.py RESULTS.json PICTURE.(png|svg).

Orders become bars of the error and of what is left after the best scalar; spread becomes bias against
variance; measurements in training become errors over the steps. Needs matplotlib alone.
"""

import argparse
import json
import sys

try:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
except ImportError:
    sys.exit("error: no matplotlib: install it, for example in a virtual environment")


def name(row):
    text = row["estimator"] + (" + exception" if row["argmax_exception"] else "")
    return text + (f", k = {row['k']}" if row["k"] > 1 else "")


def draw_orders(rows, figure):
    layouts = sorted({row["layout"] for row in rows}, key=["one", "tokens", "layers"].index)
    titles = {"one": "one site", "tokens": "two tokens", "layers": "two layers"}
    axes = figure.subplots(1, len(layouts), sharey=True, squeeze=False)[0]
    floor = 1e-9
    for axis, layout in zip(axes, layouts):
        chosen = [row for row in rows if row["layout"] == layout][::-1]
        places = range(len(chosen))
        error = [max(row["relative_error"], floor) for row in chosen]
        scaled = [max(row["scaled_error"], floor) for row in chosen]
        axis.barh([p + 0.2 for p in places], error, 0.4, left=0, label="relative error")
        axis.barh([p - 0.2 for p in places], scaled, 0.4, label="after the best scalar")
        for place, row, width in zip(places, chosen, error):
            order = "exact" if row["order"] is None else f"{abs(row['order']):.1f}"
            axis.text(width * 1.3, place + 0.2, order, va="center", fontsize=7)
        axis.set_yticks(list(places), [name(row) for row in chosen], fontsize=8)
        axis.set_xscale("log")
        axis.set_xlim(floor / 2, 10)
        axis.set_title(f"{titles[layout]} (number: order)", fontsize=9)
        axis.set_xlabel(f"error at expert outputs of size {chosen[0]['scale']:g}")
    figure.legend(*axes[0].get_legend_handles_labels(), fontsize=8, loc="outside upper center", ncols=2)
    figure.set_size_inches(4 + 4 * len(layouts), 1.5 + 0.28 * max(1, len(rows) / len(layouts)))


def draw_spread(rows, figure):
    axis = figure.subplots()
    markers = "osD^v<>P*X"
    sizes = sorted({row["scale"] for row in rows})
    names = sorted({name(row) for row in rows})
    for i, label in enumerate(names):
        chosen = [row for row in rows if name(row) == label]
        axis.plot(
            [max(row["bias"], 1e-6) for row in chosen],
            [row["variance"] for row in chosen],
            marker=markers[i % len(markers)],
            color=plt.get_cmap("tab20")(i % 20),
            label=label,
        )
    axis.set_xscale("log")
    axis.set_yscale("log")
    axis.set_xlabel("bias, relative to the exact gradient (left edge: none)")
    axis.set_ylabel("variance of one draw, relative")
    axis.set_title("expert outputs of size " + ", ".join(f"{size:g}" for size in sizes), fontsize=9)
    axis.legend(fontsize=7, bbox_to_anchor=(1.02, 1), loc="upper left")
    figure.set_size_inches(9, 5)


def draw_training(rows, figure):
    rows = [row for row in rows if "layer" not in row]
    axes = figure.subplots(1, 2)
    for i, label in enumerate(dict.fromkeys(name(row) for row in rows)):
        chosen = [row for row in rows if name(row) == label]
        color = plt.get_cmap("tab10")(i % 10)
        steps = [row["step"] for row in chosen]
        for axis, key in ((axes[0], "relative_error"), (axes[1], "redrawn_error")):
            axis.errorbar(
                steps,
                [row[key] for row in chosen],
                [row[key + "_deviation"] for row in chosen],
                capsize=3,
                marker="o",
                color=color,
                label=label,
            )
    for axis, title in zip(axes, ("other choices replayed", "later layers drawn again")):
        axis.set_title(title, fontsize=9)
        axis.set_xlabel("update")
        axis.set_ylabel("relative error of the mean, all layers")
        axis.set_ylim(bottom=0)
    axes[1].legend(fontsize=7)
    figure.set_size_inches(10, 4)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("results")
    parser.add_argument("picture")
    arguments = parser.parse_args()
    with open(arguments.results, encoding="utf-8") as file:
        rows = json.load(file)["results"]
    if not rows or "estimator" not in rows[0]:
        sys.exit(f"error: {arguments.results} holds no rows of estimators")
    figure = plt.figure(layout="constrained")
    if "step" in rows[0]:
        draw_training(rows, figure)
    elif "variance" in rows[0]:
        draw_spread(rows, figure)
    else:
        draw_orders(rows, figure)
    figure.savefig(arguments.picture, dpi=130)


if __name__ == "__main__":
    main()
