#!/usr/bin/env python3
# SPDX-FileCopyrightText: Kokomoe authors
# SPDX-License-Identifier: BSD-3-Clause

"""Small tasks in the formats of GLUE's files, from the King James text: glue_form.py KJV OUT

KJV holds train.txt and heldout.txt (scripts/fetch_kjv.sh), OUT/TASK/{train,dev,test}.tsv are written, all
with labels, and OUT/pretrain.txt, the chapters of train.tsv's rows as text. No chapter is in two of train,
dev and test. See README.txt there.
"""

import collections
import math
import os
import random
import re
import sys

LAW = ["Genesis", "Exodus", "Leviticus", "Numbers", "Deuteronomy"]
HISTORY = ["Joshua", "Judges", "Ruth", "1 Samuel", "2 Samuel", "1 Kings", "2 Kings", "1 Chronicles",
           "2 Chronicles", "Ezra", "Nehemiah", "Esther"]
TRAIN_ROWS = {"swapped": 6000, "book": 600, "next": 6000, "kept": 4000}

README = """Real small tasks in the formats of GLUE's files (Wang et al. 2019), made by scripts/glue_form.py
from the King James Bible. They are not GLUE, and their figures are not comparable with GLUE's.

swapped  as CoLA (no header; source, label, mark, sentence): 1 = a verse as it stands, 0 = one in which
         two neighbouring words have changed places.
book     as SST-2 (sentence, label): 1 = a verse of the Law (Genesis to Deuteronomy), 0 = one of the
         histories (Joshua to Esther).
next     as RTE (index, sentence1, sentence2, label): entailment = the second verse follows the first,
         not_entailment = it is another one of the same chapter, three verses or more away.
kept     as STS-B (ten columns, score last): the second sentence is the first with some words replaced by
         words of another verse; the score, 0 to 5, is five times the share that was kept.

Chapters of dev.tsv and test.tsv are those of data/kjv/heldout.txt, in turn, and every sixth one of
train.txt, of which one in four goes to dev.tsv. train.tsv is from all others, whose text is pretrain.txt.
No verse is in a task twice. Unlike GLUE's, test.tsv has labels.
"""


def blocks(path):
    """Chapters of a text of split_kjv.py."""
    with open(path, encoding="utf-8") as file:
        return file.read().strip("\n").split("\n\n")


def chapters(texts):
    """[(book, [verse, ...])]."""
    found = []
    for block in texts:
        heading, *verses = block.split("\n")
        found.append((heading.rsplit(" ", 1)[0], verses))
    return found


def words(text):
    return re.findall(r"[a-z']+", text.lower())


