# SPDX-FileCopyrightText: Kokomoe authors
# SPDX-License-Identifier: BSD-3-Clause

# What the scripts share: a small deck on a text that is always the same, and checks that name
# themselves.
set -euo pipefail

# 40000 words of a made-up language, common ones more often. (seed() and random() give the same on
# every Python 3.)
"$KOKOMOE_PYTHON" - <<'PY'
import random
source = random.Random(2310)
pick = lambda letters: letters[int(source.random() * len(letters))]
words = ["".join(pick("bdfgklmnprst") + pick("aeiou") for _ in range(1 + i % 3)) for i in range(600)]
with open("text.txt", "w") as text:
    for i in range(40000):
        text.write(words[int(600 ** source.random()) - 1] + (".\n" if i % 13 == 12 else " "))
PY
head -c 6000 text.txt >heldout.txt
cat >deck.toml <<'TOML'
[model]
d_model = 32
d_hidden = 48
layers = 2
heads = 2
[moe]
experts = 4
z_loss = 0.001
[train]
steps = 6
batch_tokens = 512
[optimizer]
learning_rate = 3e-3
warmup = 2
[data]
train = ["text.txt"]
heldout = ["heldout.txt"]
cache = "cache"
sequence_length = 64
TOML

fail() {
  echo "FAILED: $*" >&2
  exit 1
}

# expect CODE PATTERN COMMAND...: the exit code, and a line of the output that matches.
expect() {
  local code="$1" pattern="$2" status=0
  shift 2
  "$@" >output.txt 2>&1 || status=$?
  if ((status != code)) || { [[ -n "$pattern" ]] && ! grep -Eq -- "$pattern" output.txt; }; then
    cat output.txt >&2
    fail "expected exit $code and /$pattern/, got exit $status of: $*"
  fi
}

kokomoe() { "$KOKOMOE_PROGRAM" "$@"; }

# Rows of metrics without what depends on the clock.
rows() { sed -E 's/"(tokens_per_second|seconds)": ?[^,}]*,?//g' "$1/metrics.jsonl"; }

# start [FOLDER/]NAME OPTIONS...: a training in the background with that run folder and the output
# NAME.txt. Its process is $pid. Through a pipe: limits on files are not for what it prints.
start() {
  local folder="$1" output="${1##*/}.txt"
  shift
  : >"$output"  # the pipe opens it some time later
  "$KOKOMOE_PROGRAM" train -i deck.toml -d "$folder" "$@" > >(cat >"$output") 2>&1 &
  pid=$!
  trap 'kill "$pid" 2>/dev/null || true' EXIT
}

# await PATTERN FILE: until a line matches, within a minute.
await() {
  local tries=0
  until grep -Eqs -- "$1" "$2"; do
    ((++tries < 1200)) || { tail -n 20 "$2" >&2; fail "no line /$1/ in $2"; }
    sleep 0.05
  done
}

# await_that COMMAND...: until it succeeds, within ten seconds.
await_that() {
  local tries=0
  until "$@"; do
    ((++tries < 200)) || fail "waited in vain for: $*"
    sleep 0.05
  done
}

# ends_with CODE FILE: the exit code of $pid.
ends_with() {
  local status=0
  wait "$pid" || status=$?
  ((status == $1)) || { tail -n 5 "$2" >&2; fail "exit $status, expected $1"; }
}

# fill_disk ROOM: fills the file system at disk/ with disk/filler until ROOM (5K) is left, and never
# takes more on the way: a run that writes a row of metrics just then would meet a full disk.
fill_disk() {
  local tries=0 free
  until free="$(stat -f -c '%a * %S' disk)" && fallocate -l "$((free - ${1%K} * 1024))" disk/filler; do
    ((++tries < 20)) || fail "cannot fill the disk up to $1"
  done
}

# compare_plan NAME RANKS DECK SETTING...: trains three steps, and holds parameters and memory against
# what kokomoe plan says. PLAN_OPTIONS: further words for it.
compare_plan() {
  local name="$1" ranks="$2" deck="$3"
  shift 3
  local start=()
  ((ranks > 1)) && read -r -a start <<<"$KOKOMOE_MPIEXEC -n $ranks env OMP_NUM_THREADS=1 OMP_PROC_BIND=false"
  # shellcheck disable=SC2086
  kokomoe plan -i "$deck" --ranks "$ranks" --gemm-gflops 100 --json "$name.json" \
    ${PLAN_OPTIONS:-} "$@" >"$name-plan.txt"
  "${start[@]}" "$KOKOMOE_PROGRAM" train -i "$deck" -d "$name" train/steps=3 "$@" >"$name.txt"
  kokomoe inspect "$name" --json "$name-tensors.json" >/dev/null
  "$KOKOMOE_PYTHON" - "$name" <<'PY'
import json, math, re, sys
name = sys.argv[1]
plan = json.load(open(f"{name}.json"))
tensors = json.load(open(f"{name}-tensors.json"))["tensors"]
trained = sum(math.prod(t["shape"]) for t in tensors if t["name"].startswith("parameters/"))
assert trained > 0 and plan["model"]["parameters"] == trained, (plan["model"]["parameters"], trained)
assert sum(part["parameters"] for part in plan["model"]["parts"]) == trained
number, unit = re.search(r"at its peak ([0-9.]+) (\w+)", open(f"{name}.txt").read()).groups()
peak = float(number) * 1024 ** ("B", "KiB", "MiB", "GiB").index(unit)
assert abs(plan["memory"]["total"] / peak - 1) < 0.1, (plan["memory"]["total"], peak)
PY
  echo "$name: parameters exactly, memory within a tenth"
}
