#!/usr/bin/env bash
# SPDX-FileCopyrightText: Kokomoe authors
# SPDX-License-Identifier: BSD-3-Clause

# kokomoe fidelity: its modes run from their decks, its JSON has the keys that others rely on, and
# mistakes are named.
source "$(dirname "${BASH_SOURCE[0]}")/_common.sh"
decks="$KOKOMOE_SOURCE_DIR/inputs/fidelity"

expect 0 'midpoint +one +A +1 +no' kokomoe fidelity -i "$decks/orders.toml" --json orders.json \
  fidelity/problems=2 fidelity/experts=[3]
"$KOKOMOE_PYTHON" - <<'END'
import json
rows = json.load(open("orders.json"))["results"]
keys = "estimator objective sites k argmax_exception relative_error cosine order scaled_error scaled_order"
for row in rows:
    assert set(keys.split()) <= set(row), row
assert {r["objective"] for r in rows} == {"A", "B"}
exact = [r for r in rows if r["estimator"] == "uniform_path" and not r["argmax_exception"]]
assert exact[0]["order"] is None and exact[0]["relative_error"] < 1e-10
END
expect 0 'tokens' kokomoe fidelity -i "$decks/orders_two_sites.toml" fidelity/problems=1 \
  fidelity/experts=[3]
expect 0 'heun +one +A +2' kokomoe fidelity -i "$decks/orders_top_2.toml" fidelity/problems=1 \
  fidelity/experts=[3]
expect 0 'uniform_path' kokomoe fidelity -i "$decks/spread.toml" --json spread.json \
  fidelity/problems=1 fidelity/samples=500
"$KOKOMOE_PYTHON" -c '
import json
for row in json.load(open("spread.json"))["results"]:
    assert {"bias", "variance", "mse"} <= set(row), row'
expect 0 'gain' kokomoe fidelity -i "$decks/planted.toml" planted/routers=switch planted/seeds=1 \
  planted/steps=100
expect 1 'BELOW THE MARGIN' kokomoe fidelity -i "$decks/planted.toml" planted/routers=switch \
  planted/seeds=1 planted/steps=100 planted/router_gradient=-1.0

# In training: while a deck trains, and on what a run left.
training=(-i "$decks/training.toml" fidelity/estimators=midpoint fidelity/samples=2
  fidelity/tokens=4)
expect 0 'midpoint +A +yes +2 +all' kokomoe fidelity "${training[@]}" fidelity/deck=deck.toml \
  fidelity/steps=2 fidelity/every=2
expect 0 'done: 3 steps' kokomoe train -i deck.toml -d run train/steps=3
expect 0 'midpoint +A +no +3 +0' kokomoe fidelity "${training[@]}" fidelity/deck= \
  fidelity/checkpoints=run

# A study is of the weights themselves, whatever products read in training.
if kokomoe validate -i deck.toml parallel/expert_kernels=blocks >/dev/null 2>&1; then
  blocks=(parallel/expert_kernels=blocks moe/weights=bfloat16)
  still=(optimizer/learning_rate=0 optimizer/minimum_rate=0 train/steps=31)
  kokomoe train -i deck.toml -d rounded train/steps=30 "${blocks[@]}" >/dev/null
  kokomoe train -d as_rounded -r rounded/checkpoints/step_30 "${still[@]}" >/dev/null
  kokomoe train -d as_whole -r rounded/checkpoints/step_30 "${still[@]}" moe/weights=full >/dev/null
  for name in as_rounded as_whole; do
    kokomoe fidelity "${training[@]}" fidelity/deck= fidelity/checkpoints="$name" --json "$name.json" >/dev/null
  done
  "$KOKOMOE_PYTHON" - <<'PY'
import json
rows = [json.load(open(f"{name}.json"))["results"] for name in ("as_rounded", "as_whole")]
assert rows[0] == rows[1] and rows[0], rows
PY
fi

expect 2 'did you mean "midpoint"' kokomoe fidelity -i "$decks/orders.toml" \
  fidelity/estimators=midpont
expect 2 'did you mean "fidelity/mode"' kokomoe fidelity -i "$decks/orders.toml" fidelity/mod=orders
expect 2 'no_such_run' kokomoe fidelity "${training[@]}" fidelity/deck= \
  fidelity/checkpoints=no_such_run
