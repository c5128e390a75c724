#!/usr/bin/env bash
# SPDX-FileCopyrightText: Kokomoe authors
# SPDX-License-Identifier: BSD-3-Clause

# Translation by the program: it trains, resumes to the same bits, evaluates, runs on several ranks,
# and refuses pairs that are none.
source "$(dirname "${BASH_SOURCE[0]}")/_common.sh"

"$KOKOMOE_PYTHON" - <<'PY'
import random
source = random.Random(99)
# With what the output must not escape: scores of eval and score agree on it.
words = ["ka", "no", "ri", "tam", "b\\l", "s\tu"]
for name, lines in (("train", 300), ("held", 40)):
    with open(name + ".a", "w") as a, open(name + ".b", "w") as b:
        for _ in range(lines):
            picked = [words[int(source.random() * 6)] for _ in range(1 + int(source.random() * 5))]
            a.write(" ".join(picked) + "\n")
            b.write(" ".join(reversed([w.upper() for w in picked])) + "\n")
PY
cat >pairs.toml <<'TOML'
[run]
task = "translation"
[model]
d_model = 32
d_hidden = 48
layers = 2
heads = 2
[moe]
experts = 4
[train]
steps = 12
batch_tokens = 256
eval_every = 4
accumulate = 2
label_smoothing = 0.1
[optimizer]
learning_rate = 3e-3
warmup = 2
[data]
train_source = ["train.a"]
train_target = ["train.b"]
heldout_source = ["held.a"]
heldout_target = ["held.b"]
cache = "cache"
tokenizer = "bytes"
max_length = 64
TOML

expect 0 '' kokomoe validate -i pairs.toml
expect 0 'done: 12 steps' kokomoe train -i pairs.toml -d whole
grep -q '300 pairs in ' output.txt || fail "no word about the pairs"
grep -q '4 layers, 2 with experts' output.txt || fail "no word about the model"
expect 75 'stopped at step 1' kokomoe train -i pairs.toml -d part -t 00:00:01
expect 0 'resumed from' kokomoe train -d part -r last
expect 0 'all equal' kokomoe inspect whole part
diff <(rows whole) <(rows part) || fail "metric rows differ"

# What a plan says is what training finds; sides are of 22 tokens on the average, of 256 at once.
PLAN_OPTIONS="--length 22" compare_plan planned 1 pairs.toml train/accumulate=1 model/d_model=64
PLAN_OPTIONS="--length 22" compare_plan planned_norm 1 pairs.toml train/accumulate=1 \
  model/d_model=64 model/post_norm=false
# Pairs are not split, so that a part of an update has room for a long one.
kokomoe plan -i pairs.toml --gemm-gflops 100 --json parts.json >/dev/null
"$KOKOMOE_PYTHON" -c 'import json
assert json.load(open("parts.json"))["tokens"] == {
    "update": 256, "rank": 256, "micro_batch": 128 + 64, "sequence": 64}'
expect 0 'the deck.s own; medians of 2' kokomoe bench step -i pairs.toml --repeats 2 --warm-up 1 \
  --json bench.json
"$KOKOMOE_PYTHON" - <<'PY'
import json
row, = json.load(open("bench.json"))["results"]
assert row["task"] == "translation" and "vocabulary" not in row, row
assert 0 < row["tokens"] <= 256 and row["tokens_per_second"] > 0 and row["gflops"] > 0, row
assert row["shares"]["attention"] > 0 and row["shares"]["head"] > 0, row
PY

# Activations in bfloat16: nearly the same losses, and translations.
expect 0 'done: 12 steps' kokomoe train -i pairs.toml -d rounded run/activations=bfloat16
expect 0 '' kokomoe translate -r rounded --input held.a
"$KOKOMOE_PYTHON" - <<'PY'
import json
loss = lambda run: [json.loads(l)["loss"] for l in open(run + "/metrics.jsonl") if '"loss"' in l]
whole, rounded = loss("whole"), loss("rounded")
assert whole != rounded
assert all(abs(a - b) < 0.01 * a for a, b in zip(whole, rounded, strict=True)), (whole, rounded)
PY

