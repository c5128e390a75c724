#!/usr/bin/env bash
# SPDX-FileCopyrightText: Kokomoe authors
# SPDX-License-Identifier: BSD-3-Clause

# Writes four small tasks in the formats of GLUE's files, from the King James Bible:
#   data/glue_form/{swapped,book,next,kept}/{train,dev,test}.tsv, pretrain.txt and README.txt
# [or under the folder given as first argument]. README.txt says what they are.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

folder="${1:-$kokomoe_root/data/glue_form}"
"$kokomoe_root/scripts/fetch_kjv.sh"
if [[ -f "$folder/sums" && -f "$folder/pretrain.txt" ]] && (cd "$folder" && sha256sum --status --check sums); then
  note "$folder is there already"
  exit 0
fi
stage "writing tasks to $folder"
mkdir -p "$folder"
"$(kokomoe_python)" "$kokomoe_root/scripts/glue_form.py" "$kokomoe_root/data/kjv" "$folder"
(cd "$folder" && sha256sum pretrain.txt ./*/*.tsv >sums)
