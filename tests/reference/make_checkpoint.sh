#!/usr/bin/env bash
# SPDX-FileCopyrightText: Kokomoe authors
# SPDX-License-Identifier: BSD-3-Clause

# make_checkpoint.sh PROGRAM FOLDER: a small checkpoint that has everything a format can hold, from
# three updates on a text of its own: sharded experts (saved by two ranks), a router with state,
# frozen tensors, a bias, an evaluation. Only for a new format: a committed one stays as it is.
set -euo pipefail
program="$(realpath "$1")"
folder="$(realpath -m "$2")"
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
[[ ! -e "$folder" ]] || { echo "$folder is there already" >&2; exit 1; }
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
cd "$work"
for i in $(seq 400); do echo "line $i of a text: $((i * i)) is $i squared"; done >text.txt
cat >deck.toml <<'TOML'
[run]
seed = 2027
[model]
d_model = 8
d_hidden = 12
layers = 2
heads = 2
bias = true
[moe]
router = "deepseek_v3"
experts = 3
k = 2
every = 2
[train]
steps = 3
batch_tokens = 256
freeze = ["blocks.1.attention.*"]
[optimizer]
learning_rate = 1e-2
[data]
train = ["text.txt"]
heldout = ["text.txt"]
sequence_length = 32
TOML
OMP_NUM_THREADS=1 mpiexec ${KOKOMOE_MPIEXEC_FLAGS:-} -n 2 "$program" train -i deck.toml -d run \
  parallel/expert_ranks=2
mkdir -p "$folder"
cp -r run/checkpoints/step_3 "$folder"
"${KOKOMOE_PYTHON:-python3}" "$here/record_checkpoint.py" "$folder/step_3" >"$folder/values.txt"
du -sh "$folder"