expect 0 'perplexity' kokomoe eval -r whole --json eval.json
"$KOKOMOE_PYTHON" - <<'PY'
import json
rows = [json.loads(line) for line in open("whole/metrics.jsonl")]
steps = [row for row in rows if "loss" in row]
evals = [row for row in rows if "eval_loss" in row]
assert [row["step"] for row in steps] == list(range(1, 13))
assert [row["step"] for row in evals] == [4, 8, 12]
assert steps[-1]["loss"] < steps[0]["loss"] - 0.5
for row in steps:
    assert abs(row["loss"] - row["task_loss"] - row["aux_loss"]) < 1e-9
report = json.load(open("eval.json"))
assert report["step"] == 12 and abs(report["loss"] - evals[-1]["eval_loss"]) < 1e-9, report
# Every target byte and an end for each line.
assert report["tokens"] == sum(len(line) for line in open("held.b")), report
PY

# A model that has learnt it: translations, a line each, in the order of the input; BLEU of eval is that
# of score on what translate writes.
expect 0 'done: 500 steps' kokomoe train -i pairs.toml -d learnt train/steps=500 moe/every=0 \
  train/accumulate=1 train/eval_every=0 optimizer/learning_rate=6e-3 train/batch_tokens=512 \
  train/samples=2
kokomoe translate -r learnt <held.a >held.out
kokomoe translate -r learnt --input held.a >held.again
cmp held.out held.again || fail "standard input and a file differ"
kokomoe translate -r learnt/checkpoints/best --input held.a | cmp - held.out || fail "best is another"
"$KOKOMOE_PYTHON" - <<'PY'
import json
lines = lambda name: open(name).read().split("\n")
rows = [json.loads(line) for line in open("learnt/samples.jsonl")]
assert rows == [{"step": 500, "text": text, "source": source, "reference": reference} for
                text, source, reference in zip(lines("held.out")[:2], lines("held.a"), lines("held.b"))], rows
PY
(($(wc -l <held.out) == 40)) || fail "$(wc -l <held.out) lines of 40"
grep -q '[^\]\\L' held.out || fail "no single backslash in a translation"
grep -q $'S\tU' held.out || fail "no tab in a translation"
expect 0 'bleu' kokomoe eval -r learnt --json eval.json
kokomoe score --reference held.b --hypothesis held.out --json score.json >/dev/null
"$KOKOMOE_PYTHON" - <<'PY'
import json
report, score = json.load(open("eval.json")), json.load(open("score.json"))
assert abs(report["bleu"] - score["bleu"]) < 1e-9 and abs(report["chrf"] - score["chrf"]) < 1e-9
assert score["chrf"] > 60, score
PY
printf 'ka no\n\nri\r\n%0100d\n' 0 | kokomoe translate -r learnt search/beam=1 >odd.out 2>odd.err
(($(wc -l <odd.out) == 4)) || fail "$(wc -l <odd.out) lines of 4"
[[ -z "$(sed -n 2p odd.out)" ]] || fail "an empty line has a translation"
grep -q 'line 4 of standard input has 100 tokens: the model takes 63' odd.err || fail "cut in silence"
expect 2 'nothere' kokomoe translate -r learnt --input nothere
expect 2 'wants a translation model' bash -c '"$KOKOMOE_PROGRAM" train -i deck.toml -d lm train/steps=1 &&
  "$KOKOMOE_PROGRAM" translate -r lm </dev/null'

if [[ -n "$KOKOMOE_MPIEXEC" ]]; then
  expect 0 'done: 12 steps' $KOKOMOE_MPIEXEC -n 2 "$KOKOMOE_PROGRAM" train -i pairs.toml -d ranks \
    parallel/expert_ranks=2
  "$KOKOMOE_PYTHON" - <<'PY'
import json
loss = lambda run: [json.loads(l)["loss"] for l in open(run + "/metrics.jsonl") if '"loss"' in l]
for a, b in zip(loss("whole"), loss("ranks"), strict=True):
    assert abs(a - b) < 0.02 * a, (a, b)
PY
  expect 0 'perplexity' $KOKOMOE_MPIEXEC -n 2 "$KOKOMOE_PROGRAM" eval -r ranks
