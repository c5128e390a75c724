#!/usr/bin/env bash
# SPDX-FileCopyrightText: Kokomoe authors
# SPDX-License-Identifier: BSD-3-Clause

# ELECTRA by the program: pre-training and fine-tuning train, resume to the same bits, evaluate and run
# on several ranks; an encoder goes from the one to the other with its tokenizer; tables of all of GLUE's
# formats are read, and what is no table is refused.
source "$(dirname "${BASH_SOURCE[0]}")/_common.sh"

"$KOKOMOE_PYTHON" - <<'PY'
import random
draw = random.Random(5)
words = ["ka", "no", "ri", "tam", "bel", "su", "wo", "ge"]
def sentence():
    at, picked = int(draw.random() * 8), []
    for _ in range(3 + int(draw.random() * 6)):
        picked.append(words[at])
        at = (at + 1 + int(draw.random() * 2)) % 8
    return " ".join(picked)
for name, lines in (("train", 400), ("held", 60)):
    with open(name + ".txt", "w") as text, open(name + ".tsv", "w") as table:
        table.write("index\tsentence1\tsentence2\tlabel\n")
        for n in range(lines):
            one, two = sentence(), sentence()
            text.write(one + "\n")
            same = draw.random() < 0.5
            table.write(f"{n}\t{one}\t{one if same else two}\t"
                        f"{'entailment' if same else 'not_entailment'}\n")
PY
cat >model.toml <<'TOML'
[model]
d_model = 32
d_hidden = 48
layers = 2
heads = 2
max_length = 64
[moe]
experts = 4
[optimizer]
learning_rate = 2e-3
warmup = 2
TOML
cat - model.toml >electra.toml <<'TOML'
[run]
task = "electra"
[electra]
generator_width = 0.5
[train]
steps = 12
batch_tokens = 512
eval_every = 4
accumulate = 2
[data]
train = ["train.txt"]
heldout = ["held.txt"]
cache = "cache"
vocabulary = 280
sequence_length = 32
TOML
cat - model.toml >rte.toml <<'TOML'
[run]
task = "sentences"
[train]
steps = 12
batch_sentences = 20
eval_every = 4
accumulate = 2
[data]
train = ["train.tsv"]
heldout = ["held.tsv"]
cache = "cache"
format = "rte"
TOML

expect 0 '' kokomoe validate -i electra.toml
expect 0 'done: 12 steps' kokomoe train -i electra.toml -d whole
grep -q '4 layers, 1 with experts' output.txt || fail "no word about the model"
expect 75 'stopped at step 1' kokomoe train -i electra.toml -d part -t 00:00:01
expect 0 'resumed from' kokomoe train -d part -r last
expect 0 'all equal' kokomoe inspect whole part
diff <(rows whole) <(rows part) || fail "metric rows differ"
expect 0 'generator loss' kokomoe eval -r whole --json eval.json

# What a plan says is what training finds, the vocabulary of a tokenizer that is made by then too.
compare_plan planned 1 electra.toml model/d_model=64 train/batch_tokens=2048 train/accumulate=1
for deck in electra.toml rte.toml; do
  expect 0 'the deck.s own; medians of 2' kokomoe bench step -i $deck --repeats 2 --warm-up 1 \
    --json bench.json data/vocabulary=280
done
length="$("$KOKOMOE_PYTHON" -c 'import json; print(json.load(open("bench.json"))["results"][0]["tokens"] / 20)')"
PLAN_OPTIONS="--length $length" compare_plan planned_pairs 1 rte.toml model/d_model=64 \
  train/batch_sentences=80 train/accumulate=2 data/vocabulary=280

if [[ -n "$KOKOMOE_MPIEXEC" ]]; then
  # Experts that choose their tokens have equally many on every rank.
  compare_plan planned_ranks 2 electra.toml model/d_model=64 train/batch_tokens=2048 \
    train/accumulate=1 moe/router=expert_choice parallel/expert_ranks=2
