#!/usr/bin/env bash
# SPDX-FileCopyrightText: Kokomoe authors
# SPDX-License-Identifier: BSD-3-Clause

# From a bare Debian to what pre-training is worth: packages, Kokkos, build, text, ELECTRA's pre-training
# (inputs/electra/kjv.toml), then fine-tuning on three small tasks in GLUE's formats, with three seeds each,
# from what was pre-trained and from its random beginning. What is done is not done twice.
#
#   scripts/electra.sh [RANKS]     with RANKS > 1 pre-training runs under mpirun
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

build_program
stage "text and tasks"
scripts/data_glue_form.sh
stage "pre-training"
launcher="$(launcher_of "${1:-1}")"
train_or_go_on inputs/electra/kjv.toml runs/electra
launcher=
for seed in 1 2 3; do
  train_or_go_on inputs/electra/kjv.toml "runs/electra_random/seed_$seed" train/steps=0 \
    "run/seed=$seed"
done
for task in swapped kept book; do
  stage "fine-tuning: $task"
  "$program" study -i "inputs/studies/pretraining_$task.toml" -d "runs/pretraining_$task"
done

stage "held-out chapters: accuracy, of 'kept' Pearson's correlation"
"$(kokomoe_python)" - <<'PYTHON'
import json
import math
import sys

better = True
for task in ("swapped", "kept", "book"):
    study = json.load(open(f"runs/pretraining_{task}/study.json"))
    rows = {row["name"]: row for row in study["variants"]}
    difference = rows["pretrained"]["difference"]
    error = difference["deviation"] / math.sqrt(difference["count"])
    print(f"{task}: random {rows['random']['last']['mean']:.4f}, "
          f"pre-trained {rows['pretrained']['last']['mean']:.4f}; difference with the same seed "
          f"{difference['mean']:.4f}, two standard errors {2 * error:.4f}")
    # Words alone tell the books, so that little is to be gained there: docs/electra.md.
    better = better and (task == "book" or difference["mean"] > 2 * error)
sys.exit(0 if better else "pre-training is not worth two standard errors on swapped and kept")
PYTHON
