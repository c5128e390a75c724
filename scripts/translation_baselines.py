#!/usr/bin/env python3
# SPDX-FileCopyrightText: Kokomoe authors
# SPDX-License-Identifier: BSD-3-Clause
"""Three simple translators for a corpus, which a trained one should leave behind.

    translation_baselines.py FOLDER [--source en] [--target de] [--program PATH] [--json FILE]

FOLDER has train.en, train.de, test.en, test.de (scripts/data_en_de.sh). Writes there, a line each,

    baseline.copy         the source as it is
    baseline.dictionary   word by word: each word's most probable translation by IBM model 1 (Brown et
                          al. 1993), five rounds on the training pairs; unknown words as they are
    baseline.nearest      the translation of the training source with the nearest words (cosine of
                          counts weighted by log(N / n))

and prints their BLEU and chrF by `kokomoe score`.
"""

import argparse
import collections
import json
import math
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
WORD = re.compile(r"\w+|[^\w\s]")


def words(line):
    return WORD.findall(line)


def read(path):
    return path.read_text(encoding="utf-8").split("\n")[:-1]


def dictionary(pairs, rounds=5):
    """The most probable target word of each source word."""
    numbers = [{}, {}]

    def number(side, word):
        return numbers[side].setdefault(word, len(numbers[side]))

    coded = [([number(0, w) for w in a], [number(1, w) for w in b]) for a, b in pairs]
    probability = collections.defaultdict(dict)  # of target, given source
    for a, b in coded:
        for i in set(a):
            row = probability[i]
            for j in b:
                row[j] = 1.0
    for _ in range(rounds):
        counts = {i: dict.fromkeys(row, 0.0) for i, row in probability.items()}
        for a, b in coded:
            rows = [probability[i] for i in a]
            for j in b:
                total = sum(row[j] for row in rows)
                for i, row in zip(a, rows):
                    counts[i][j] += row[j] / total
        for i, row in counts.items():
            total = sum(row.values())
            probability[i] = {j: x / total for j, x in row.items()}
    names = list(numbers[1])
    source = list(numbers[0])
    return {source[i]: names[max(row, key=row.get)] for i, row in probability.items() if row}


def joined(tokens):
    """Tokens as text: punctuation at the word before it, brackets at the one after."""
    text = ""
    for token in tokens:
        if text and not re.fullmatch(r"[.,;:!?)\]}%”“]", token) and text[-1] not in "([{„":
            text += " "
        text += token
    return text


class Nearest:
    def __init__(self, lines):
        bags = [collections.Counter(line) for line in lines]
        found = collections.Counter(w for bag in bags for w in bag)
        self.weight = {w: math.log(len(lines) / n) for w, n in found.items()}
        self.of = collections.defaultdict(list)
        for number, bag in enumerate(bags):
            vector = {w: n * self.weight[w] for w, n in bag.items()}
            length = math.sqrt(sum(x * x for x in vector.values())) or 1.0
            for w, x in vector.items():
                self.of[w].append((number, x / length))

    def __call__(self, line):
        scores = collections.defaultdict(float)
        for w, n in collections.Counter(line).items():
            for number, x in self.of.get(w, ()):
                scores[number] += n * self.weight[w] * x
        return max(scores, key=lambda i: (scores[i], -i)) if scores else 0


def main():
    arguments = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    arguments.add_argument("folder", type=pathlib.Path)
    arguments.add_argument("--source", default="en")
    arguments.add_argument("--target", default="de")
    arguments.add_argument("--program", default=str(ROOT / "build/openmp/bin/kokomoe"))
    arguments.add_argument("--json", default="")
    options = arguments.parse_args()
    folder = options.folder
    source, target = (read(folder / f"train.{x}") for x in (options.source, options.target))
    test = read(folder / f"test.{options.source}")

    print("dictionary ...", file=sys.stderr)
    table = dictionary([(words(a), words(b)) for a, b in zip(source, target)])
    print("nearest ...", file=sys.stderr)
    nearest = Nearest([words(line.lower()) for line in source])
    outputs = {
        "copy": test,
        "dictionary": [joined(table.get(w, w) for w in words(line)) for line in test],
        "nearest": [target[nearest(words(line.lower()))] for line in test],
    }
    results = {}
    for name, lines in outputs.items():
        path = folder / f"baseline.{name}"
        path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
        scored = subprocess.run(
            [options.program, "score", "--reference", str(folder / f"test.{options.target}"),
             "--hypothesis", str(path), "--json", "-"], check=True, stdout=subprocess.PIPE)
        results[name] = json.loads(scored.stdout)
        print(f"{name:12} BLEU {results[name]['bleu']:5.2f}  chrF2 {results[name]['chrf']:5.2f}")
    if options.json:
        pathlib.Path(options.json).write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
