#!/usr/bin/env python3
# SPDX-FileCopyrightText: Kokomoe authors
# SPDX-License-Identifier: BSD-3-Clause

"""Splits what `bible -f gen1:1-rev22:21` prints into training and held-out text: split_kjv.py FOLDER.

A chapter is a heading ("Genesis 1"), a verse a line, and an empty line. Whole chapters are held out,
every 20th in their order: neighbouring verses repeat each other, so single held-out verses would
be half seen.
"""

import os
import re
import sys

HELD_OUT_EVERY = 20
VERSES, CHAPTERS, BOOKS = 31102, 1189, 66

# Heading of each book, by the abbreviation that the program prints.
NAMES = dict(pair.split("=") for pair in """
Ge=Genesis Exo=Exodus Lev=Leviticus Num=Numbers Deu=Deuteronomy Josh=Joshua Jdgs=Judges Ruth=Ruth
1Sm=1_Samuel 2Sm=2_Samuel 1Ki=1_Kings 2Ki=2_Kings 1Chr=1_Chronicles 2Chr=2_Chronicles Ezra=Ezra
Neh=Nehemiah Est=Esther Job=Job Psa=Psalm Prv=Proverbs Eccl=Ecclesiastes SSol=Song_of_Solomon
Isa=Isaiah Jer=Jeremiah Lam=Lamentations Eze=Ezekiel Dan=Daniel Hos=Hosea Joel=Joel Amos=Amos
Obad=Obadiah Jonah=Jonah Mic=Micah Nahum=Nahum Hab=Habakkuk Zep=Zephaniah Hag=Haggai Zec=Zechariah
Mal=Malachi Mat=Matthew Mark=Mark Luke=Luke John=John Acts=Acts Rom=Romans 1Cor=1_Corinthians
2Cor=2_Corinthians Gal=Galatians Eph=Ephesians Phi=Philippians Col=Colossians 1Th=1_Thessalonians
2Th=2_Thessalonians 1Tim=1_Timothy 2Tim=2_Timothy Titus=Titus Phmn=Philemon Heb=Hebrews Jas=James
1Pet=1_Peter 2Pet=2_Peter 1Jn=1_John 2Jn=2_John 3Jn=3_John Jude=Jude Rev=Revelation
""".split())


def write_aside(path, text):
    with open(path + ".new", "w", encoding="utf-8", newline="\n") as file:
        file.write(text)
    os.replace(path + ".new", path)


def main():
    folder = sys.argv[1]
    chapters = {}  # (book, number) -> verses, in the order of the text
    for line in sys.stdin:
        match = re.match(r"(\d?[A-Za-z]+)(\d+):(\d+) (.*)", line)
        if not match:
            sys.exit(f"error: not a verse: {line!r}")
        book, chapter, verse, text = match.groups()
        verses = chapters.setdefault((book, int(chapter)), [])
        if int(verse) != len(verses) + 1:
            sys.exit(f"error: {book} {chapter}:{verse} is out of order")
        verses.append(" ".join(text.split()))

    counts = (sum(map(len, chapters.values())), len(chapters), len({book for book, _ in chapters}))
    if counts != (VERSES, CHAPTERS, BOOKS):
        sys.exit("error: expected %d verses, %d chapters, %d books" % (VERSES, CHAPTERS, BOOKS) +
                 ", found %d, %d, %d" % counts)

    parts = {"train": [], "heldout": []}
    for index, ((book, number), verses) in enumerate(chapters.items()):
        held_out = index % HELD_OUT_EVERY == HELD_OUT_EVERY - 1
        heading = f"{NAMES[book].replace('_', ' ')} {number}"
        parts["heldout" if held_out else "train"].append("\n".join([heading, *verses]) + "\n")
    for name, texts in parts.items():
        text = "\n".join(texts)
        write_aside(os.path.join(folder, name + ".txt"), text)
        print(f"   {name}.txt: {len(texts)} chapters, {len(text)} bytes", file=sys.stderr)


if __name__ == "__main__":
    main()
