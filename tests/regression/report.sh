#!/usr/bin/env bash
# SPDX-FileCopyrightText: Kokomoe authors
# SPDX-License-Identifier: BSD-3-Clause

# The page on runs: whole, on its own, and with the numbers that the runs wrote.
source "$(dirname "${BASH_SOURCE[0]}")/_common.sh"

kokomoe train -i deck.toml -d one train/eval_every=2 >one.txt
kokomoe train -i deck.toml -d two train/eval_every=2 moe/router=switch train/steps=8 >two.txt
expect 0 'report.html: 2 run\(s\)' kokomoe report one two --json figures.json
[[ ! -e report.html.tmp ]] || fail "a temporary file is left"

cat >page.py <<'PY'
"""What a page holds, by a parser that knows nothing of who wrote it."""
import html.parser
import re

VOID = {"meta", "br"}


class Page(html.parser.HTMLParser):
    def __init__(self, path):
        super().__init__(convert_charrefs=True)
        self.open, self.curves, self.heats, self.texts, self.tags = [], {}, {}, [], []
        self.plot = None
        text = open(path, encoding="utf-8").read()
        assert text.startswith("<!DOCTYPE html>")
        self.feed(text)
        self.close()
        assert not self.open, f"{path}: not closed: {self.open}"
        self.text = " ".join(self.texts)

    def handle_starttag(self, tag, attributes):
        self.start(tag, attributes)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.start(tag, attributes)

    def start(self, tag, attributes):
        values = dict(attributes)
        assert len(values) == len(attributes), f"<{tag}> names an attribute twice: {attributes}"
        self.tags.append((tag, values))
        for name in ("src", "href", "srcset", "data", "action", "xlink:href"):
            assert name not in values, f"<{tag}> reads {values[name]}"
        assert tag not in ("link", "iframe", "object", "embed", "img", "base"), tag
        assert not any(name.startswith("on") for name in values), f"<{tag}> {attributes}"
        if tag == "svg" and "data-plot" in values:
            self.plot = values
            self.curves.setdefault(values["data-plot"], [])
            if "data-columns" in values:
                self.heats[values["data-plot"]] = (int(values["data-rows"]),
                                                   int(values["data-columns"]))
        if tag == "path" and values.get("class", "").startswith("curve"):
            self.curves[self.plot["data-plot"]].append((values["data-name"], values["data-look"],
                                                        points(self.plot, values["d"])))

    def handle_endtag(self, tag):
        assert self.open and self.open[-1] == tag, f"</{tag}> in {self.open}"
        self.open.pop()

    def handle_data(self, data):
        if self.open and self.open[-1] == "style":
            assert "url(" not in data and "@import" not in data
        elif self.open and self.open[-1] == "script":
            assert "http" not in data and "fetch" not in data and "import" not in data
        else:
            self.texts.append(data)

    def look(self, plot, look):
        return [curve for curve in self.curves[plot] if curve[1] == look]


def points(plot, path):
    """Values from lengths, by the attributes that the drawing carries."""
    left, right, top, bottom = map(float, plot["data-box"].split())
    x0, x1, y0, y1 = (float(plot["data-" + name]) for name in ("x0", "x1", "y0", "y1"))
    def value(low, high, t, log):
        return low * (high / low) ** t if log else low + t * (high - low)
    return [(value(x0, x1, (float(x) - left) / (right - left), "x" in plot["data-log"]),
             value(y0, y1, (bottom - float(y)) / (bottom - top), "y" in plot["data-log"]))
            for x, y in re.findall(r"[ML]([-\d.]+) ([-\d.]+)", path)]
PY

cat >compare.py <<'PY'
"""A page and its figures against what the runs wrote."""
import json
import statistics
from page import Page

page = Page("report.html")
figures = json.load(open("figures.json"))
assert figures["loss"] == "task_loss"
names = ["one", "two"]
assert [run["name"] for run in figures["runs"]] == names
rows = {name: [json.loads(line) for line in open(f"{name}/metrics.jsonl")] for name in names}
steps = {name: [row for row in rows[name] if "loss" in row] for name in names}
evals = {name: [row for row in rows[name] if "eval_loss" in row] for name in names}
assert len(steps["one"]) == 6 and len(steps["two"]) == 8 and len(evals["two"]) == 4

