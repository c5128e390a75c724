#!/usr/bin/env python3
# SPDX-FileCopyrightText: Kokomoe authors
# SPDX-License-Identifier: BSD-3-Clause

"""scripts/plot_study.py: one line and exit code 2 for what is no study, and a picture of a study with
runs that failed, where there is matplotlib."""

import importlib.util
import json
import os
import pathlib
import subprocess
import sys

SCRIPT = pathlib.Path(os.environ["KOKOMOE_SOURCE_DIR"]) / "scripts/plot_study.py"


def run(study, picture="out.svg", code=0, words=""):
    result = subprocess.run([sys.executable, SCRIPT, study, picture], capture_output=True, text=True)
    message = result.stderr
    assert result.returncode == code, (result.returncode, message)
    assert words in message and "Traceback" not in message, message
    assert code == 0 or (message.startswith("error: ") and message.count("\n") == 1), message


def write(name, content):
    text = content if isinstance(content, str) else json.dumps(content)
    pathlib.Path(name).write_text(text, encoding="utf-8")
    return name


def study(*runs):
    curve = [{"step": s, "seconds": s / 2, "value": 3 - s / 10} for s in (2, 4, 6)]
    whole = {"seed": 1, "seconds": 3.0, "curve": curve}
    return {"title": "Two routers", "figure": "bits_per_byte",
            "variants": [{"name": "dense", "runs": [whole, *runs]}, {"name": "switch", "runs": runs}]}


failed = {"seed": 2, "failed": "loss is not finite in update 3", "curve": []}
run("missing.json", code=2, words="missing.json: No such file or directory")
run(".", code=2, words="Is a directory")
run(write("torn.json", '{"title": '), code=2, words="torn.json: ")
pathlib.Path("bytes.json").write_bytes(b"\xff\xfe\x00")
run("bytes.json", code=2, words="bytes.json: ")
for number, content in enumerate(([], {}, {"variants": 3}, {"variants": [{"name": "a", "runs": [3]}]},
                                  {**study(), "title": None, "variants": [None]},
                                  study({"seed": 3, "curve": [{"step": "a", "value": 1}]}),
                                  study({"seed": 3}))):
    run(write(f"other_{number}.json", content), code=2, words="no study.json of kokomoe study")
nothing = {**study(), "variants": [{"name": "dense", "runs": [failed, {"seed": 3, "curve": []}]}]}
run(write("nothing.json", nothing), code=2, words="no run of the study has a curve")

some = write("some.json", study(failed, {"seed": 3, "curve": []}, {"seed": 4, "failed": "killed"},
                                {"seed": 5, "curve": [{"step": 2, "value": None}]}))
if importlib.util.find_spec("matplotlib") is None:
    run(some, code=1, words="no matplotlib")
else:
    run(some)
    assert "Two routers" in pathlib.Path("out.svg").read_text(encoding="utf-8")
    run(some, "out.nothing", code=2, words="out.nothing: ")
    run(some, "no_folder/out.svg", code=2, words="No such file or directory")
