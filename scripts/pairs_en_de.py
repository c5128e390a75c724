#!/usr/bin/env python3
# SPDX-FileCopyrightText: Kokomoe authors
# SPDX-License-Identifier: BSD-3-Clause
"""English-German pairs from documentation that Debian ships in both languages.

    pairs_en_de.py UNPACKED FOLDER

UNPACKED holds the unpacked packages (data_en_de.sh fetches them). Writes to FOLDER

    train.en train.de  valid.en valid.de  test.en test.de     a paragraph a line, UTF-8
    report.txt                                                 what was counted and left out

Paragraphs are paired by their id where pages have ids (LibreOffice), else by their place in a
section whose elements are the same in both languages. Pages are the unit of the split: by a hash of the
page's name 1 in 20 is for the test, 1 in 20 for validation. What is left out: pairs that are equal in
both languages, too long or too uneven; repeated ones; and of the training pairs every one whose English or
German, without case, digits and punctuation, equals or nearly equals (three fifths of its word trigrams
together) one of the other two sets.
"""

import argparse
import collections
import hashlib
import html.parser
import pathlib
import re
import sys

BLOCKS = {"p", "h1", "h2", "h3", "h4", "h5", "h6", "li", "td", "th", "dt", "dd", "caption"}
SKIPPED = {"script", "style", "pre", "nav", "header", "aside", "footer", "noscript", "head", "svg"}
MOST_CHARACTERS = 400
MOST_RATIO = 2.5
NEAR = 0.6


class Paragraphs(html.parser.HTMLParser):
    """(tag, id, section, text) of every innermost block element."""

    def __init__(self):
        super().__init__(convert_charrefs=True)
        self.found = []
        self.open = []
        self.skipped = 0
        self.section = ""

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        if tag in SKIPPED:
            self.skipped += 1
        if tag in {"div", "section"} and attributes.get("id"):
            self.section = attributes["id"]
        if tag == "a" and attributes.get("name") and not self.open:
            self.section = attributes["name"]
        if tag == "a" and attributes.get("id") and self.open and self.open[-1][0][0] == "h":
            self.section = self.open[-1][2] = attributes["id"]
        if tag in BLOCKS:
            if self.open:
                self.open[-1][4] = True  # has a block inside
            self.open.append([tag, attributes.get("id", ""), self.section, [], False])
        if tag == "br" and self.open:
            self.open[-1][3].append(" ")

    def handle_endtag(self, tag):
        if tag in SKIPPED and self.skipped:
            self.skipped -= 1
        if tag in BLOCKS:
            while self.open:
                name, identity, section, text, inner = self.open.pop()
                line = " ".join("".join(text).split())
                if line and not inner:
                    self.found.append((name, identity, section, line))
                if name == tag:
                    break

    def handle_data(self, data):
        if self.open and not self.skipped:
            self.open[-1][3].append(data)


def paragraphs(path):
    parser = Paragraphs()
    parser.feed(path.read_text(encoding="utf-8", errors="replace"))
    parser.close()
    return parser.found


def by_identity(english, german):
    theirs = {}
    for _, identity, _, text in german:
        theirs.setdefault(identity, text)
    seen = set()
    for _, identity, _, text in english:
        if identity and identity not in seen and identity in theirs:
            seen.add(identity)
            yield text, theirs[identity]


def by_place(english, german):
    sections = [collections.OrderedDict(), collections.OrderedDict()]
    for into, found in zip(sections, (english, german)):
        for tag, _, section, text in found:
            into.setdefault(section, []).append((tag, text))
    for section, ours in sections[0].items():
        theirs = sections[1].get(section, [])
        if [tag for tag, _ in ours] == [tag for tag, _ in theirs]:
            yield from ((a, b) for (_, a), (_, b) in zip(ours, theirs))


def pages(root):
    """(name, English page, German page, how they are paired)"""
    office = root / "usr/share/libreoffice/help"
    for english in sorted((office / "en-US").rglob("*.html")):
        page = english.relative_to(office / "en-US")
        yield f"libreoffice/{page}", english, office / "de" / page, by_identity
    gimp = root / "usr/share/gimp/2.0/help"
    for english in sorted((gimp / "en").glob("*.html")):
        yield f"gimp/{english.name}", english, gimp / "de" / english.name, by_place
    debian = root / "usr/share/debian-reference"
    for english in sorted(debian.glob("*.en.html")):
        german = english.with_name(english.name.replace(".en.", ".de."))
        yield f"debian-reference/{english.name}", english, german, by_place


