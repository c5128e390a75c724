#!/usr/bin/env python3
# SPDX-FileCopyrightText: Kokomoe authors
# SPDX-License-Identifier: BSD-3-Clause

"""No include goes up a floor: include_floors.py ROOT."""

import pathlib
import re
import sys

# What each component may include, beside itself; docs/architecture.md draws the same picture.
ALLOWED = {
    "core": "",
    "parallel": "core",
    "parameters": "core parallel",
    "io": "core parallel parameters",
    "data": "core parallel io",
    "moe": "core parallel parameters",
    "nn": "core parallel parameters moe",
    "model": "core parallel parameters moe nn",
    "train": "core parallel parameters io data moe nn model",
    "study": "core parallel parameters io data moe nn model train",
}
PUBLIC = re.compile(r'^\s*#\s*include\s*["<]kokomoe/([^">]+)[">]')
LOCAL = re.compile(r'^\s*#\s*include\s*"(?!kokomoe/)([^"]+)"')


def problems(root, base, file):
    component = file.relative_to(base).parts[0]
    allowed = {component, *ALLOWED[component].split()}
    is_header = base.name == "kokomoe"
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
        where = f"{file.relative_to(root)}:{number}"
        public = PUBLIC.match(line)
        if public and public[1] != "config.hpp":
            if public[1].split("/")[0] not in allowed:
                yield f"{where}: {component} may not include kokomoe/{public[1]}"
            elif not (root / "include/kokomoe" / public[1]).is_file():
                yield f"{where}: there is no kokomoe/{public[1]}"
        local = LOCAL.match(line)
        if local and is_header:
            yield f"{where}: a public header includes {local[1]}: write kokomoe/..."
        elif local:
            # Private headers are named from src/, or beside the file that includes them.
            beside = (file.parent / local[1]).resolve()
            target = beside if beside.is_file() else (root / "src" / local[1]).resolve()
            if target.is_relative_to(root / "src"):
                owner = target.relative_to(root / "src").parts[0]
                if owner not in allowed:
                    yield f"{where}: {component} may not include {owner}'s {local[1]}"


def main():
    root = pathlib.Path(sys.argv[1]).resolve()
    found, files = [], 0
    for base in (root / "include" / "kokomoe", root / "src"):
        for file in sorted(base.rglob("*.[ch]pp")):
            component = file.relative_to(base).parts[0]
            if component not in ALLOWED:
                found.append(f"{file.relative_to(root)}: no component '{component}' is known")
                continue
            files += 1
            found.extend(problems(root, base, file))
    print("\n".join(found))
    print(f"{files} files, {len(found)} includes that should not be")
    return 1 if found or files == 0 else 0


if __name__ == "__main__":
    sys.exit(main())
