#!/usr/bin/env bash
# SPDX-FileCopyrightText: Kokomoe authors
# SPDX-License-Identifier: BSD-3-Clause

# Every part of the deck's schema that changes the model trains, evaluates and generates.
source "$(dirname "${BASH_SOURCE[0]}")/_common.sh"

try() {
  local name="$1"
  shift
  expect 0 'done: 3 steps' kokomoe train -i deck.toml -d "$name" train/steps=3 "$@"
  expect 0 'bits per byte' kokomoe eval -r "$name"
  expect 0 '^The' kokomoe generate -r "$name" --prompt The --tokens 80
}

try switch moe/router=switch moe/jitter=0.1
try top_k moe/router=top_k moe/k=2
try top_k_after moe/router=top_k moe/k=2 moe/softmax=after moe/output_gain=false
try dense_mixture moe/router=dense_mixture
try dense moe/every=0
try every_second moe/every=2
try one_expert moe/experts=1
try relu model/activation=relu model/bias=true
try gelu model/activation=gelu model/norm=layer_norm
try learned model/positions=learned model/tied=false
try dropout model/dropout=0.2 model/attention_dropout=0.1 train/label_smoothing=0.1
try double run/precision=double
try accumulate train/accumulate=4 optimizer/schedule=inverse_sqrt
try frozen 'train/freeze=["*.router.weight"]' optimizer/schedule=linear
kokomoe train -i deck.toml -d frozen_size train/steps=0 'train/freeze=["*.router.weight"]' >size.txt
grep -q '256 frozen' size.txt || { cat size.txt >&2; fail "the banner does not say what is frozen"; }

# A dense model is of the active size: one expert's width, no router.
active() { sed -nE 's/.* ([0-9.]+[kM]?) active.*/\1/p' "$1"; }
kokomoe train -i deck.toml -d size_dense train/steps=0 moe/every=0 >dense.txt
kokomoe train -i deck.toml -d size_sparse train/steps=0 moe/output_gain=false >sparse.txt
# The routers' two matrices, 4 x 32 each, are all that differs.
"$KOKOMOE_PYTHON" - "$(active dense.txt)" "$(active sparse.txt)" <<'PY'
import sys
dense, sparse = (float(text.rstrip("k")) * (1000 if text.endswith("k") else 1) for text in sys.argv[1:])
assert abs(sparse - dense - 256) <= 100, (dense, sparse)
PY

if kokomoe train -i deck.toml -d pieces train/steps=3 data/tokenizer=sentencepiece \
  data/vocabulary=400 >pieces.txt 2>&1; then
  # What the checkpoint needs is inside it, not in a cache or beside the training text.
  rm -rf cache
  mv text.txt elsewhere.txt
  expect 0 '^The' kokomoe generate -r pieces --prompt The --tokens 20
else
  grep -q 'without SentencePiece' pieces.txt || { cat pieces.txt >&2; fail "sentencepiece"; }
fi
