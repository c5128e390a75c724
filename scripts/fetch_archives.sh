#!/usr/bin/env bash
# SPDX-FileCopyrightText: Kokomoe authors
# SPDX-License-Identifier: BSD-3-Clause

# Puts the two source archives that hold Kokkos and Kokkos Kernels into $KOKOMOE_DEPS_DIR/archives,
# with their sums checked. Files already there (placed by hand, say) are used as they are.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

archives="$KOKOMOE_DEPS_DIR/archives"
# name version sha256
packages=(
  "pygenten 0.1.5 e620f05c742905e2db705d875f1cac92ef0ed453f9e6734e9beda26cc0f9cce7"
  "pycompadre 1.7.6 c766ec4d445ce076069be4b8c51a23ffac4ee79ea949ca86446bfd8c299b154c"
)

missing=()
for package in "${packages[@]}"; do
  read -r name version sum <<<"$package"
  have_sha256 "$archives/$name-$version.tar.gz" "$sum" || missing+=("$package")
done
((${#missing[@]})) || exit 0

stage "fetching ${#missing[@]} source archive(s) into $archives"
mkdir -p "$archives"
work="$(mktemp -d "$archives/fetch.XXXXXX")"
trap 'rm -rf "$work"' EXIT

python="$(kokomoe_python)"
if ! "$python" -m pip --version >/dev/null 2>&1; then
  "$python" -m venv "$work/venv" ||
    die "neither pip nor venv works with $python: run scripts/install_packages.sh, or place" \
      "the archives named in this script in $archives"
  python="$work/venv/bin/python"
fi

for package in "${missing[@]}"; do
  read -r name version sum <<<"$package"
  echo "$name==$version --hash=sha256:$sum" >>"$work/requirements.txt"
done

# pip asks a source package's build backend for metadata even when it only downloads. These
# stand-ins answer from PKG-INFO, so that nothing of the archives runs and no build tools are
# fetched. If a future pip does not like that, the plain download below still works.
mkdir -p "$work/backend/scikit_build_core" "$work/backend/setuptools"
cat >"$work/backend/setuptools/build_meta.py" <<'PYTHON'
import os


def prepare_metadata_for_build_wheel(folder, config_settings=None):
    with open("PKG-INFO", encoding="utf-8") as file:
        fields = dict(line.split(": ", 1) for line in file if line.startswith(("Name:", "Version:")))
    name, version = fields["Name"].strip(), fields["Version"].strip()
    info = f"{name}-{version}.dist-info"
    os.makedirs(os.path.join(folder, info))
    with open(os.path.join(folder, info, "METADATA"), "w", encoding="utf-8") as file:
        file.write(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    return info
PYTHON
touch "$work/backend/setuptools/__init__.py" "$work/backend/scikit_build_core/__init__.py"
cp "$work/backend/setuptools/build_meta.py" "$work/backend/scikit_build_core/build.py"

download=("$python" -m pip download --quiet --no-deps --no-binary ":all:" --require-hashes
  --requirement "$work/requirements.txt" --dest "$work/files")
if ! PYTHONPATH="$work/backend" "${download[@]}" --no-build-isolation >&2; then
  note "retrying without the stand-in build backends"
  download=("$python" -m pip download --quiet --no-deps --require-hashes
    --no-binary pygenten,pycompadre --requirement "$work/requirements.txt" --dest "$work/files")
  "${download[@]}" >&2 || die "download failed; the archives may be placed by hand in $archives"
fi

for package in "${missing[@]}"; do
  read -r name version sum <<<"$package"
  have_sha256 "$work/files/$name-$version.tar.gz" "$sum" || die "$name: wrong sha256"
  mv "$work/files/$name-$version.tar.gz" "$archives/"
done
