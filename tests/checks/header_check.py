#!/usr/bin/env python3
# SPDX-FileCopyrightText: Kokomoe authors
# SPDX-License-Identifier: BSD-3-Clause

"""Every public header compiles alone (syntax only): header_check.py ROOT BINARY_DIR.

Flags come from compile_commands.json. Where a header includes Kokkos_Core.hpp, itself or through
another of ours, a precompiled one goes before it, for a fifth of the time; a header that forgets
that include gets none, and fails.
"""

import concurrent.futures
import json
import os
import pathlib
import re
import shlex
import subprocess
import sys

ORDER = "core parallel parameters moe nn model io data train".split()


def flags_of(binary, source_of):
    """The command that compiles one of a component's sources, less what belongs to that source."""
    commands = json.loads((binary / "compile_commands.json").read_text(encoding="utf-8"))
    for entry in commands:
        if source_of not in entry["file"]:
            continue
        words = shlex.split(entry["command"])
        # Less a launcher such as ccache: the compiler is the last word before the first flag.
        first = next(i for i, word in enumerate(words) if i and word.startswith("-D") or word[:2] in
                     ("-I", "-O", "-i"))
        words = words[first - 1:]
        result, skip = [], False
        for word in words:
            if skip:
                skip = False
            elif word in ("-o", "-include", "-MF", "-MT", "-MQ"):
                skip = True
            elif word in ("-c", "-MD", "-fpch-preprocess", "-Winvalid-pch", entry["file"]):
                pass
            else:
                result.append(word)
        return result
    return None


def includes_kokkos(header, root, seen):
    """Whether Kokkos_Core.hpp comes with this header, through public headers of ours."""
    if header in seen or not header.is_file():
        return False
    seen.add(header)
    names = re.findall(r'^\s*#\s*include\s*["<]([^">]+)[">]', header.read_text(encoding="utf-8"), re.M)
    return "Kokkos_Core.hpp" in names or any(
        includes_kokkos(root / "include" / name, root, seen) for name in names)


def run(command):
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.returncode, done.stderr


def main():
    root, binary = (pathlib.Path(word).resolve() for word in sys.argv[1:3])
    include = root / "include" / "kokomoe"
    work = binary / "tests" / "header_check"
    work.mkdir(parents=True, exist_ok=True)
    flags = {name: flags_of(binary, f"{root}/src/{name}/") for name in ORDER}
    built = [name for name in ORDER if flags[name]]
    if not built:
        print("no component is built")
        return 1

    # One precompiled header for all: the components' flags differ in -D and -I alone.
    kokkos = work / "kokkos.hpp"
    kokkos.write_text("#include <Kokkos_Core.hpp>\n", encoding="utf-8")
    code, text = run([*flags[built[0]], "-x", "c++-header", str(kokkos), "-o", f"{kokkos}.gch"])
    if code:
        print("cannot precompile Kokkos_Core.hpp:\n" + text)
        return 1

    def check(header):
        component = header.relative_to(include).parts[0]
        unit = work / (str(header.relative_to(include)).replace("/", "__") + ".cpp")
        name = header.relative_to(include.parent)
        unit.write_text(f'#include "{name}"\n#include "{name}"\n', encoding="utf-8")
        precompiled = ["-include", str(kokkos)] if includes_kokkos(header, root, set()) else []
        return header, *run([*flags[component], *precompiled, "-fsyntax-only", str(unit)])

    headers = [header for name in built for header in sorted((include / name).rglob("*.hpp"))]
    failed = 0
    with concurrent.futures.ThreadPoolExecutor(min(os.cpu_count() or 1, 8)) as pool:
        for header, code, text in pool.map(check, headers):
            if "this Kokomoe was built without" in text:
                print(f"{header.relative_to(root)} is not for this build")
            elif code:
                failed += 1
                print(f"{header.relative_to(root)} does not compile alone:\n{text}")
    print(f"{len(headers)} headers, {failed} failed")
    return 1 if failed or not headers else 0


if __name__ == "__main__":
    sys.exit(main())
