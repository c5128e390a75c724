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
[[ ! -e other ]] || fail "a study that was refused left a folder"
if [[ -n "$KOKOMOE_MPIEXEC" ]]; then
  expect 0 'switch, seed 3: bits_per_byte' $KOKOMOE_MPIEXEC -n 2 "$KOKOMOE_PROGRAM" study \
    -i study.toml -d ranks 'study/seeds=[3]' 'study/variants=["switch: moe/router=switch"]'
fi
