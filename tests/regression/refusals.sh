#!/usr/bin/env bash
# SPDX-FileCopyrightText: Kokomoe authors
# SPDX-License-Identifier: BSD-3-Clause

# What validate passes train begins; what train refuses leaves no trace; a run stays the run it was;
# and settings that do nothing are said to.
source "$(dirname "${BASH_SOURCE[0]}")/_common.sh"

# 1. The same refusals, before any work, and no run folder left behind.
echo 'too short' >tiny.txt
for setting in 'train/freeze=["nothing*"]' data/train=tiny.txt moe/routing_group=48 \
  model/heads=3; do
  case "$setting" in
    train/freeze*) words='"train/freeze": no tensor matches "nothing\*"' ;;
    data/train*) words='"data/train": the text has 11 tokens: too few for data/sequence_length' ;;
    moe/*) words='"moe/routing_group": must' ;;
    *) words='"model/heads": 3 heads do not divide' ;;
  esac
  expect 2 "$words" kokomoe validate -i deck.toml "$setting"
  expect 2 "$words" kokomoe train -i deck.toml -d never "$setting"
  [[ ! -e never ]] || fail "a run that was refused for $setting left its folder"
done
expect 2 'does not divide the 1 rank' kokomoe train -i deck.toml -d never parallel/expert_ranks=2
[[ ! -e never ]] || fail "a layout that was refused left a folder"
# Also one that shows late, and with the folders above.
expect 2 'vocabulary' kokomoe train -i deck.toml -d never/so/deep data/tokenizer=sentencepiece \
  data/vocabulary=60000
[[ ! -e never ]] || fail "a refused run left folders: $(find never | tr '\n' ' ')"
mkdir mine
expect 2 'does not divide the 1 rank' kokomoe train -i deck.toml -d mine parallel/expert_ranks=2
[[ -d mine ]] || fail "a folder that was there is gone"

# 2. A run is not made another model when it goes on, and its deck stays true.
expect 0 'done: 6 steps' kokomoe train -i deck.toml -d run
cp run/effective.toml before.toml
for setting in moe/router=switch moe/k=2 moe/experts=8 moe/every=2 model/heads=4 model/layers=3 \
  model/norm=layer_norm model/activation=relu run/precision=double; do
  expect 2 "\"${setting%%=*}\": run/checkpoints/step_6 was trained with .*makes another model" \
    kokomoe train -d run -r last train/steps=8 "$setting"
  cmp -s run/effective.toml before.toml || fail "$setting was refused and written down"
done
expect 0 'note: moe/balance was 0.01, is 0.02' \
  kokomoe train -d run -r last train/steps=8 moe/balance=0.02 model/dropout=0.1

# 3. Nor does it go on with another text unseen.
echo 'one more line' >>text.txt
cp run/effective.toml before.toml
expect 2 'the training text has changed since run/checkpoints/step_8 .*--changed-data' \
  kokomoe train -d run -r last train/steps=10
cmp -s run/effective.toml before.toml || fail "a refused resume wrote its deck"
expect 0 'note: the training text has changed' \
  kokomoe train -d run -r last train/steps=10 --changed-data
# It is the run's text now; in another place it is the same text.
mv text.txt moved.txt
expect 0 'done: 11 steps' kokomoe train -d run -r last train/steps=11 data/train=moved.txt
! grep -q 'has changed' output.txt || fail "a text that only moved counts as changed"
cp moved.txt text.txt

# 4. What does nothing, and what comes from elsewhere, is said.
expect 0 'note: moe/routing_group is not used: router "switch"' \
  kokomoe validate -i deck.toml moe/router=switch moe/routing_group=64
expect 0 'note: moe/group_limit is not used: moe/groups is 1' \
  kokomoe validate -i deck.toml moe/router=top_k moe/group_limit=1
expect 0 'note: moe/output_gain = true comes from the deck; router "switch" by itself has false' \
  kokomoe validate -i run/effective.toml moe/router=switch
! grep -q 'without moe/capacity_factor' output.txt || fail "a default is said to be asked for"
expect 0 '' kokomoe validate -i run/effective.toml moe/router=switch moe/output_gain=false \
  moe/balance=0.01
! grep -q 'comes from the deck' output.txt || fail "overrides are said to come from the deck"
expect 2 'say moe/balance=0' \
  kokomoe validate -i deck.toml moe/router=expert_choice moe/balance=0.01 moe/allow_future=true
expect 0 'note: fidelity/sites is used in mode "orders" alone' kokomoe fidelity \
  -i "$KOKOMOE_SOURCE_DIR/inputs/fidelity/spread.toml" 'fidelity/sites=["tokens"]' \
  fidelity/problems=1 fidelity/samples=10 'fidelity/experts=[3]'

# 5. Figures: standard output is JSON alone; a file that cannot be written is refused first.
small=(--tokens 16 --d-model 8 --d-hidden 8 --experts 2 --repeats 1)
kokomoe bench layer "${small[@]}" --json - 2>table.txt | "$KOKOMOE_PYTHON" -c '
import json, sys
assert {row["router"] for row in json.load(sys.stdin)["results"]} >= {"dense", "switch"}'
grep -q 'router dispatch experts combine' table.txt || fail "the table is lost"
for command in "bench layer ${small[*]}" "eval -r run" "bench exchange" \
  "fidelity -i $KOKOMOE_SOURCE_DIR/inputs/fidelity/spread.toml"; do
  expect 2 '"nowhere/x.json" cannot be written' \
    timeout 20 "$KOKOMOE_PROGRAM" $command --json nowhere/x.json
done
expect 2 'no such|cannot be read|not found' kokomoe eval -r nothing --json new.json
[[ ! -e new.json ]] || fail "a command that failed left an empty file"

# 6. Losses of a model that sees later tokens are no causal model's.
expect 0 'done' kokomoe train -i deck.toml -d ahead moe/router=expert_choice moe/allow_future=true
expect 0 'note: .* depend on later tokens' kokomoe eval -r ahead --json ahead.json
kokomoe eval -r run --json run.json >/dev/null
"$KOKOMOE_PYTHON" -c 'import json
assert json.load(open("ahead.json"))["causal"] is False
assert json.load(open("run.json"))["causal"] is True'
