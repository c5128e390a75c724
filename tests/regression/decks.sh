#!/usr/bin/env bash
# SPDX-FileCopyrightText: Kokomoe authors
# SPDX-License-Identifier: BSD-3-Clause

# Every deck of inputs/ is right, whether its data, or the run that it begins with, are here or not: of
# trainings, studies and fidelity.
source "$(dirname "${BASH_SOURCE[0]}")/_common.sh"

here="$PWD"
cd "$KOKOMOE_SOURCE_DIR"
number=0
while read -r deck; do
  number=$((number + 1))
  "$KOKOMOE_PROGRAM" validate -i "$deck" >"$here/validate.txt" 2>&1 ||
    { cat "$here/validate.txt" >&2; fail "$deck"; }
  case "$deck" in
    inputs/studies/byte_model.toml) ;;
    inputs/studies/*)
      grep -q '^note: a deck for kokomoe study: [1-9][0-9]* variants, [1-9][0-9]* seeds' "$here/validate.txt" ||
        fail "$deck is not seen as a study"
      ;;
    inputs/fidelity/*)
      grep -q '^note: a deck for kokomoe fidelity' "$here/validate.txt" ||
        fail "$deck is not seen as one of fidelity"
      ;;
  esac
done < <(find inputs -name '*.toml' | sort)
((number >= 20)) || fail "only $number decks found"
cd "$here"

# What is wrong in a variant is told before a study begins.
cat >wrong.toml <<'TOML'
[study]
deck = "deck.toml"
variants = ["a: moe/router=switch", "b: moe/rooter=switch"]
TOML
expect 2 'unknown key "moe/rooter"' kokomoe validate -i wrong.toml
printf '[study]\ndeck = "nothing.toml"\nvariants = ["a: moe/router=switch"]\n' >wrong.toml
expect 2 'nothing.toml' kokomoe validate -i wrong.toml
printf '[fidelity]\nmode = "ordres"\n' >wrong.toml
expect 2 'did you mean "orders"' kokomoe validate -i wrong.toml
printf '[study\n' >wrong.toml
expect 2 'wrong.toml:1:' kokomoe validate -i wrong.toml
