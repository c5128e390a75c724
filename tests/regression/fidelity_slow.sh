#!/usr/bin/env bash
# SPDX-FileCopyrightText: Kokomoe authors
# SPDX-License-Identifier: BSD-3-Clause
# labels: slow
# timeout: 1800

# The decks of inputs/fidelity as they stand: every order of the table, and the planted task, which a
# router with a wrong sign must not pass.
source "$(dirname "${BASH_SOURCE[0]}")/_common.sh"
decks="$KOKOMOE_SOURCE_DIR/inputs/fidelity"

kokomoe fidelity -i "$decks/orders.toml" --json orders.json
"$KOKOMOE_PYTHON" - <<'END'
import json
rows = {(r["estimator"], r["argmax_exception"]): r for r in json.load(open("orders.json"))["results"]}
# name: (order, with the exception, after the best scalar, with the exception); None: exact
table = {
    "conventional": (0, 0, 1, 1),
    "sparsemixer_v2": (0, 0, 1, 1),
    "euler": (1, 1, 1, 1),
    "midpoint": (2, 1, 2, 1),
    "sparsemixer": (2, 1, 2, 1),
    "heun": (3, 1, 3, 1),
    "sparsemixer_v2_star": (3, 1, 3, 1),
    "uniform_path": (None, 1, None, 1),
    "straight_through": (1, None, 1, None),
    "reinmax": (2, None, 2, None),
    "reinforce": (None, None, None, None),
}
def check(row, key, order):
    if order is None:
        error = row["relative_error" if key == "order" else "scaled_error"]
        assert row[key] is None and error < 1e-10, (row, key)
    else:
        assert abs(row[key] - order) < 0.1, (row, key, order)
for name, (plain, excepted, scaled, scaled_excepted) in table.items():
    check(rows[name, False], "order", plain)
    check(rows[name, False], "scaled_order", scaled)
    if (name, True) in rows:
        check(rows[name, True], "order", excepted)
        check(rows[name, True], "scaled_order", scaled_excepted)
print(f"{len(rows)} rows agree with the table")
END
kokomoe fidelity -i "$decks/orders_two_sites.toml"
kokomoe fidelity -i "$decks/orders_top_2.toml"

kokomoe fidelity -i "$decks/planted.toml" --json planted.json
kokomoe fidelity -i "$decks/planted.toml" --json wrong.json planted/router_gradient=-1.0 && exit 1
"$KOKOMOE_PYTHON" - <<'END'
import json
for row in json.load(open("planted.json"))["results"]:
    assert row["passed"] and len(row["losses"]) == 3, row
passed = [row["router"] for row in json.load(open("wrong.json"))["results"] if row["passed"]]
assert not passed, f"with a wrong sign these passed: {passed}"
END
