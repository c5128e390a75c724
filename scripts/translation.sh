#!/usr/bin/env bash
# SPDX-FileCopyrightText: Kokomoe authors
# SPDX-License-Identifier: BSD-3-Clause

# From a bare Debian to an English-German translator with experts: packages, Kokkos, build, pairs from
# Debian's documentation, training (inputs/translation/documentation.toml), the mean of the last
# checkpoints, the test set's translation, and its BLEU and chrF beside those of three simple translators.
# What is done is not done twice; mean and translation are made anew when training has gone on since.
#
#   scripts/translation.sh [RANKS]     with RANKS > 1 training runs under mpirun
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

run=runs/en_de
build_program
stage "pairs"
scripts/data_en_de.sh
stage "training"
launcher="$(launcher_of "${1:-1}")"
train_or_go_on inputs/translation/documentation.toml "$run"
stage "the mean of the last checkpoints"
mean="$run/mean"
# Also where there is none yet: -nt takes what is missing as older.
if [[ "$run/checkpoints/latest" -nt "$mean/checkpoints/latest" ]]; then
  [[ ! -e "$mean/checkpoints/latest" ]] ||
    note "the run has newer checkpoints: mean, translation and score are made anew"
  rm -rf "$mean"  # or half of one that was interrupted
  "$program" average "$run" --last 5 -d "$mean"
fi
stage "translation of the test set"
if [[ "$mean/checkpoints/latest" -nt "$run/test.de" ]]; then
  "$program" translate -r "$mean" --input data/en_de/test.en >"$run/test.de.part"
  mv "$run/test.de.part" "$run/test.de"
fi
stage "simple translators"
[[ -s "$run/baselines.json" ]] || "$(kokomoe_python)" scripts/translation_baselines.py data/en_de \
  --program "$program" --json "$run/baselines.json" >&2
"$program" score --reference data/en_de/test.de --hypothesis "$run/test.de" --json "$run/score.json"
"$(kokomoe_python)" - "$run/score.json" "$run/baselines.json" <<'PYTHON'
import json
import sys

model, baselines = (json.load(open(name, encoding="utf-8")) for name in sys.argv[1:])
better = True
for name, figures in baselines.items():
    bleu, chrf = model["bleu"] - figures["bleu"], model["chrf"] - figures["chrf"]
    print(f"above {name}: {bleu:+.2f} BLEU, {chrf:+.2f} chrF")
    better = better and bleu > 0 and chrf > 0
sys.exit(0 if better else "a simple translator is as good")
PYTHON
