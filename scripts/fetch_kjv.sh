#!/usr/bin/env bash
# SPDX-FileCopyrightText: Kokomoe authors
# SPDX-License-Identifier: BSD-3-Clause

# Writes the King James Bible, from the Debian package bible-kjv, as training and held-out text:
#   data/kjv/train.txt, data/kjv/heldout.txt   [or under the folder given as first argument]
# Does nothing when both are there and whole.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

folder="${1:-$kokomoe_root/data/kjv}"
if [[ -f "$folder/sums" ]] && (cd "$folder" && sha256sum --status --check sums); then
  note "$folder is there already"
  exit 0
fi

bible="$(command -v bible || true)"
[[ -z "$bible" && -x /usr/bin/bible ]] && bible=/usr/bin/bible
[[ -n "$bible" ]] || die "no program 'bible': run scripts/install_packages.sh, or as root:
       apt-get install bible-kjv"

stage "writing the King James Bible to $folder"
mkdir -p "$folder"
"$bible" -f gen1:1-rev22:21 | "$(kokomoe_python)" "$kokomoe_root/scripts/split_kjv.py" "$folder"
(cd "$folder" && sha256sum train.txt heldout.txt >sums)
