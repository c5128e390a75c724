#!/usr/bin/env bash
# SPDX-FileCopyrightText: Kokomoe authors
# SPDX-License-Identifier: BSD-3-Clause

# A study trains every variant with every seed, goes on where it was stopped, and its figures are those
# that Python finds in the runs' metrics.
source "$(dirname "${BASH_SOURCE[0]}")/_common.sh"

cat >study.toml <<'TOML'
[study]
title = "Two <routers>"
deck = "deck.toml"
overrides = ["train/steps=8", "train/eval_every=2"]
figure = "bits_per_byte"
reference = "switch"
seeds = [3, 4, 5]
variants = ["dense: moe/every=0", "switch: moe/router=switch", "top_2: moe/router=top_k moe/k=2"]
TOML

expect 75 'stopped; run the study again' kokomoe study -i study.toml -d study -t 00:00:01
expect 0 'top_2, seed 5: bits_per_byte' kokomoe study -i study.toml -d study --json first.json
expect 0 '\[9/9\].*was there' kokomoe study -i study.toml -d study --json again.json
cmp first.json again.json || fail "the same runs give other figures"
[[ "$(grep -c 'was there' output.txt)" == 9 ]] || fail "runs that were done were trained again"
"$KOKOMOE_PYTHON" - <<'PY'
import json, statistics
from html.parser import HTMLParser

report = json.load(open("first.json"))
assert report["steps"] == 8 and report["reference"] == "switch"
curves = {}
for name in ("dense", "switch", "top_2"):
    for seed in (3, 4, 5):
        rows = [json.loads(line) for line in open(f"study/runs/{name}/seed_{seed}/metrics.jsonl")]
        seconds, curve = 0.0, []
        for row in rows:
            seconds += row.get("seconds", 0)
            if "eval_loss" in row:
                curve.append((row["step"], row["bits_per_byte"], seconds))
        assert [step for step, *_ in curve] == [2, 4, 6, 8]
        curves[name, seed] = curve

def reach(curve, goal):
    for i, (step, value, seconds) in enumerate(curve):
        if value <= goal:
            if i == 0:
                return step, seconds
            s, v, t = curve[i - 1]
            share = (v - goal) / (v - value)
            return s + share * (step - s), t + share * (seconds - t)

near = lambda a, b: a is not None and abs(a - b) < 1e-9 * max(1, abs(b))
for row in report["variants"]:
    name = row["name"]
    last = [curves[name, seed][-1][1] for seed in (3, 4, 5)]
    own = [curves["switch", seed][-1][1] for seed in (3, 4, 5)]
    assert near(row["last"]["mean"], statistics.mean(last))
    assert near(row["last"]["deviation"], statistics.stdev(last))
    assert near(row["difference"]["mean"], statistics.mean(a - b for a, b in zip(last, own)))
    ratios = []
    for seed, goal in zip((3, 4, 5), own):
        there = reach(curves[name, seed], goal)
        if there:
            ratios.append(reach(curves["switch", seed], goal)[0] / there[0])
    assert row["reached"] == len(ratios), (row, ratios)
    if ratios:
        assert near(row["step_ratio"]["mean"], statistics.mean(ratios))

class Page(HTMLParser):
    text = ""
    def handle_starttag(self, tag, attributes):
        assert not any(n in ("src", "href") and v.startswith("http") for n, v in attributes)
    def handle_data(self, data):
        self.text += data
page = Page()
page.feed(open("study/study.html").read())
assert "Two <routers>" in page.text and "moe/router=top_k moe/k=2" in page.text
assert open("study/table.md").read().count("\n| ") >= 4
PY

expect 2 'train/batch_tokens = 512, not 256' kokomoe study -i study.toml -d study \
  'study/overrides=["train/steps=8", "train/eval_every=2", "train/batch_tokens=256"]'
expect 2 'there is no variant "swich"' kokomoe study -i study.toml -d other study/reference=swich
expect 2 'is not NAME: section/key=value' kokomoe study -i study.toml -d other 'study/variants=["a b"]'
expect 2 'unknown key "moe/rooter"' kokomoe study -i study.toml -d other \
  'study/variants=["a: moe/rooter=switch"]' study/reference=a
