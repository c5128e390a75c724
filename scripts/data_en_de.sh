#!/usr/bin/env bash
# SPDX-FileCopyrightText: Kokomoe authors
# SPDX-License-Identifier: BSD-3-Clause

# Writes an English-German corpus from documentation that Debian ships in both languages:
#   data/en_de/{train,valid,test}.{en,de} and report.txt   [or under the folder given as first argument]
# scripts/pairs_en_de.py says how pages are paired and split. Fetches 110 MB of packages with apt-get and
# unpacks them without installing anything; does nothing when the corpus is there and whole.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

packages=(debian-reference-en debian-reference-de gimp-help-en gimp-help-de
  libreoffice-help-en-us libreoffice-help-de)
folder="${1:-$kokomoe_root/data/en_de}"
files=({train,valid,test}.{en,de})
if [[ -f "$folder/sums" ]] && (cd "$folder" && sha256sum --status --check sums); then
  note "$folder is there already"
  exit 0
fi
for tool in apt-get dpkg-deb; do
  command -v "$tool" >/dev/null || die "no $tool here: the text comes from Debian's packages"
done

stage "fetching documentation in two languages"
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
# apt-get download writes here, and what it fetches with may be another user.
chmod 755 "$work"
(cd "$work" && apt-get -q download "${packages[@]}" >&2) ||
  die "the packages could not be fetched: apt-get update first, and see the lines above"
for package in "$work"/*.deb; do dpkg-deb -x "$package" "$work/unpacked"; done

stage "writing pairs to $folder"
mkdir -p "$folder"
"$(kokomoe_python)" "$kokomoe_root/scripts/pairs_en_de.py" "$work/unpacked" "$folder"
(cd "$folder" && sha256sum "${files[@]}" >sums)
