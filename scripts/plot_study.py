#!/usr/bin/env python3
# SPDX-FileCopyrightText: Kokomoe authors
# SPDX-License-Identifier: BSD-3-Clause

"""Draws the curves of a study: plot_study.py STUDY.json PICTURE.(png|svg) [--below VALUE].

Each variant's mean over its seeds against steps, and what it has at the end, seed by seed, with mean and
standard deviation. --below leaves out evaluations above VALUE, so that the end can be seen. Needs matplotlib
alone.
"""

import argparse
import json
import statistics
import sys

try:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
except ImportError:
    sys.exit("error: no matplotlib: install it, for example in a virtual environment")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("study")
    parser.add_argument("picture")
    parser.add_argument("--below", type=float, default=float("inf"))
    arguments = parser.parse_args()
    with open(arguments.study, encoding="utf-8") as file:
        study = json.load(file)

    matplotlib.rcParams["svg.hashsalt"] = "kokomoe"
    figure, (curves, ends) = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
    colours = plt.get_cmap("tab20" if len(study["variants"]) > 10 else "tab10").colors
    for place, row in enumerate(study["variants"]):
        colour = colours[place % len(colours)]
        by_step = {}
        for run in row["runs"]:
            for point in run["curve"]:
                if point["value"] is not None:
                    by_step.setdefault(point["step"], []).append(point["value"])
        steps = [s for s in sorted(by_step) if statistics.mean(by_step[s]) <= arguments.below]
        curves.plot(
            steps,
            [statistics.mean(by_step[s]) for s in steps],
            color=colour,
            label=row["name"],
            linewidth=1.3,
        )
        last = [run["curve"][-1]["value"] for run in row["runs"]]
        last = [value for value in last if value is not None and value <= arguments.below]
        if not last:
            continue
        ends.plot(last, [place] * len(last), "o", color=colour, markersize=3.5, alpha=0.6)
        ends.errorbar(
            statistics.mean(last),
            place,
            xerr=statistics.stdev(last) if len(last) > 1 else None,
            fmt="|",
            color=colour,
            markersize=14,
            capsize=3,
        )
    curves.set_xlabel("step")
    curves.set_ylabel(study["figure"].replace("_", " ") + ", held out")
    curves.legend(fontsize="small", frameon=False)
    ends.set_yticks(range(len(study["variants"])), [row["name"] for row in study["variants"]])
    ends.invert_yaxis()
    ends.set_xlabel("at the end: each seed, mean, standard deviation")
    for axis in (curves, ends):
        axis.grid(alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
    figure.suptitle(study["title"], fontsize="medium")
    figure.savefig(arguments.picture, metadata={"Date": None} if
                   arguments.picture.endswith(".svg") else None, dpi=110)


if __name__ == "__main__":
    main()
