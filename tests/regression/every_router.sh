#!/usr/bin/env bash
# SPDX-FileCopyrightText: Kokomoe authors
# SPDX-License-Identifier: BSD-3-Clause
# labels: slow
# timeout: 3000

# Every router trains the quickstart's model for 200 updates: its held-out loss falls, and no number is
# lost on the way. Batches of 1024 tokens keep it short.
source "$(dirname "${BASH_SOURCE[0]}")/_common.sh"
cd "$KOKOMOE_SOURCE_DIR"
folder="$OLDPWD"
bash scripts/fetch_kjv.sh > "$folder/fetch.log"

kokomoe routers --json "$folder/routers.json"
"$KOKOMOE_PYTHON" -c '
import json, sys
for router in json.load(open(sys.argv[1])): print(router["name"])' "$folder/routers.json" \
  > "$folder/names"
head -c 20000 data/kjv/heldout.txt > "$folder/heldout.txt"
while read -r name; do
  options=(moe/router="$name" train/steps=200 train/batch_tokens=1024 train/eval_every=100
    data/heldout="$folder/heldout.txt" checkpoint/every=0 moe/allow_future=true)
  # Some balance by themselves, and refuse the deck's loss.
  kokomoe validate -i inputs/lm/quickstart.toml "${options[@]}" > "$folder/validate.log" 2>&1 ||
    options+=(moe/balance=0)
  # A sequence's whole loss for each token's choice: unscaled, its variance takes all of the clipped
  # gradient, and the loss hardly moves (docs/estimators.md).
  [[ "$name" == reinforce ]] && options+=(moe/grad_factor=0.01)
  kokomoe train -i inputs/lm/quickstart.toml -d "$folder/$name" "${options[@]}" \
    > "$folder/$name.log" 2>&1 < /dev/null || { tail -5 "$folder/$name.log"; exit 1; }
  "$KOKOMOE_PYTHON" - "$name" "$folder/$name/metrics.jsonl" <<'END'
import json, math, sys
rows = [json.loads(line) for line in open(sys.argv[2])]
losses = [row["eval_loss"] for row in rows if "eval_loss" in row]
steps = [row["loss"] for row in rows if "loss" in row]
assert len(losses) == 2 and len(steps) >= 200, (len(losses), len(steps))
assert all(math.isfinite(x) for x in steps + losses)
# A byte at random costs log(256) = 5.5 nats.
assert losses[1] < losses[0] < 4.5, losses
print(f"{sys.argv[1]:20} held-out loss {losses[0]:.3f} after 100, {losses[1]:.3f} after 200")
END
done < "$folder/names"