def agrees(plot, look, name, expected):
    found = [curve[2] for curve in page.look(plot, look) if curve[0] == name]
    assert len(found) == 1, (plot, look, name, page.curves[plot])
    assert len(found[0]) == len(expected), (plot, name, len(found[0]), len(expected))
    for axis in (0, 1):
        values = [point[axis] for curve in page.curves[plot] for point in curve[2]]
        close = (max(values) - min(values)) * 1e-4 + 1e-12
        for a, b in zip(found[0], expected):
            assert abs(a[axis] - b[axis]) < close, (plot, name, a, b, close)

for name in names:
    for plot, key in (("loss", "task_loss"), ("learning_rate", "learning_rate"),
                      ("grad_norm", "grad_norm"), ("tokens_per_second", "tokens_per_second"),
                      ("aux_loss", "aux_loss"), ("dead_experts", "dead_experts")):
        agrees(plot, "line", name, [(row["step"], row[key]) for row in steps[name]])
    agrees("busiest", "line", name,
           [(row["step"], max(row["load_largest_over_mean"])) for row in steps[name]])
    seconds, passed = [], 0
    for row in steps[name]:
        passed += row["seconds"]
        seconds.append(passed)
    agrees("loss_time", "line", name,
           [(time, row["task_loss"]) for time, row in zip(seconds, steps[name])])
    agrees("loss", "points", name + ", eval_loss",
           [(row["step"], row["eval_loss"]) for row in evals[name]])
    agrees("eval_0", "points", name, [(row["step"], row["eval_loss"]) for row in evals[name]])
assert page.heats["imbalance_0"] == (2, 6) and page.heats["imbalance_1"] == (2, 8), page.heats

for name, run in zip(names, figures["runs"]):
    last = steps[name][-1]
    assert run["step"] == last["step"] == run["planned_steps"]
    assert run["tokens"] == last["tokens"] and run["last_loss"] == last["task_loss"]
    assert abs(run["seconds"] - sum(row["seconds"] for row in steps[name])) < 1e-9
    rates = [row["tokens_per_second"] for row in steps[name]]
    assert abs(run["median_tokens_per_second"] - statistics.median(rates)) < 1e-9 * rates[0]
    best = min(evals[name], key=lambda row: row["eval_loss"])
    assert (run["best_eval_loss"], run["best_eval_step"]) == (best["eval_loss"], best["step"])
    for key, figure in run["last_evaluation"].items():
        assert figure == {"value": evals[name][-1][key], "step": last["step"]}, (key, figure)
    assert set(run["last_evaluation"]) == set(evals[name][-1]) - {"step", "expert_load"}
    assert f"{best['eval_loss']:.4f}" in page.text
differences = figures["deck_differences"]
assert differences["moe/router"] == ['"sparsemixer"', '"switch"'], differences
assert differences["train/steps"] == ["6", "8"] and "model/d_model" not in differences
for part in ("moe/router", "No samples.jsonl", "OpenMP"):
    assert part in page.text, part
assert open("one/effective.toml").read() in page.text
PY
"$KOKOMOE_PYTHON" compare.py

# A run without anything but metrics, another with everything; names, texts and figures that would be
# markup; a line that is being written; losses that are not finite.
hostile='<img src=x onerror=alert(1)>&"'"'"
mkdir -p "a/$hostile" "b/$hostile" bare
"$KOKOMOE_PYTHON" - "$hostile" <<'PY'
import json
import sys
hostile = sys.argv[1]
with open(f"a/{hostile}/metrics.jsonl", "w") as file:
    for step in range(1, 31):
        loss = None if step in (7, 8, 20) else 4 / step
        file.write(json.dumps({"step": step, "loss": loss, "seconds": 0.5}) + "\n")
        if step % 10 == 0:
            load = [[0.5, 0.5, 0, 0], [0.25] * 4]
            file.write(json.dumps({"step": step, "eval_loss": 5 - step / 10 if step < 30 else 4.5,
                                   "expert_load": load, f"bleu{hostile}": step}) + "\n")
    file.write('{"step": 31, "lo')
with open(f"a/{hostile}/samples.jsonl", "w") as file:
    for i in range(40):
        file.write(json.dumps({"text": f"sample {i}", "source": hostile, "reference": "r"}) + "\n")
    file.write(json.dumps({"step": 30, "text": f"a text{hostile}\n" + "x" * 5000}) + "\n")
