#!/usr/bin/env bash
# SPDX-FileCopyrightText: Kokomoe authors
# SPDX-License-Identifier: BSD-3-Clause

# From a bare Debian to a trained Mixture-of-Experts language model: packages, Kokkos, build, text,
# training, evaluation, a sample. Can be run again at any time: what is done is not done twice, and a
# run that was stopped goes on.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
cd "$kokomoe_root"
export OMP_PROC_BIND="${OMP_PROC_BIND:-spread}" OMP_PLACES="${OMP_PLACES:-cores}"

deck=inputs/lm/quickstart.toml
run=runs/quickstart
text=data/kjv
program=build/openmp/bin/kokomoe

stage "1/7 packages"
scripts/install_packages.sh
stage "2/7 Kokkos and Kokkos Kernels"
prefix="$(scripts/build_deps.sh openmp | tail -n 1)"
note "$prefix"
stage "3/7 build"
cmake --preset openmp >&2
cmake --build build/openmp --parallel "$kokomoe_jobs" --target kokomoe >&2
stage "4/7 text"
scripts/fetch_kjv.sh

stage "5/7 training with $deck"
resume=()
if [[ -d "$run" ]]; then
  resume=(-r last)
fi
status=0
"$program" train -i "$deck" -d "$run" "${resume[@]}" || status=$?
if ((status == 75)); then
  note "stopped after saving: run this script again to go on"
fi
((status == 0)) || exit "$status"

stage "6/7 evaluation on chapters that the model has not seen, beside models that count bytes"
"$program" eval -r "$run" --json "$run/eval.json"
# The baselines depend on the text alone.
baselines="$run/baselines.json"
if [[ ! -f "$baselines" || "$text/sums" -nt "$baselines" ]]; then
  "$(kokomoe_python)" scripts/ngram_baseline.py --train "$text/train.txt" \
    --heldout "$text/heldout.txt" --context 2 4 --check --json "$baselines" >&2
fi
"$(kokomoe_python)" - "$run/eval.json" "$baselines" <<'PYTHON'
import json
import sys

model, baselines = (json.load(open(name, encoding="utf-8")) for name in sys.argv[1:])
figures = [(f"Kneser-Ney, {result['context']} bytes of context", result["bits_per_byte"])
           for result in baselines["results"]]
figures.append((f"Kokomoe, step {model['step']}", model["bits_per_byte"]))
for name, bits in sorted(figures, key=lambda figure: -figure[1]):
    print(f"{bits:8.4f} bits per byte  {name}")
PYTHON

stage "7/7 a sample"
"$program" generate -r "$run" --prompt "And God said"

stage "done"
note "run         $run (metrics.jsonl, effective.toml, eval.json)"
note "checkpoint  $run/checkpoints/$(cat "$run/checkpoints/latest")"
note "text        $text"
note "program     $program --help"