expect 2 'holds nothing out' kokomoe study -i study.toml -d other \
  'study/overrides=["data/heldout=[]"]'
# What training would refuse in any run is refused before the first.
expect 2 'have no "bits_per_bite", did you mean "bits_per_byte"' \
  kokomoe validate -i study.toml study/figure=bits_per_bite
expect 2 'b, seed 3: .*data/train.*nothere' kokomoe study -i study.toml -d other \
  'study/variants=["a: moe/every=0", "b: data/train=nothere.txt"]' study/reference=a
expect 0 'note: .*data/train.*nothere' kokomoe validate -i study.toml \
  'study/variants=["a: moe/every=0", "b: data/train=nothere.txt"]' study/reference=a
expect 2 'b, seed 3: .*data/train.*nothere' kokomoe validate --data -i study.toml \
  'study/variants=["a: moe/every=0", "b: data/train=nothere.txt"]' study/reference=a
expect 2 'train/steps = 0 leaves nothing' kokomoe study -i study.toml -d other \
  'study/variants=["a: train/steps=0"]' study/reference=a
expect 2 'study/seeds says the seeds' kokomoe study -i study.toml -d other \
  'study/variants=["a: run/seed=7"]' study/reference=a
[[ ! -e other ]] || fail "a study that was refused left a folder"

# A run that leaves the finite numbers is told, and the others stand.
wild='study/variants=["wild: optimizer/learning_rate=1e6 optimizer/warmup=0 optimizer/schedule=constant train/clip=0 train/steps=300", "tame: moe/router=switch"]'
expect 1 'wild, seed 3: FAILED: update' kokomoe study -i study.toml -d wild study/reference=tame \
  "$wild" 'study/seeds=[3]' --json wild.json
grep -q 'tame, seed 3: bits_per_byte' output.txt || fail "a failed run ended the study"
grep -q -- '- wild, seed 3: update' wild/table.md || fail "the table does not say what failed"
expect 1 'wild, seed 3: FAILED' kokomoe study -i study.toml -d wild study/reference=tame \
  "$wild" 'study/seeds=[3]'
"$KOKOMOE_PYTHON" -c '
import json
wild, tame = json.load(open("wild.json"))["variants"]
assert wild["last"] == {"mean": None, "deviation": None, "count": 0} and wild["runs"][0]["failed"]
assert tame["last"]["count"] == 1 and tame["steps"] == 8 and wild["steps"] == 300'

# A signal in a run's last evaluation stops the study, not only that run.
for _ in $(seq 100); do cat heldout.txt; done >long.txt
"$KOKOMOE_PROGRAM" study -i study.toml -d ended 'study/seeds=[3]' \
  'study/overrides=["train/steps=2", "train/eval_every=2", "data/heldout=long.txt"]' >ended.txt 2>&1 &
pid=$!
for _ in $(seq 600); do
  ! grep -qs '"step": *2' ended/runs/dense/seed_3/metrics.jsonl || break
  kill -0 $pid || break
  sleep 0.05
done
kill -TERM $pid
status=0
wait $pid || status=$?
[[ $status == 75 ]] || fail "exit $status, not 75: $(cat ended.txt)"
[[ ! -e ended/runs/top_2 ]] || fail "the study went on after a signal"

# Runs of one variant that have read other data are no seeds of one thing.
one='study/variants=["switch: data/train=moved.txt"]'
cp text.txt moved.txt
expect 0 'switch, seed 3' kokomoe study -i study.toml -d moved 'study/seeds=[3]' "$one"
head -c 50000 text.txt >moved.txt
expect 2 'was trained on other data than moved/runs/switch/seed_3' \
  kokomoe study -i study.toml -d moved 'study/seeds=[3, 4]' "$one"
if [[ -n "$KOKOMOE_MPIEXEC" ]]; then
  expect 0 'switch, seed 3: bits_per_byte' $KOKOMOE_MPIEXEC -n 2 "$KOKOMOE_PROGRAM" study \
    -i study.toml -d ranks 'study/seeds=[3]' 'study/variants=["switch: moe/router=switch"]'
fi
