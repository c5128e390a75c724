#!/usr/bin/env python3
# SPDX-FileCopyrightText: Kokomoe authors
# SPDX-License-Identifier: BSD-3-Clause
# labels: slow
# timeout: 1800

"""Applies the steps of docs/adding_a_router.md to a copy of the sources, builds it, runs its test."""

import os
import pathlib
import re
import shutil
import subprocess

source = pathlib.Path(os.environ["KOKOMOE_SOURCE_DIR"])
binary = pathlib.Path(os.environ["KOKOMOE_BINARY_DIR"])
copy = pathlib.Path("copy").resolve()
for name in ("CMakeLists.txt", "CMakePresets.json", "cmake", "include", "src", "tests", "LICENSE"):
    if (source / name).is_dir():
        shutil.copytree(source / name, copy / name)
    else:
        copy.mkdir(exist_ok=True)
        shutil.copy(source / name, copy / name)
# The other tests of the component are built elsewhere.
for test in (copy / "tests/unit/moe").glob("*.cpp"):
    test.unlink()

page = (source / "docs/adding_a_router.md").read_text(encoding="utf-8")
steps = re.findall(r"^\d\. `([^`]+)`.*?^```cpp\n(.*?)^```$", page, re.M | re.S)
assert [path for path, _ in steps] == [
    "include/kokomoe/moe/routers/second.hpp",
    "src/moe/routers/second.cpp",
    "src/moe/router_registry.cpp",
    "tests/unit/moe/test_second.cpp",
], steps
for path, code in steps:
    target = copy / path
    if not path.endswith("router_registry.cpp"):
        assert not target.exists(), path
        target.write_text(code, encoding="utf-8")
        continue
    text = target.read_text(encoding="utf-8")
    last = list(re.finditer(r"^      registered<\w+>\(\),\n", text, re.M))[-1]
    text = text[: last.end()] + code + text[last.end() :]
    include = text.index('#include "kokomoe/moe/routers/')
    text = text[:include] + '#include "kokomoe/moe/routers/second.hpp"\n' + text[include:]
    target.write_text(text, encoding="utf-8")

cache = dict(
    re.findall(r"^(\w+):\w+=(.*)$", (binary / "CMakeCache.txt").read_text(encoding="utf-8"), re.M)
)
keep = ("CMAKE_BUILD_TYPE", "CMAKE_CXX_COMPILER", "KOKOMOE_BACKEND")
prefixes = [str(pathlib.Path(cache[key]).parents[2]) for key in ("Kokkos_DIR", "KokkosKernels_DIR")]
subprocess.run(
    ["cmake", "-S", copy, "-B", "build", "-G", "Ninja"]
    + [f"-D{key}={cache[key]}" for key in keep if cache.get(key)]
    + ["-DCMAKE_PREFIX_PATH=" + ";".join(prefixes)]
    + ["-DKOKOMOE_ENABLE_MPI=OFF", "-DKOKOMOE_ENABLE_HDF5=OFF", "-DKOKOMOE_ENABLE_APPS=OFF"],
    check=True,
)
subprocess.run(["cmake", "--build", "build", "--target", "test_moe", "--parallel", "2"], check=True)
result = subprocess.run(
    ["build/tests/test_moe", "[second]"], check=True, stdout=subprocess.PIPE, text=True
)
print(result.stdout)
assert "All tests passed" in result.stdout