json.dump({"processor": hostile, "threads": 2, "memory": {"host": "1 GiB"}},
          open(f"a/{hostile}/machine.json", "w"))
open(f"a/{hostile}/effective.toml", "w").write('[moe]\nrouter = "<script>"\n[train]\nsteps = 40\n')
with open(f"b/{hostile}/metrics.jsonl", "w") as file:
    # Long enough to be thinned out, with one step that stands out.
    for step in range(1, 20001):
        file.write(json.dumps({"step": step, "loss": 900 if step == 12345 else 1 + 1 / step,
                               "task_loss": 1, "seconds": 1, "grad_norm": 1}) + "\n")
open("bare/metrics.jsonl", "w").write('{"step": 1, "loss": 2.5}\n')
PY
expect 0 '3 run' kokomoe report "a/$hostile" "b/$hostile/" bare/. -o "page $hostile.html" \
  --json hostile.json
mv "page $hostile.html" hostile.html
(($(wc -c <hostile.html) < 400000)) || fail "a page of $(wc -c <hostile.html) bytes"
"$KOKOMOE_PYTHON" - "$hostile" <<'PY'
import json
import sys
from page import Page
hostile = sys.argv[1]
page, figures = Page("hostile.html"), json.load(open("hostile.json"))
names = [f"a/{hostile}", f"b/{hostile}", "bare"]
assert [run["name"] for run in figures["runs"]] == names and figures["loss"] == "loss"
first, second, bare = figures["runs"]
assert first["not_finite"] == 3 and first["planned_steps"] == 40 and first["tokens"] is None
assert (first["best_eval_loss"], first["best_eval_step"]) == (3, 20)
assert first["last_evaluation"][f"bleu{hostile}"] == {"value": 30, "step": 30}
assert any("not whole" in note for note in first["notes"]), first
assert second["best_eval_loss"] is None and bare["median_tokens_per_second"] is None
for text in (f"a text{hostile}", "bytes more", "sample 39", "The last 24 of 41", "memory/host",
             "at step 30 of 40: under way, or ended early", "metrics.jsonl is not whole yet",
             "3 step(s) is not finite", f"bleu{hostile}", "<script>",
             f"b/{hostile} and bare : no evaluations yet", "Not known of "):
    assert text in page.text, text
assert "sample 16" not in page.text
thin = {name: curve for name, look, curve in page.look("loss", "thin")}
assert len(thin[names[0]]) == 30 - 3
assert 900 < len(thin[names[1]]) < 1000, len(thin[names[1]])
x, y = max(thin[names[1]], key=lambda point: point[1])
assert abs(x - 12345) < 1 and abs(y - 900) < 0.1, (x, y)
line = {name: curve for name, look, curve in page.look("loss", "line")}
assert len(line["bare"]) == 1 and abs(line["bare"][0][1] - 2.5) < 0.01
assert page.heats["load_0_0"] == page.heats["load_0_1"] == (4, 3), page.heats
marks = [v for tag, v in page.tags if tag == "path" and v.get("class", "").startswith("mark")]
assert len(marks) == 1 and marks[0]["d"].count("M") == 3, marks
assert sum(tag == "script" for tag, _ in page.tags) == 1
PY

# A run that has just begun beside another one, and runs that evaluated without a step: a page all the
# same.
kokomoe train -i deck.toml -d no_steps train/steps=0 >no_steps.txt
mkdir begun evaluated
: >begun/metrics.jsonl
cp one/effective.toml begun
printf '{"step":0,"eval_loss":3,"expert_load":[[1,0]]}\n{"step":4,"eval_loss":2.5}\n' \
  >evaluated/metrics.jsonl
expect 0 '4 run' kokomoe report begun one evaluated no_steps --json begun.json -o begun.html
expect 0 '1 run' kokomoe report evaluated -o evaluated.html
"$KOKOMOE_PYTHON" - <<'PY'
import json
from page import Page
page, figures = Page("begun.html"), json.load(open("begun.json"))
begun, one, evaluated, no_steps = figures["runs"]
assert figures["loss"] == "task_loss"
assert begun["step"] == 0 and begun["planned_steps"] == 6 and begun["seconds"] is None, begun
assert begun["notes"][0] == "its metrics.jsonl has no lines yet", begun
assert evaluated["best_eval_loss"] == 2.5 and evaluated["last_loss"] is None, evaluated
for text in ("begun and no_steps : its metrics.jsonl has no lines yet",
             "begun : at step 0 of 6: under way"):
    assert text in page.text, text