class Maker:
    """Rows of each task from some chapters; no verse stands in a task twice."""

    def __init__(self, parts, seed):
        self.parts = parts
        self.draw = random.Random(seed)
        self.seen = collections.defaultdict(set)

    def fresh(self, task, verse, least=6):
        key = " ".join(words(verse))
        if key in self.seen[task] or not least <= len(verse.split()) <= 45:
            return False
        self.seen[task].add(key)
        return True

    def shuffled(self):
        verses = [(book, verse) for book, chapter in self.parts for verse in chapter]
        self.draw.shuffle(verses)
        return verses

    def swapped(self):
        rows = []
        for _, verse in self.shuffled():
            if not self.fresh("swapped", verse):
                continue
            tokens = verse.split()
            label = self.draw.randrange(2)
            if label == 0:
                # Without punctuation between them: that alone would tell.
                places = [i for i in range(1, len(tokens) - 2)
                          if tokens[i] != tokens[i + 1] and (tokens[i] + tokens[i + 1]).isalpha()]
                if not places:
                    continue
                i = self.draw.choice(places)
                tokens[i], tokens[i + 1] = tokens[i + 1], tokens[i]
            rows.append(("kjv", str(label), "" if label else "*", " ".join(tokens)))
        return rows

    def book(self):
        rows = {0: [], 1: []}
        for name, verse in self.shuffled():
            if (name in LAW or name in HISTORY) and self.fresh("book", verse):
                label = int(name in LAW)
                rows[label].append((verse, str(label)))
        least = min(len(rows[0]), len(rows[1]))
        both = rows[0][:least] + rows[1][:least]
        self.draw.shuffle(both)
        return both

    def next(self):
        rows = []
        for _, chapter in self.parts:
            at = list(range(len(chapter) - 1))
            self.draw.shuffle(at)
            for i in at[:max(1, len(at) // 2)]:
                label = self.draw.randrange(2)
                other = i + 1
                if label == 0:
                    far = [j for j in range(len(chapter)) if abs(j - i) >= 3]
                    if not far:
                        continue
                    other = self.draw.choice(far)
                if len(chapter[other].split()) < 6 or not self.fresh("next", chapter[i]):
                    continue
                rows.append((chapter[i], chapter[other], "entailment" if label else "not_entailment"))
        self.draw.shuffle(rows)
        return [(str(i), *row) for i, row in enumerate(rows)]

    def kept(self):
        rows = []
        verses = self.shuffled()
        for n, (_, verse) in enumerate(verses):
            if not self.fresh("kept", verse):
                continue
            tokens = verse.split()
            other = self.draw.choice(verses)[1].split()
            away = round(self.draw.random() * len(tokens))
            for i in self.draw.sample(range(len(tokens)), away):
                tokens[i] = self.draw.choice(other)
            same = sum(a == b for a, b in zip(tokens, verse.split()))
            score = f"{5 * same / len(tokens):.3f}"
            rows.append((str(len(rows)), "kjv", "kjv", "-", "-", "-", "-", verse, " ".join(tokens),
                         score))
        return rows


HEADERS = {"swapped": None, "book": ("sentence", "label"),
           "next": ("index", "sentence1", "sentence2", "label"),
           "kept": ("index", "genre", "filename", "year", "old_index", "source1", "source2",
                    "sentence1", "sentence2", "score")}
SENTENCES = {"swapped": ([3], 1), "book": ([0], 1), "next": ([1, 2], 3), "kept": ([7, 8], 9)}


def naive_bayes(task, train, test):
    """Share of test rows that words and pairs of neighbouring words tell, with add-one counts."""
    columns, label_at = SENTENCES[task]

    def features(row):
        for n, column in enumerate(columns):
            tokens = words(row[column])
            yield from ((n, token) for token in tokens)
            yield from ((n, *pair) for pair in zip(tokens, tokens[1:]))

    counts, totals, rows = {}, collections.Counter(), collections.Counter()
    for row in train:
        label = row[label_at]
        rows[label] += 1
        for feature in features(row):
            counts.setdefault(feature, collections.Counter())[label] += 1
            totals[label] += 1
    hits = 0
    for row in test:
        score = {label: math.log(rows[label]) for label in rows}
        for feature in features(row):
            if feature not in counts:
                continue
            for label in score:
                score[label] += math.log((counts[feature][label] + 1) / (totals[label] + len(counts)))
        hits += max(sorted(score), key=score.get) == row[label_at]
    return hits / len(test)


def write(path, header, rows):
    with open(path + ".new", "w", encoding="utf-8", newline="\n") as file:
        for row in ([header] if header else []) + rows:
            file.write("\t".join(row) + "\n")
    os.replace(path + ".new", path)


def main():
    kjv, out = sys.argv[1:3]
    held_out, others = (blocks(os.path.join(kjv, name + ".txt")) for name in ("heldout", "train"))
    # Verses of a chapter are alike: some ten chapters in a test set tell little.
    more = others[5::6]
    train = [block for i, block in enumerate(others) if i % 6 != 5]
    texts = {"train": train, "dev": held_out[0::2] + more[0::4],
             "test": held_out[1::2] + [block for i, block in enumerate(more) if i % 4 != 0]}
    parts = {part: Maker(chapters(text), seed) for seed, (part, text) in enumerate(texts.items(), 1)}
    os.makedirs(out, exist_ok=True)
    with open(os.path.join(out, "pretrain.txt"), "w", encoding="utf-8", newline="\n") as file:
        file.write("\n\n".join(train) + "\n")
    report = []
    for task, header in HEADERS.items():
        rows = {part: getattr(maker, task)() for part, maker in parts.items()}
        # The Bible repeats verses: what is held out is not trained on.
        held = {tuple(words(row[c])) for part in ("dev", "test") for row in rows[part]
                for c in SENTENCES[task][0]}
        rows["train"] = [row for row in rows["train"]
                         if not any(tuple(words(row[c])) in held for c in SENTENCES[task][0])]
        rows["train"] = rows["train"][:TRAIN_ROWS[task]]
        os.makedirs(os.path.join(out, task), exist_ok=True)
        for part in rows:
            write(os.path.join(out, task, part + ".tsv"), header, rows[part])
        line = f"{task}: " + ", ".join(f"{len(rows[part])} {part}" for part in rows)
        if task != "kept":
            labels = collections.Counter(row[SENTENCES[task][1]] for row in rows["test"])
            line += f"; test: majority {max(labels.values()) / len(rows['test']):.4f}"
            line += f", naive Bayes {naive_bayes(task, rows['train'], rows['test']):.4f}"
        report.append(line)
    text = README + "\nRows, and what simple baselines tell (accuracy):\n" + "\n".join(report) + "\n"
    with open(os.path.join(out, "README.txt"), "w", encoding="utf-8") as file:
        file.write(text)
    print("\n".join("   " + line for line in report), file=sys.stderr)


if __name__ == "__main__":
    main()
