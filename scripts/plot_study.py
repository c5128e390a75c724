#!/usr/bin/env python3
# SPDX-FileCopyrightText: Kokomoe authors
# SPDX-License-Identifier: BSD-3-Clause

"""Draws the curves of a study: plot_study.py STUDY.json PICTURE.(png|svg) [--below VALUE].

Each variant's mean over its seeds against steps, and what it has at the end, seed by seed, with mean and
standard deviation. --below leaves out evaluations above VALUE, so that the end can be seen. Runs that
failed are left out. Needs matplotlib alone. Exit code 2 when the study cannot be read.
"""

import argparse
import json
import statistics
import sys


class WrongStudy(Exception):
    """What is wrong with the file."""


def read_study(path):
    """Title, figure, and of each variant its name and the curves of its runs: lists of (step, value).

    Runs that failed or have no curve are left out. A value that was not finite is None.
    """
    try:
        with open(path, encoding="utf-8") as file:
            study = json.load(file)
    except (OSError, ValueError) as error:  # ValueError: no JSON, or no UTF-8
        raise WrongStudy(f"{path}: {getattr(error, 'strerror', None) or error}") from error
    try:
        variants = []
        for row in study["variants"]:
            curves = []
            for run in row["runs"]:
                points = [] if "failed" in run else [
                    (float(point["step"]), point["value"] if point["value"] is None else
                     float(point["value"])) for point in run["curve"]]
                if points:
                    curves.append(points)
            variants.append((str(row["name"]), curves))
        title, figure = str(study["title"]), str(study["figure"])
    except (LookupError, TypeError, ValueError) as error:
        raise WrongStudy(f"{path}: this is no study.json of kokomoe study") from error
    if not any(curves for _, curves in variants):
        raise WrongStudy(f"{path}: no run of the study has a curve")
    return title, figure, variants


def draw(study, below):
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    title, figure_name, variants = study
    matplotlib.rcParams["svg.hashsalt"] = "kokomoe"
    figure, (curves, ends) = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
    colours = plt.get_cmap("tab20" if len(variants) > 10 else "tab10").colors
    for place, (name, runs) in enumerate(variants):
        colour = colours[place % len(colours)]
        by_step = {}
        for curve in runs:
            for step, value in curve:
                if value is not None:
                    by_step.setdefault(step, []).append(value)
        steps = [s for s in sorted(by_step) if statistics.mean(by_step[s]) <= below]
        curves.plot(
            steps,
            [statistics.mean(by_step[s]) for s in steps],
            color=colour,
            label=name,
            linewidth=1.3,
        )
        last = [curve[-1][1] for curve in runs]
        last = [value for value in last if value is not None and value <= below]
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
    curves.set_ylabel(figure_name.replace("_", " ") + ", held out")
    curves.legend(fontsize="small", frameon=False)
    ends.set_yticks(range(len(variants)), [name for name, _ in variants])
    ends.invert_yaxis()
    ends.set_xlabel("at the end: each seed, mean, standard deviation")
    for axis in (curves, ends):
        axis.grid(alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
    figure.suptitle(title, fontsize="medium")
    return figure


def refuse(what):
    print(f"error: {what}", file=sys.stderr)
    return 2


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("study")
    parser.add_argument("picture")
    parser.add_argument("--below", type=float, default=float("inf"))
    arguments = parser.parse_args()
    picture = arguments.picture
    try:
        study = read_study(arguments.study)  # before matplotlib is loaded, which takes its time
    except WrongStudy as error:
        return refuse(error)
    try:
        figure = draw(study, arguments.below)
    except ImportError:
        sys.exit("error: no matplotlib: install it, for example in a virtual environment")
    try:
        metadata = {"Date": None} if picture.endswith(".svg") else None
        figure.savefig(picture, metadata=metadata, dpi=110)
    except (OSError, ValueError) as error:  # ValueError: a format that matplotlib does not know
        return refuse(f"{picture}: {getattr(error, 'strerror', None) or error}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