def part_of(page):
    number = int.from_bytes(hashlib.sha256(page.encode()).digest()[:8], "big") % 20
    return {0: "test", 1: "valid"}.get(number, "train")


def plain(text):
    return " ".join(re.sub(r"[\W\d_]+", " ", text.lower()).split())


def trigrams(text):
    words = text.split()
    return {tuple(words[i:i + 3]) for i in range(max(1, len(words) - 2))}


class Held:
    """What validation and test hold in one language, to find what nearly equals it."""

    def __init__(self, lines):
        self.equal = {plain(line) for line in lines}
        self.sets = [trigrams(line) for line in sorted(self.equal)]
        self.of = collections.defaultdict(list)
        for number, grams in enumerate(self.sets):
            for gram in grams:
                self.of[gram].append(number)

    def has(self, line):
        line = plain(line)
        if line in self.equal:
            return True
        grams = trigrams(line)
        common = collections.Counter(n for gram in grams for n in self.of.get(gram, ()))
        return any(count >= NEAR * min(len(grams), len(self.sets[n])) for n, count in common.items())


def main():
    arguments = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    arguments.add_argument("unpacked", type=pathlib.Path)
    arguments.add_argument("folder", type=pathlib.Path)
    options = arguments.parse_args()

    counts = collections.Counter()
    parts = {"train": [], "valid": [], "test": []}
    seen = set()
    for name, english, german, pairing in pages(options.unpacked):
        source = name.split("/")[0]
        counts[f"{source}: English pages"] += 1
        if not german.exists():
            continue
        for a, b in pairing(paragraphs(english), paragraphs(german)):
            counts[f"{source}: pairs found"] += 1
            if plain(a) == plain(b) or not plain(a) or not plain(b):
                counts[f"{source}: left out, not translated"] += 1
            elif max(len(a), len(b)) > MOST_CHARACTERS:
                counts[f"{source}: left out, longer than {MOST_CHARACTERS} characters"] += 1
            elif max(len(a), len(b)) > MOST_RATIO * min(len(a), len(b)) + 15:
                counts[f"{source}: left out, uneven"] += 1
            elif (plain(a), plain(b)) in seen:
                counts[f"{source}: left out, repeated"] += 1
            else:
                seen.add((plain(a), plain(b)))
                parts[part_of(name)].append((a, b))
                counts[f"{source}: pairs taken"] += 1
    # Of the test and validation sets too, no text twice.
    for part in ("test", "valid"):
        once, kept = set(), []
        for a, b in parts[part]:
            if plain(a) not in once:
                once.add(plain(a))
                kept.append((a, b))
        counts[f"{part}: left out, English twice"] = len(parts[part]) - len(kept)
        parts[part] = kept
    test = [Held(lines) for lines in zip(*parts["test"])]
    for part in ("valid", "train"):
        held = test if part == "valid" else [Held(lines) for lines in
                                             zip(*(parts["test"] + parts["valid"]))]
        kept = [pair for pair in parts[part]
                if not any(side.has(text) for side, text in zip(held, pair))]
        counts[f"{part}: left out, near a held-out text"] = len(parts[part]) - len(kept)
        parts[part] = kept

    options.folder.mkdir(parents=True, exist_ok=True)
    report = []
    for part, pairs in parts.items():
        for language, lines in zip(("en", "de"), zip(*pairs)):
            text = "".join(line + "\n" for line in lines)
            (options.folder / f"{part}.{language}").write_text(text, encoding="utf-8")
            report.append(f"{part}.{language}: {len(lines)} lines, {len(text.encode())} bytes")
    report += [f"{name}: {count}" for name, count in sorted(counts.items())]
    (options.folder / "report.txt").write_text("\n".join(report) + "\n", encoding="utf-8")
    print("\n".join(report), file=sys.stderr)


if __name__ == "__main__":
    main()
