#!/usr/bin/env bash
# SPDX-FileCopyrightText: Kokomoe authors
# SPDX-License-Identifier: BSD-3-Clause

# What a user gets wrong: a clear message, the promised exit code, and nothing lost.
source "$(dirname "${BASH_SOURCE[0]}")/_common.sh"

expect 0 'Examples:' kokomoe --help
expect 0 'wall limit' kokomoe train --help
expect 2 'subcommand' kokomoe
expect 2 'unknown subcommand "trian" of kokomoe: did you mean "train"\?' kokomoe trian -i deck.toml
expect 2 'unknown subcommand "laier" of bench: did you mean "layer"' kokomoe bench laier
expect 2 'there is train, average, eval, ' kokomoe xyzzyplugh
expect 2 'deck not found|no such file' kokomoe validate -i missing.toml
expect 0 '' kokomoe validate -i deck.toml

# Keys and values.
sed 's/^experts = 4/experst = 4/' deck.toml >typo.toml
expect 2 'typo.toml:7:1: error: unknown key "moe/experst"' kokomoe validate -i typo.toml
expect 2 'did you mean "moe/experts"' kokomoe train -i typo.toml -d never
[[ ! -e never ]] || fail "a refused deck made its run folder"
expect 2 'moe/router' kokomoe validate -i deck.toml moe/router=swich
expect 2 'did you mean "switch"' kokomoe validate -i deck.toml moe/router=swich
expect 2 'train/steps' kokomoe validate -i deck.toml train/steps=-1
expect 2 'heads do not divide' kokomoe validate -i deck.toml model/heads=5
expect 2 'multiple of data/sequence_length' kokomoe validate -i deck.toml train/batch_tokens=100
expect 2 'k must be 1' kokomoe validate -i deck.toml moe/router=switch moe/k=2
expect 2 'does not divide the 1 rank' kokomoe train -i deck.toml -d never parallel/expert_ranks=2
expect 0 'note: moe/mask_eps is not used' \
  kokomoe validate -i deck.toml moe/router=switch moe/mask_eps=0.2

expect 0 'note: optimizer/warmup = 6 takes all of train/steps = 6' \
  kokomoe validate -i deck.toml optimizer/warmup=6
expect 2 '"data/heldout": nothing.txt: file not found' \
  kokomoe validate --data -i deck.toml data/heldout=nothing.txt

# Files.
expect 2 'nothing.txt' kokomoe train -i deck.toml -d never 'data/train=["nothing.txt"]'
expect 2 'no tensor matches' kokomoe train -i deck.toml -d never 'train/freeze=["nothing*"]'
expect 2 'cannot be made' kokomoe train -i deck.toml -d never data/cache=deck.toml
expect 2 'deck.toml: error: the run folder cannot be made' kokomoe train -i deck.toml -d deck.toml
[[ ! -e never/checkpoints ]] || fail "data errors came after the run folder was made"

# Two trainings in one folder: the second is refused, and finds it free once the first was killed.
"$KOKOMOE_PROGRAM" train -i deck.toml -d shared train/steps=1000000 >shared.txt 2>&1 &
pid=$!
until grep -qs '^step 2/' shared.txt; do sleep 0.05; done
for resume in '' '-r last'; do
  expect 2 "run folder \"shared\" is in use by process $pid" kokomoe train -i deck.toml -d shared $resume
done
kill -KILL "$pid"
wait "$pid" || true
expect 2 'has lost its checkpoints: metrics.jsonl has' kokomoe train -i deck.toml -d shared -r last
[[ $(wc -l <shared/metrics.jsonl) -ge 2 ]] || fail "a refused resume cut the metrics"
rm shared/metrics.jsonl
expect 0 'starting fresh' kokomoe train -i deck.toml -d shared -r last

# Run folders and checkpoints.
expect 0 'done: 6 steps' kokomoe train -i deck.toml -d run checkpoint/every=2
expect 2 'holds a run already' kokomoe train -i deck.toml -d run
expect 0 'done: 6 steps' kokomoe train -i deck.toml -d run -r last
expect 2 'would change moe/router from "sparsemixer" to "switch"' \
  bash -c 'sed "s/^experts/router = \"switch\"\nexperts/" deck.toml >other.toml
           "$KOKOMOE_PROGRAM" train -i other.toml -d run -r last'