fi

# The mean of the last checkpoints, element by element, with the newest one's moments.
expect 0 'done: 12 steps' kokomoe train -i pairs.toml -d many checkpoint/every=4 checkpoint/keep=3
expect 0 'mean of 3 checkpoints' kokomoe average many --last 3 -d mean
expect 0 'perplexity' kokomoe eval -r mean
for step in 4 8 12; do
  kokomoe inspect "many/checkpoints/step_$step" --export encoder.0.attention.qkv.weight >"$step.txt"
done
kokomoe inspect mean --export encoder.0.attention.qkv.weight >mean.txt
"$KOKOMOE_PYTHON" - <<'PY'
rows = lambda name: [float(x) for line in open(name + ".txt") if line[0] != "#" for x in line.split()]
means, parts = rows("mean"), [rows(name) for name in ("4", "8", "12")]
assert len(means) == 32 * 96 and parts[0] != parts[1]
for mean, *values in zip(means, *parts, strict=True):
    assert abs(mean - sum(values) / 3) <= 1e-7 * max(map(abs, values)), (mean, values)
PY
expect 1 '' kokomoe inspect mean many
grep -q 'optimizer/m/embedding.weight.*differ' output.txt && fail "the moments are not the newest's"
expect 2 'two checkpoints at least' kokomoe average many -d other
expect 2 'has 3 checkpoint' kokomoe average many --last 4 -d other
expect 2 'holds a run already' kokomoe average many --last 2 -d whole
expect 2 'holds a run already' kokomoe average many --last 2 -d mean
mkdir -p begun && touch begun/metrics.jsonl  # a training before its first checkpoint
expect 2 'holds a run already' kokomoe average many --last 2 -d begun
expect 2 'step_12 goes into the mean twice' kokomoe average many many -d other
expect 2 'step_12 goes into the mean twice, also as' kokomoe average many ./many/checkpoints/step_8 \
  ./many/checkpoints/latest -d other
# An interrupted one leaves a folder that the next takes over.
mkdir -p interrupted/checkpoints/step_12.tmp
cp mean/effective.toml mean/lock interrupted
expect 0 'mean of 3 checkpoints' kokomoe average many --last 3 -d interrupted
expect 0 'all equal' kokomoe inspect mean interrupted
[[ ! -e interrupted/checkpoints/step_12.tmp ]] || fail "what was interrupted is still there"
expect 0 'done' kokomoe train -i pairs.toml -d wide model/d_hidden=64 train/steps=1
expect 2 'model/d_hidden' kokomoe average many wide -d other
[[ ! -e other ]] || fail "what failed left a folder"

head -n 299 train.b >short.b
expect 2 'train.a" has 300 lines, "short.b" has 299' \
  kokomoe train -i pairs.toml -d short data/train_target=short.b
[[ ! -e short/metrics.jsonl ]] || fail "a run of nothing began"
expect 2 'data/train_target.*names 2 file.*data/train_source 1' \
  kokomoe validate -i pairs.toml 'data/train_target=["train.b", "held.b"]'
# Text of another system is the same text.
for side in a b; do
  for name in train held; do
    { printf '\xef\xbb\xbf' && sed 's/$/\r/' "$name.$side"; } >"$name.crlf.$side"
  done
done
expect 0 'done: 12 steps' kokomoe train -i pairs.toml -d crlf data/train_source=train.crlf.a \
  data/train_target=train.crlf.b data/heldout_source=held.crlf.a data/heldout_target=held.crlf.b
diff <(rows whole) <(rows crlf) || fail "line ends change a training"
kokomoe translate -r learnt --input held.crlf.a | cmp - held.out || fail "line ends change a translation"
expect 2 'data/train_source.*nothere' kokomoe validate --data -i pairs.toml data/train_source=nothere
expect 0 'note: .*nothere' kokomoe validate -i pairs.toml data/train_source=nothere
expect 2 'data/heldout_target' kokomoe validate -i pairs.toml 'data/heldout_target=[]'
expect 2 'wants a language model' kokomoe generate -r whole --prompt ka
expect 2 'run/task' kokomoe train -i deck.toml -d whole -r last
