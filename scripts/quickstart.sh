#!/usr/bin/env bash
# SPDX-FileCopyrightText: Kokomoe authors
# SPDX-License-Identifier: BSD-3-Clause

# From a bare Debian to a trained Mixture-of-Experts language model: packages, Kokkos, build, text,
# training, evaluation, a sample. Can be run again at any time: what is done is not done twice, and a
# run that was stopped goes on.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

deck=inputs/lm/quickstart.toml
run=runs/quickstart
text=data/kjv

build_program
stage "text"
scripts/fetch_kjv.sh
stage "training with $deck"
train_or_go_on "$deck" "$run"

stage "evaluation on chapters that the model has not seen, beside models that count bytes"
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

stage "a sample"
"$program" generate -r "$run" --prompt "And God said"

stage "done"
note "run         $run (metrics.jsonl, effective.toml, eval.json)"
note "checkpoint  $run/checkpoints/$(cat "$run/checkpoints/latest")"
note "text        $text"
note "program     $program --help"
