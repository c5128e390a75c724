#!/usr/bin/env bash
# SPDX-FileCopyrightText: Kokomoe authors
# SPDX-License-Identifier: BSD-3-Clause

# kokomoe bench gemm, layer and step: small ones run, say what they promise, and add up.
source "$(dirname "${BASH_SOURCE[0]}")/_common.sh"

kokomoe bench gemm --square 32 --rows 4,8 --d-model 16 --d-hidden 24 --repeats 2 --json gemm.json
for routing in random balanced skewed; do
  kokomoe bench layer --tokens 64 --d-model 32 --d-hidden 16 --experts 4 --repeats 2 \
    --router-repeats 3 --router switch,sparsemixer,deepseek_v3 --routing "$routing" \
    --json "$routing.json"
done
# Without text: the deck's own is not there.
kokomoe bench step -i deck.toml --repeats 2 --warm-up 1 --json sparse.json 'data/train=["absent.txt"]'
kokomoe bench step -i deck.toml --repeats 2 --warm-up 1 --json dense.json moe/every=2 \
  run/precision=double

"$KOKOMOE_PYTHON" - <<'PY'
import json

def results(name):
    content = json.load(open(f"{name}.json"))
    assert {"gemm_gflops", "blas", "cores"} <= content["machine"].keys()
    return content["results"]

shapes = [(row["m"], row["n"], row["k"]) for row in results("gemm")]
assert shapes == [(32, 32, 32), (4, 24, 16), (4, 16, 24), (8, 24, 16), (8, 16, 24)], shapes
assert all(row["gflops_best"] >= row["gflops"] > 0 for row in results("gemm"))

for routing in ("random", "balanced", "skewed"):
    for row in results(routing):
        shares = [row["share_" + part] for part in ("router", "dispatch", "experts", "combine")]
        assert abs(sum(shares) - 1) < 1e-9, row
        low, high = row["both_ms_quartiles"]
        assert 0 < low <= row["both_ms"] <= high, row
        assert row["saved_bytes"] > 0 and row["scratch_bytes"] > 0, row
        # Of a layer that balances by sequence the router is not timed alone.
        alone = row["router"] in ("switch", "sparsemixer")
        assert ("router_ms" in row) == alone, row
        if not alone:
            continue
        assert 0 < row["router_ms_least"] <= row["router_ms"], row
        assert row["router_product_flops"] == 6 * 64 * 32 * 4, row
        if routing != "random":
            assert row["largest_over_mean"] == {"balanced": 1, "skewed": 2}[routing], row

for name, none in (("sparse", "feed_forward"), ("dense", None)):
    row, = results(name)
    assert abs(sum(row["shares"].values()) - 1) < 1e-9, row
    for part, share in row["shares"].items():
        assert (share > 0) == (part != none), (name, part, share)
    assert row["tokens"] == 512 and row["tokens_per_second"] > 0 and row["saved_bytes"] > 0
    assert "d_model = 32" in row["effective_deck"]
PY
expect 2 'no logits x W\^T' kokomoe bench layer --tokens 16 --d-model 8 --d-hidden 8 --experts 2 \
  --router hash --routing balanced
