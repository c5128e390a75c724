#!/usr/bin/env python3
# SPDX-FileCopyrightText: Kokomoe authors
# SPDX-License-Identifier: BSD-3-Clause

"""Text without any meaning in the form of real data, to try decks of full size without their data:

    scripts/random_text.py pairs FOLDER [LINES]    FOLDER/{train,valid}.{en,de}, a sentence a line
    scripts/random_text.py text FOLDER [LINES]     FOLDER/{train,heldout}.txt

Words are drawn as in natural text, few of them often and many once: 80,000 different ones, enough for
a SentencePiece vocabulary of 32,000. The same arguments write the same files."""

import os
import random
import sys

LETTERS = {"en": ("bcdfghklmnprstvw", "aeiou"), "de": ("bdfghklmnprstwz", "aeiouäöü")}
WORDS = 80000


def vocabulary(draw, language):
    consonants, vowels = LETTERS[language]
    syllable = lambda: draw.choice(consonants) + draw.choice(vowels) + draw.choice(["", "n", "r", "st"])
    return ["".join(syllable() for _ in range(1 + i % 4)) for i in range(WORDS)]


def sentence(draw, words):
    # Zipf's law: the logarithm of a word's rank is uniform.
    picked = [words[int(WORDS ** draw.random()) - 1] for _ in range(draw.randint(3, 40))]
    return " ".join(picked).capitalize() + ".\n"


def write(folder, name, language, lines, seed):
    draw = random.Random(seed)
    words = vocabulary(random.Random(language), language)
    with open(os.path.join(folder, name), "w", encoding="utf-8") as file:
        for _ in range(lines):
            file.write(sentence(draw, words))


def main():
    if len(sys.argv) not in (3, 4) or sys.argv[1] not in ("pairs", "text"):
        sys.exit(__doc__)
    folder, lines = sys.argv[2], int(sys.argv[3]) if len(sys.argv) == 4 else 30000
    os.makedirs(folder, exist_ok=True)
    if sys.argv[1] == "pairs":
        for seed, language in enumerate(("en", "de")):
            write(folder, "train." + language, language, lines, seed)
            write(folder, "valid." + language, language, max(1, lines // 100), 10 + seed)
    else:
        write(folder, "train.txt", "en", lines, 0)
        write(folder, "heldout.txt", "en", max(1, lines // 100), 10)


main()