expect 2 'lies before' kokomoe train -d run -r last train/steps=4
expect 2 'empty name' kokomoe train -i deck.toml -d ''
expect 2 'no time' kokomoe train -i deck.toml -d never -t 0
[[ $(grep -c '"loss"' run/metrics.jsonl) == 6 ]] || fail "a refused resume cut the metrics"
expect 0 'starting fresh' kokomoe train -i deck.toml -d fresh -r last train/steps=1
expect 2 '.' kokomoe eval -r nothing
expect 0 'bits per byte' kokomoe eval -r run --json eval.json
"$KOKOMOE_PYTHON" - <<'PY'
import json
result = json.load(open("eval.json"))
assert result["step"] == 6 and 0 < result["bits_per_byte"] < 9, result
rows = [json.loads(line) for line in open("run/metrics.jsonl")]
steps = [row["step"] for row in rows if "loss" in row]
assert steps == [1, 2, 3, 4, 5, 6], steps
keys = "step loss task_loss aux_loss tokens tokens_per_second learning_rate grad_norm seconds"
assert all(key in rows[0] for key in keys.split()), rows[0]
assert abs(rows[0]["loss"] - rows[0]["task_loss"] - rows[0]["aux_loss"]) < 1e-9
assert any("eval_loss" in row for row in rows)
PY
expect 2 'moe/router = "sparsemixer", not "switch"' kokomoe eval -r run moe/router=switch
expect 2 'model/layers = 2, not 1' kokomoe generate -r run --prompt x model/layers=1
mkdir elsewhere
expect 2 "comes from the checkpoint's deck.*data/heldout=... overrides it" \
  bash -c 'cd elsewhere && "$KOKOMOE_PROGRAM" eval -r ../run'
expect 0 'bits per byte' \
  bash -c 'cd elsewhere && "$KOKOMOE_PROGRAM" eval -r ../run data/heldout=../heldout.txt'
cp run/checkpoints/latest latest.txt
: >run/checkpoints/latest
expect 2 'latest: error: is empty; there is step_6, .*: use -r run/checkpoints/step_6' \
  kokomoe train -d run -r last
cp latest.txt run/checkpoints/latest
expect 2 'holds another run' kokomoe train -d run -r fresh/checkpoints/step_1
truncate -s -100 run/checkpoints/step_6/state.h5
expect 2 'step_6/state.h5.*damaged' kokomoe eval -r run
grep -q 'step_4' output.txt || fail "the older checkpoint is not offered"
expect 0 'bits per byte' kokomoe eval -r run/checkpoints/step_4
expect 2 'manifest' bash -c 'echo "{" >run/checkpoints/step_6/manifest.json; "$KOKOMOE_PROGRAM" eval -r run'

# Generation: one line for each prompt, newlines escaped, the same for the same seed.
printf 'The router\nAn expert\n' |
  "$KOKOMOE_PROGRAM" generate -r run/checkpoints/step_4 --tokens 200 >one.txt
printf 'The router\nAn expert\n' |
  "$KOKOMOE_PROGRAM" generate -r run/checkpoints/step_4 --tokens 200 >two.txt
cmp one.txt two.txt
[[ $(wc -l <one.txt) == 2 ]] || fail "two prompts gave $(wc -l <one.txt) lines"
grep -q '^The router' one.txt || fail "the prompt is not repeated"
# Backslashes and tabs are text; what would end a line or move a cursor is not.
odd="$(kokomoe generate -r run/checkpoints/step_4 --tokens 0 --prompt $'a\\n\tb\n\r\e\x7fc')"
[[ "$odd" == $'a\\n\tb\\n\\r\\x1b\\x7fc' ]] || fail "escaped otherwise: $odd"

# Samples: continuations of held-out text at each evaluation, once each when a run is stopped and goes on,
# valid JSON whatever bytes a model writes.
expect 0 'done: 4 steps' kokomoe train -i deck.toml -d sampled train/steps=4 train/eval_every=2 train/samples=2
expect 75 'stopped at step 1' kokomoe train -i deck.toml -d sampled_part train/steps=4 \
  train/eval_every=2 train/samples=2 -t 00:00:01
echo '{"step": 3, "text": "of a step that was lost", "source": ""}' >>sampled_part/samples.jsonl
expect 0 'done: 4 steps' kokomoe train -d sampled_part -r last
cmp sampled/samples.jsonl sampled_part/samples.jsonl || fail "samples differ after a stop"
"$KOKOMOE_PYTHON" - <<'PY'
import json
rows = [json.loads(line) for line in open("sampled/samples.jsonl", encoding="utf-8")]
assert [row["step"] for row in rows] == [2, 2, 4, 4], rows
assert rows[0]["source"] == rows[2]["source"] == open("heldout.txt").read()[:15], rows
assert all(row["text"] for row in rows)
PY
expect 2 'train/samples.*depend on later tokens' kokomoe validate -i deck.toml train/samples=1 \
  moe/router=expert_choice moe/allow_future=true moe/balance=0

expect 0 'arXiv 2310.00811' kokomoe routers
kokomoe routers --json routers.json
"$KOKOMOE_PYTHON" -c 'import json
rows = json.load(open("routers.json"))
assert all(set("name summary options paper".split()) <= set(row) for row in rows), rows'