assert {name for name, look, curve in page.curves["loss"] if look == "line"} == {"one"}
assert "evaluated, eval_loss" in {name for name, look, curve in page.curves["loss"]}
Page("evaluated.html")
PY

# To standard output; in the place of an old page; a page that cannot be written.
kokomoe report one --json - -o report.html 2>said.txt | "$KOKOMOE_PYTHON" -c '
import json, sys
assert [run["name"] for run in json.load(sys.stdin)["runs"]] == ["one"]'
grep -q 'report.html: 1 run' said.txt || fail "what was written is not said"
"$KOKOMOE_PYTHON" -c 'from page import Page
page = Page("report.html")
assert [curve[0] for curve in page.look("loss", "line")] == ["one"]'
expect 2 'cannot be written' kokomoe report one -o nowhere/report.html
expect 2 'is a folder' kokomoe report one -o two
expect 2 'cannot be written' kokomoe report one --json nowhere/figures.json

# What a user gets wrong.
expect 2 'runs is required' kokomoe report
expect 2 'missing: error: run folder not found' kokomoe report one missing
expect 2 'deck.toml: error: this is no run folder' kokomoe report deck.toml
expect 2 'cache: error: has no metrics.jsonl' kokomoe report cache
expect 2 'one/: error: this run is named twice' kokomoe report one two one/
expect 2 'at most 20 runs, not 21' kokomoe report $(seq 21)
wrong() {  # PATTERN LINES: metrics that are wrong
  mkdir -p wrong
  printf "$2" >wrong/metrics.jsonl
  expect 2 "$1" kokomoe report wrong -o wrong.html
  [[ ! -e wrong.html ]] || fail "a page on metrics that are wrong: $2"
}
good='{"step":1,"loss":1}\n'
wrong 'wrong: error: its metrics.jsonl has no lines yet' ''
wrong 'wrong: error: its metrics.jsonl has no lines yet' '{"step":1,'
expect 2 'none of the 2 runs has lines in its metrics.jsonl yet' kokomoe report wrong begun
wrong 'metrics.jsonl:2: error: this is no JSON$' "$good"'{"step":2,"lo\n'"$good"
wrong 'metrics.jsonl:2: error: this is no JSON$' "$good"'{"step":2,"lo\n'
wrong 'metrics.jsonl:2: error: this is no JSON object' "$good"'[2]\n'
wrong 'metrics.jsonl:1: error: no "step"' '{"loss":1}\n'
wrong 'metrics.jsonl:1: error: "step" is 1.5, not a count' '{"step":1.5,"loss":1}\n'
wrong 'metrics.jsonl:1: error: "loss" is no number' '{"step":1,"loss":"low"}\n'
wrong 'metrics.jsonl:2: error: step 1 comes after step 1' "$good$good"
wrong 'metrics.jsonl:2: error: step 1 comes after step 2' '{"step":2,"loss":1}\n'"$good"
wrong 'metrics.jsonl:2: error: "load_entropy" has 2 entries, 1 before' \
  '{"step":1,"loss":1,"load_entropy":[1]}\n{"step":2,"loss":1,"load_entropy":[1,2]}\n'
wrong 'metrics.jsonl:1: error: "expert_load" is no list of lists' \
  '{"step":1,"eval_loss":1,"expert_load":[1]}\n'
wrong 'metrics.jsonl:2: error: "expert_load" has other layers' \
  '{"step":1,"expert_load":[[1]]}\n{"step":2,"expert_load":[[1,0]]}\n'
printf "$good" >wrong/metrics.jsonl
printf 'x = \n' >wrong/effective.toml
expect 2 'wrong/effective.toml:1: error: ' kokomoe report wrong
rm wrong/effective.toml
echo '[]' >wrong/machine.json
expect 2 'wrong/machine.json: error: this is no JSON object' kokomoe report wrong
rm wrong/machine.json
printf '{"text":"a"}\n{"step":1}\n' >wrong/samples.jsonl
expect 2 'wrong/samples.jsonl:2: error: no "text"' kokomoe report wrong
