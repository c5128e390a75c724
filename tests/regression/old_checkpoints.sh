#!/usr/bin/env bash
# SPDX-FileCopyrightText: Kokomoe authors
# SPDX-License-Identifier: BSD-3-Clause

# Checkpoints of every format that there was can be listed, generated from, evaluated and trained
# on, on one rank and on two that share the experts.
source "$(dirname "${BASH_SOURCE[0]}")/_common.sh"

found=0
for step in "$KOKOMOE_SOURCE_DIR"/tests/reference/checkpoint_format_*/step_3; do
  name="$(basename "$(dirname "$step")")"
  found=$((found + 1))
  expect 0 'step 3, 62 tensors, all digests verified' kokomoe inspect "$step"
  expect 0 'all equal' kokomoe inspect "$step" "$step"
  # Every element, against what numpy makes of the file.
  kokomoe inspect "$step" --export blocks.0.moe.experts.w1 --output w1.txt
  expect 0 '^# parameters/blocks.0.moe.experts.w1 shape=3,24,8 dtype=float32$' head -n 1 w1.txt
  if "$KOKOMOE_PYTHON" -c 'import h5py' 2>/dev/null; then
    "$KOKOMOE_PYTHON" - "$step/state.h5" <<'PY'
import sys
import h5py, numpy
stored = h5py.File(sys.argv[1])["parameters/blocks.0.moe.experts.w1"][...]
text = numpy.loadtxt("w1.txt", dtype=stored.dtype).reshape(stored.shape)
assert (stored == text).all()
PY
  fi
  expect 2 'did you mean parameters/blocks.0.moe.experts.w1' \
    kokomoe inspect "$step" --export blocks.0.moe.experts.w4
  expect 0 '' kokomoe generate -r "$step" --prompt 'line 7'
  expect 0 '"step": ?3' kokomoe eval -r "$step" --json - 'data/heldout=["heldout.txt"]'
  more=(train/steps=5 optimizer/schedule=constant 'data/train=["text.txt"]'
        'data/heldout=["heldout.txt"]')
  expect 0 'done: 5 steps' kokomoe train -d "$name" -r "$step" parallel/expert_ranks=1 "${more[@]}"
  if [[ -n "$KOKOMOE_MPIEXEC" ]]; then
    expect 0 'done: 5 steps' $KOKOMOE_MPIEXEC -n 2 "$KOKOMOE_PROGRAM" train -d "$name-2" -r "$step" \
      parallel/expert_ranks=2 "${more[@]}"
    expect 0 '62 tensors, all digests verified' kokomoe inspect "$name-2"
  fi
done
((found >= 1)) || fail "no checkpoint is committed"
