# SPDX-FileCopyrightText: Kokomoe authors
# SPDX-License-Identifier: BSD-3-Clause

# What the crash tests share: a run that saves every step, killed with SIGKILL and resumed, has to
# end as the unbroken one did. What a kill cannot show is a loss of power: data that the disk had not
# got yet survives the death of a process.
source "$(dirname "${BASH_SOURCE[0]}")/_common.sh"

settings=(train/steps=4 train/eval_every=2 checkpoint/every=1 model/layers=1 model/dropout=0.1)

# launch RANKS ARGUMENTS...: the program, on as many ranks.
launch() {
  local ranks="$1"
  shift
  if ((ranks == 1)); then
    "$KOKOMOE_PROGRAM" "$@"
  else
    $KOKOMOE_MPIEXEC -n "$ranks" "$KOKOMOE_PROGRAM" "$@" </dev/null
  fi
}

# ends_like WHOLE CUT RANKS WHAT: resumes CUT to its end and compares.
ends_like() {
  local whole="$1" cut="$2" ranks="$3" what="$4"
  launch "$ranks" train -i deck.toml -d "$cut" -r last "${settings[@]}" >resume.txt 2>&1 ||
    { cat resume.txt >&2; fail "$what: cannot be resumed"; }
  kokomoe inspect "$whole" "$cut" >compare.txt 2>&1 ||
    { cat compare.txt >&2; fail "$what: other tensors than the unbroken run"; }
  diff <(rows "$whole") <(rows "$cut") || fail "$what: other metric rows than the unbroken run"
  [[ "$(cat "$whole/checkpoints/best")" == "$(cat "$cut/checkpoints/best")" ]] ||
    fail "$what: another best checkpoint"
  # The next save tidies up; killed after its last one, a run has no next.
  if grep -q ' saved ' resume.txt; then
    [[ -z "$(find "$cut" -name '*.tmp*' -o -name '*.old*')" ]] || fail "$what: leftovers in $cut"
  fi
}

# random_kills COUNT SEED: one run after another, killed after random times until there were COUNT.
random_kills() {
  local count="$1" kills=0 runs=0 pid status
  RANDOM="$2"
  local settings=("${settings[@]}" train/steps=30)
  kokomoe train -i deck.toml -d long "${settings[@]}" >/dev/null
  while ((kills < count)); do
    rm -rf chain
    runs=$((runs + 1))
    while ((kills < count)); do
      "$KOKOMOE_PROGRAM" train -i deck.toml -d chain -r last "${settings[@]}" >chain.txt 2>&1 &
      pid=$!
      sleep "$(printf '0.%03d' $((150 + RANDOM % 800)))"
      kill -KILL "$pid" 2>/dev/null || true
      status=0
      wait "$pid" 2>/dev/null || status=$?
      ((status != 0)) || break
      ((status == 137)) || { cat chain.txt >&2; fail "exit $status instead of a kill"; }
      kills=$((kills + 1))
    done
    ends_like long chain 1 "after $kills kills at random moments"
  done
  echo "killed at $kills random moments of $runs runs: all end as the unbroken one"
}

# planned_kills RANKS RANK WHICH [SETTINGS...]: with RANKS ranks, one kill of RANK at each operation
# on the run folder from the third checkpoint to the end of the fourth, WHICH = all, or at each but
# only one write in 12, WHICH = some.
planned_kills() {
  local ranks="$1" rank="$2" which="$3" name="ranks$1" i number operation path status kills=0
  shift 3
  local settings=("${settings[@]}" "$@")
  if [[ ! -e $name-whole ]]; then
    launch "$ranks" train -i deck.toml -d "$name-whole" "${settings[@]}" >/dev/null 2>&1
    for i in 1 2 3; do
      status=0
      launch "$ranks" train -i deck.toml -d "$name-base" -r last -t 00:00:01 "${settings[@]}" \
        >/dev/null 2>&1 || status=$?
      ((status == 75)) || fail "exit $status at a wall limit"
    done
  fi
  # Settings go to mpiexec's ranks by the environment as well.
  killed() {
    rm -rf cut
    cp -r "$name-base" cut
    status=0
    export KOKOMOE_TEST_KILL="$1" KOKOMOE_TEST_UNDER=cut/ KOKOMOE_TEST_LOG="$2"
    if ((ranks == 1)); then
      # In a shell of its own, or this one would report each kill.
      (LD_PRELOAD="$KOKOMOE_KILL_LIBRARY" "$KOKOMOE_PROGRAM" train -i deck.toml -d cut -r last \
        "${settings[@]}" >killed.txt 2>&1 || exit "$?") 2>/dev/null || status=$?
    else
      export KOKOMOE_TEST_RANK="$rank"
      $KOKOMOE_MPIEXEC -n "$ranks" -x LD_PRELOAD="$KOKOMOE_KILL_LIBRARY" "$KOKOMOE_PROGRAM" \
        train -i deck.toml -d cut -r last "${settings[@]}" >killed.txt 2>&1 </dev/null || status=$?
    fi
    unset KOKOMOE_TEST_KILL KOKOMOE_TEST_UNDER KOKOMOE_TEST_LOG KOKOMOE_TEST_RANK
  }
  rm -f operations
  killed 0 "$PWD/operations"
  ((status == 0)) || { cat killed.txt >&2; fail "exit $status without a kill"; }
  for operation in write sync rename remove; do
    ((ranks > 1)) || grep -q " $operation " operations || fail "the library saw no $operation"
  done
  [[ $(grep -c " write " operations) -ge 3 ]] || fail "the library saw no writes of rank $rank"
  while read -r number operation path; do
    [[ $which == all || $operation != write || $((number % 12)) == 0 ]] || continue
    killed "$number" ""
    ((status != 0)) || fail "$operation $number of $path: rank $rank was not killed"
    grep -qs 'done: ' killed.txt && fail "$operation $number of $path: the run was done already"
    ends_like "$name-whole" cut "$ranks" "killed at operation $number, $operation of $path"
    kills=$((kills + 1))
  done <operations
  # mpiexec reads standard input when one lets it: it would eat the list.
  [[ $which == some || $kills == $(wc -l <operations) ]] || fail "only $kills kills"
  ((kills >= 3)) || fail "only $kills kills"
  echo "$ranks rank(s): rank $rank killed at $kills of $(wc -l <operations) operations: all resume"
}