fi
expect 0 'model/from = "nothing" is not there' kokomoe plan -i rte.toml model/from=nothing
expect 2 '"model/from".*d_model' kokomoe plan -i rte.toml model/from=whole model/d_model=64
expect 0 'more than the deck allows: 64 is taken' kokomoe plan -i rte.toml --length 65
expect 2 'length' kokomoe plan -i rte.toml --length 0.9
if [[ -n "$KOKOMOE_MPIEXEC" ]]; then
  # Another folder on each rank: what one finds goes for all.
  mkdir elsewhere
  cp rte.toml ./*.tsv elsewhere
  read -r -a start <<<"$KOKOMOE_MPIEXEC"
  for folders in ". elsewhere" "elsewhere ."; do
    read -r first second <<<"$folders"
    expect 0 'forward and backward' timeout 60 "${start[@]}" -n 1 -wdir "$first" \
      env OMP_NUM_THREADS=1 OMP_PROC_BIND=false "$KOKOMOE_PROGRAM" plan -i rte.toml model/from=whole : \
      -n 1 -wdir "$second" \
      env OMP_NUM_THREADS=1 OMP_PROC_BIND=false "$KOKOMOE_PROGRAM" plan -i rte.toml model/from=whole
  done
  rm -r elsewhere
fi

# Fine-tuning takes the encoder and the tokenizer over, and needs neither again when it resumes.
expect 0 '' kokomoe validate -i rte.toml model/from=whole
expect 0 'done: 12 steps' kokomoe train -i rte.toml -d tuned model/from=whole
grep -q '400 pairs in 20 updates of 20, 60 pairs held out' output.txt || fail "no word about the pairs"
expect 0 'done: 0 steps' kokomoe train -i rte.toml -d begin model/from=whole train/steps=0
for name in embedding.weight discriminator.encoder.0.moe.experts.w1 discriminator.encoder.1.ffn.w2; do
  kokomoe inspect whole --export $name >a.txt
  kokomoe inspect begin --export $name >b.txt
  cmp a.txt b.txt || fail "$name was not taken over"
done
mv whole elsewhere
expect 75 'stopped at step 1' kokomoe train -i rte.toml -d tuned_part model/from=elsewhere -t 00:00:01
mv elsewhere whole
expect 0 'resumed from' kokomoe train -d tuned_part -r last
diff <(rows tuned) <(rows tuned_part) || fail "metric rows differ"
expect 0 'accuracy.* on 60 sentences' kokomoe eval -r tuned --json tuned.json
"$KOKOMOE_PYTHON" - <<'PY'
import json
for run, report in (("whole", json.load(open("eval.json"))), ("tuned", json.load(open("tuned.json")))):
    rows = [json.loads(line) for line in open(run + "/metrics.jsonl")]
    evals = [row for row in rows if "eval_loss" in row]
    assert [row["step"] for row in evals] == [4, 8, 12]
    assert abs(report["loss"] - evals[-1]["eval_loss"]) < 1e-9, report
    for name in ({"whole": ("generator_accuracy", "discriminator_accuracy", "replaced", "found"),
                  "tuned": ("accuracy", "f1")}[run]):
        assert 0 <= report[name] <= 1, report
    assert -1 <= report.get("matthews", 0) <= 1
    assert "causal" not in report and ("tokens" in report) == (run == "whole"), report
    assert report.get("sentences", 60) == 60, report
    for row in rows:
        if "task_loss" in row:
            assert abs(row["loss"] - row["task_loss"] - row["aux_loss"]) < 1e-9
PY

# Another number of classes is another model's; other names of as many are not.
expect 2 '"data/format": .* was trained with "rte": another value makes another model' \
  kokomoe train -d tuned -r last train/steps=13 data/format=stsb
sed 's/"rte"/"mnli"/' rte.toml >mnli.toml
expect 2 'resuming would change data/format from "rte" to "mnli"' \
  kokomoe train -i mnli.toml -d tuned -r last train/steps=13 model/from=whole
expect 2 'was trained with data/format = "rte", not "mnli"' kokomoe eval -r tuned data/format=mnli
sed 's/not_entailment$/0/; s/entailment$/1/' held.tsv >held_wnli.tsv
expect 0 'accuracy' kokomoe eval -r tuned data/format=wnli data/heldout=held_wnli.tsv --json wnli.json
cmp tuned.json wnli.json || fail "other names of classes give other figures"

# Predictions for a table without labels are those that eval counted with them.
cut -f1-3 held.tsv >bare.tsv
kokomoe predict -r tuned --input bare.tsv >told.tsv
paste held.tsv told.tsv | "$KOKOMOE_PYTHON" -c '
import json, sys
rows = [line.rstrip("\n").split("\t") for line in sys.stdin]
assert rows[0][4:] == ["index", "prediction"] and len(rows) == 61, rows[:2]
assert [row[4] for row in rows[1:]] == [str(n) for n in range(60)]
right = sum(row[3] == row[5] for row in rows[1:]) / 60
assert abs(right - json.load(open("tuned.json"))["accuracy"]) < 1e-12, right'
if [[ -n "$KOKOMOE_MPIEXEC" ]]; then
  $KOKOMOE_MPIEXEC -n 2 "$KOKOMOE_PROGRAM" predict -r tuned --input bare.tsv >told_ranks.tsv
  cmp told.tsv told_ranks.tsv || fail "two ranks predict other labels"
fi
head -n 1 bare.tsv >header.tsv
expect 2 'header.tsv: error: no rows of sentences' kokomoe predict -r tuned --input header.tsv
printf 'sentence1\tsentence2\n\tka no\nka\t\n' >empty.tsv
[[ $(kokomoe predict -r tuned --input empty.tsv | wc -l) == 3 ]] || fail "a row has no answer"
expect 2 'bare.tsv:1: error: no column "sentence": there are "index", "sentence1"' \
  kokomoe predict -r tuned --input bare.tsv data/format=sst2
expect 2 'run/task = "electra", but this wants a model of sentences' \
  kokomoe predict -r whole --input bare.tsv

# Without a run to begin with, a tokenizer is made of the sentences: labels would need more pieces.
expect 2 'a vocabulary of 8000 on the sentences of train.tsv: ' kokomoe train -i rte.toml -d bad
expect 0 'done: 1 steps' kokomoe train -i rte.toml -d own data/vocabulary=280 train/steps=1

# Activations in bfloat16: nearly the same losses.
for deck in electra rte; do
  for norm in false true; do
    few=(train/steps=6 data/tokenizer=bytes model/post_norm=$norm)
    expect 0 'done: 6 steps' kokomoe train -i $deck.toml -d ${deck}_whole_$norm "${few[@]}"
    expect 0 'done: 6 steps' kokomoe train -i $deck.toml -d ${deck}_rounded_$norm "${few[@]}" \
      run/activations=bfloat16
    expect 0 'accuracy' kokomoe eval -r ${deck}_rounded_$norm
  done
done
"$KOKOMOE_PYTHON" - <<'PY'
import json
loss = lambda run: [json.loads(l)["loss"] for l in open(run + "/metrics.jsonl") if '"loss"' in l]
for deck in ("electra", "rte"):
    for norm in ("false", "true"):
        whole, rounded = (loss(f"{deck}_{kind}_{norm}") for kind in ("whole", "rounded"))
        assert whole != rounded, (deck, norm)
        for a, b in zip(whole, rounded, strict=True):
            assert abs(a - b) < 0.02 * a, (deck, norm, a, b)
PY

if [[ -n "$KOKOMOE_MPIEXEC" ]]; then
  for deck in electra rte; do
    expect 0 'done: 6 steps' $KOKOMOE_MPIEXEC -n 2 "$KOKOMOE_PROGRAM" train -i $deck.toml \
      -d ${deck}_ranks parallel/expert_ranks=2 train/steps=6 data/tokenizer=bytes
    expect 0 'done: 6 steps' kokomoe train -i $deck.toml -d ${deck}_one train/steps=6 \
      data/tokenizer=bytes
  done
  "$KOKOMOE_PYTHON" - <<'PY'
import json
loss = lambda run: [json.loads(l)["loss"] for l in open(run + "/metrics.jsonl") if '"loss"' in l]
for deck in ("electra", "rte"):
    for a, b in zip(loss(deck + "_one"), loss(deck + "_ranks"), strict=True):
        assert abs(a - b) < 0.02 * a, (deck, a, b)
PY
  expect 0 'accuracy' $KOKOMOE_MPIEXEC -n 2 "$KOKOMOE_PROGRAM" eval -r rte_ranks
  expect 0 'done: 12 steps' $KOKOMOE_MPIEXEC -n 2 "$KOKOMOE_PROGRAM" train -i rte.toml -d tuned_ranks \
    model/from=whole parallel/expert_ranks=2
fi

expect 0 'note: .*"model/from": nothere: run or checkpoint not found' \
  kokomoe validate -i rte.toml model/from=nothere
for command in 'validate --data' 'train -d bad'; do
  expect 2 '"model/from": nothere: run or checkpoint not found' \
    kokomoe $command -i rte.toml model/from=nothere
done
expect 2 'was trained with model/d_model = 32, not 64' \
  kokomoe validate -i rte.toml model/from=whole model/d_model=64
expect 2 'was trained with model/d_model = 32, not 64' \
  kokomoe train -i rte.toml -d bad model/from=whole model/d_model=64
expect 2 'run/task = "language_model"' bash -c '"$KOKOMOE_PROGRAM" train -i deck.toml -d lm \
  train/steps=1 && "$KOKOMOE_PROGRAM" train -i rte.toml -d bad model/from=lm'
expect 2 'the tokenizer is that of model/from' \
  kokomoe validate -i rte.toml model/from=whole data/vocabulary=500
expect 2 'no column "question": there are "index", "sentence1"' \
  kokomoe train -i rte.toml -d bad data/format=qnli model/from=whole
sed '7s/[a-z_]*$/perhaps/' train.tsv >odd.tsv
expect 2 'odd.tsv:7: error: label "perhaps" is none of "not_entailment", "entailment"' \
  kokomoe train -i rte.toml -d bad data/train=odd.tsv model/from=whole
expect 2 'data/sequence_length.*exceeds model/max_length' \
  kokomoe validate -i electra.toml data/sequence_length=128
expect 2 'wants a language model' kokomoe generate -r whole --prompt ka
[[ ! -e bad/metrics.jsonl ]] || fail "a run of nothing began"

# The small tasks that scripts/data_glue_form.sh makes have these forms.
mkdir kjv
"$KOKOMOE_PYTHON" - <<'PY'
import random
draw = random.Random(3)
words = "and the lord said unto him go forth thou shalt king of Israel came with sword".split()
for part, chapters in (("train", 24), ("heldout", 8)):
    with open(f"kjv/{part}.txt", "w") as file:
        for n in range(chapters):
            book = ("Genesis", "Exodus", "Joshua", "1 Samuel")[n % 4]
            verses = [" ".join(draw.choice(words) for _ in range(10)) for _ in range(20)]
            file.write(("\n" if n else "") + f"{book} {n}\n" + "\n".join(verses) + "\n")
PY
"$KOKOMOE_PYTHON" "$KOKOMOE_SOURCE_DIR/scripts/glue_form.py" kjv forms 2>forms.txt
"$KOKOMOE_PYTHON" - <<'PY'
def rows(task, part, column):
    return [line.rstrip("\n").split("\t")[column] for line in open(f"forms/{task}/{part}.tsv")]
text = set(open("forms/pretrain.txt").read().split("\n"))
train = set(rows("kept", "train", 7)[1:])
held = [verse for part in ("dev", "test")
        for verse in rows("kept", part, 7)[1:] + rows("book", part, 0)[1:]]
assert len(held) > 100 and not text & set(held) and not train & set(held)
assert train and train <= text
PY
for task in swapped:cola book:sst2 next:rte kept:stsb; do
  rows="$(wc -l <"forms/${task%:*}/train.tsv")"
  [[ $task == swapped:* ]] || rows=$((rows - 1))
  expect 0 "\b$rows (sentences|pairs) in" \
    kokomoe train -i rte.toml -d "${task%:*}" data/format="${task#*:}" train/steps=1 \
    data/train="forms/${task%:*}/train.tsv" data/heldout="forms/${task%:*}/test.tsv" \
    data/tokenizer=bytes model/max_length=160
done
