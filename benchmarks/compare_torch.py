#!/usr/bin/env python3
# SPDX-FileCopyrightText: Kokomoe authors
# SPDX-License-Identifier: BSD-3-Clause

"""Times Kokomoe beside PyTorch on the same CPU, in turns: ours, torch, ours, torch, ...

    compare_torch.py layer --torch-python PATH [--experts 4,16,64] [--routing balanced] ...
    compare_torch.py step -i DECK --torch-python PATH [section/key=value ...]

Each round runs `kokomoe bench` and then torch_peer.py, with as many threads; ratios are taken
within a round, and their median over the rounds is printed with the smallest and the largest. PATH
is a Python that has torch:

    python3 -m venv torch_venv
    torch_venv/bin/pip install torch

Needs nothing but Python's own library itself.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent
MACHINE_REPEATS = 7


class Ours:
    """kokomoe bench, a process for each round."""

    def __init__(self, options):
        self.program = options.program
        # As docs/performance.md says to run it: a thread stays on its core.
        self.environment = dict(os.environ, OMP_NUM_THREADS=str(options.threads),
                                OMP_PROC_BIND="spread", OMP_PLACES="cores")

    def bench(self, *arguments):
        command = [self.program, "bench", *map(str, arguments), "--json", "-"]
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True)
        if done.returncode != 0:
            sys.exit(f"{' '.join(command)}\n{done.stderr}")
        return json.loads(done.stdout)


class Torch:
    """torch_peer.py, one process for all rounds, so that nothing is compiled twice."""

    def __init__(self, options):
        # Its threads as torch has them, whatever this shell says for ours.
        environment = {name: value for name, value in os.environ.items()
                       if name not in ("OMP_PROC_BIND", "OMP_PLACES")}
        environment["OMP_NUM_THREADS"] = str(options.threads)
        self.process = subprocess.Popen(
            [options.torch_python, str(HERE / "torch_peer.py"), str(options.threads)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)

    def ask(self, **request):
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            sys.exit("torch_peer.py ended: what it said is above")
        return json.loads(line)


def variants(options, experts):
    """(experts' implementation, compiled or not)"""
    kinds = ["loop", "grouped"] if experts else ["loop"]
    return [(kind, compiled) for compiled in options.compile for kind in kinds]


def variant_name(implementation, compiled, experts):
    name = implementation if experts else "linear"
    return f"{name}, compiled" if compiled else name


def layer_round(options, ours, torch):
    """One row for each layer: our milliseconds and those of torch's variants."""
    shape = {"tokens": options.tokens, "d_model": options.d_model, "d_hidden": options.d_hidden,
             "activation": options.activation, "routing": options.routing}
    flags = [part for key, value in shape.items()
             for part in ("--" + key.replace("_", "-"), value)]
    measured = ours.bench("layer", *flags, "--experts", options.experts, "--router", options.router,
                          "--repeats", options.repeats, "--router-repeats", 1)
    rows = []
    for result in measured["results"]:
        row = {"case": f"{result['router']} E={result['experts']}", "ours_ms": result["both_ms"],
               "ours_saved_bytes": result["saved_bytes"], "torch": {}}
        sparse = result["router"] != "dense"
        for implementation, compiled in variants(options, sparse):
            answer = torch.ask(kind="layer", router=result["router"], experts=result["experts"],
                               implementation=implementation, compile=compiled,
                               repeats=options.repeats, **shape)
            name = variant_name(implementation, compiled, sparse)
            if "unsupported" in answer:
                row["torch"][name] = answer
                continue
            both = [f + b for f, b in zip(answer["forward_ms"], answer["backward_ms"])]
            row["torch"][name] = {"ms": statistics.median(both),
                                  "saved_bytes": answer["saved_bytes"]}
        rows.append(row)
    return rows, measured["machine"]


def step_round(options, ours, torch):
    measured = ours.bench("step", "-i", options.deck, "--repeats", options.repeats,
                          *options.overrides)
    result = measured["results"][0]
    if result["task"] != "language_model":
        sys.exit(f"{options.deck}: the torch peer trains language models only, not "
                 f"\"{result['task']}\"")
    row = {"case": pathlib.Path(options.deck).name, "ours_ms": result["step_ms"],
           "ours_saved_bytes": result["saved_bytes"], "tokens": result["tokens"], "torch": {}}
    for implementation, compiled in variants(options, True):
        answer = torch.ask(kind="step", deck=result["effective_deck"],
                           vocabulary=result["vocabulary"], implementation=implementation,
                           compile=compiled, repeats=options.repeats)
        row["torch"][variant_name(implementation, compiled, True)] = (
            answer if "unsupported" in answer else
            {"ms": statistics.median(answer["step_ms"]), "saved_bytes": answer["saved_bytes"]})
    return [row], measured["machine"]


def summarise(rounds):
    """Medians over the rounds, and torch's time over ours within each."""
    summary = []
    for rows in zip(*rounds):
        entry = {"case": rows[0]["case"],
                 "ours_ms": statistics.median(row["ours_ms"] for row in rows),
                 "ours_saved_bytes": rows[0]["ours_saved_bytes"], "torch": {}}
        if "tokens" in rows[0]:
            entry["tokens"] = rows[0]["tokens"]
        for name, first in rows[0]["torch"].items():
            if "unsupported" in first:
                entry["torch"][name] = first
                continue
            times = [row["torch"][name]["ms"] for row in rows]
            ratios = [time / row["ours_ms"] for time, row in zip(times, rows)]
            entry["torch"][name] = {"ms": statistics.median(times),
                                    "saved_bytes": first["saved_bytes"],
                                    "ratio": statistics.median(ratios),
                                    "ratio_range": [min(ratios), max(ratios)]}
        summary.append(entry)
    return summary


def show(summary, machine, torch_machine, options):
    if options.command == "step" and options.overrides:
        print(" ".join(options.overrides))
    print(f"{options.threads} thread(s) each, {options.rounds} round(s) of {options.repeats}; "
          f"GEMM {machine['gemm_gflops']:.1f} GFLOP/s here, {torch_machine['gemm_gflops']:.1f} in "
          f"torch {torch_machine['torch']}")
    print(f"{'case':<28} {'ours ms':>9} {'MiB':>7}  {'torch':<18} {'ms':>9} {'MiB':>7} "
          f"{'torch/ours':>10}   least, most")
    for entry in summary:
        ours = (f"{entry['case']:<28} {entry['ours_ms']:9.2f} "
                f"{entry['ours_saved_bytes'] / 2**20:7.1f}")
        for name, torch in entry["torch"].items():
            if "unsupported" in torch:
                print(f"{ours}  {name:<18} {torch['unsupported']}")
            else:
                print(f"{ours}  {name:<18} {torch['ms']:9.2f} {torch['saved_bytes'] / 2**20:7.1f} "
                      f"{torch['ratio']:10.2f}   {torch['ratio_range'][0]:.2f}, "
                      f"{torch['ratio_range'][1]:.2f}")
        if "tokens" in entry:
            print(f"  ours: {entry['tokens'] / entry['ours_ms'] * 1e3:.0f} tokens/s")


def parse():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    both = argparse.ArgumentParser(add_help=False)
    both.add_argument("--torch-python", required=True, help="a Python that has torch")
    both.add_argument("--program", default=str(HERE.parent / "build/openmp/bin/kokomoe"))
    both.add_argument("--threads", type=int, default=2)
    both.add_argument("--rounds", type=int, default=5)
    both.add_argument("--repeats", type=int, default=5, help="of each case in each round")
    both.add_argument("--compile", choices=["no", "yes", "both"], default="both",
                      help="torch.compile; default: with and without")
    both.add_argument("--json", help="write to a file")
    commands = parser.add_subparsers(dest="command", required=True)
    layer = commands.add_parser("layer", parents=[both], help="kokomoe bench layer")
    layer.add_argument("--tokens", type=int, default=4096)
    layer.add_argument("--d-model", type=int, default=512)
    layer.add_argument("--d-hidden", type=int, default=2048)
    layer.add_argument("--experts", default="4,16,64")
    layer.add_argument("--router", default="switch,sparsemixer")
    layer.add_argument("--activation", default="relu")
    layer.add_argument("--routing", default="random", choices=["random", "balanced", "skewed"])
    step = commands.add_parser("step", parents=[both], help="kokomoe bench step")
    step.add_argument("-i", "--input", dest="deck", required=True)
    step.add_argument("overrides", nargs="*", help="section/key=value ...")
    options = parser.parse_args()
    options.compile = {"no": [False], "yes": [True], "both": [False, True]}[options.compile]
    return options


def main():
    options = parse()
    ours, torch = Ours(options), Torch(options)
    one_round = layer_round if options.command == "layer" else step_round
    torch.ask(kind="gemm", repeats=1)  # until it has started, which takes a core
    rounds, machines, torch_machines = [], [], []
    for _ in range(options.rounds):
        rows, machine = one_round(options, ours, torch)
        rounds.append(rows)
        machines.append(machine)
        torch_machines.append(torch.ask(kind="gemm", repeats=MACHINE_REPEATS))
    summary = summarise(rounds)
    machine, torch_machine = [
        dict(some[0], gemm_gflops=statistics.median(m["gemm_gflops"] for m in some))
        for some in (machines, torch_machines)]
    show(summary, machine, torch_machine, options)
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            # Where things lie is this machine's own business.
            asked = {key: value for key, value in vars(options).items()
                     if key not in ("program", "torch_python", "json")}
            json.dump({"options": asked, "results": summary, "rounds": rounds,
                       "machine": machine, "torch": torch_machine}, file, indent=1)


if __name__ == "__main__":
    main()
