#!/usr/bin/python3
# SPDX-FileCopyrightText: Kokomoe authors
# SPDX-License-Identifier: BSD-3-Clause

"""Bits per byte of interpolated Kneser-Ney models over bytes: what a small model has to beat.

p_k(w | h) = max(c(hw) - D, 0) / c(h.) + D types(h.) / c(h.) p_{k-1}(w | h'), h the last k bytes and
h' the last k - 1. The longest context counts occurrences, the shorter ones count the distinct bytes
that precede; below the empty context lies 1/256; an unseen context leaves all to the shorter one
(Chen and Goodman 1999, section 2.7). Every byte of the held-out text is scored, its first ones with
what context they have.
"""

import argparse
import json
import os
import sys

try:
    import numpy as np
except ImportError:
    # Another Python on PATH may lack what Debian's has.
    if os.path.realpath(sys.executable) != os.path.realpath("/usr/bin/python3"):
        os.execv("/usr/bin/python3", ["/usr/bin/python3", *sys.argv])
    sys.exit("error: no numpy: run scripts/install_packages.sh")


def grams(text, length):
    """All substrings of that length as integers, first byte most significant."""
    keys = np.zeros(max(len(text) - length + 1, 0), dtype=np.uint64)
    for i in range(length):
        keys = (keys << np.uint64(8)) | text[i:len(keys) + i].astype(np.uint64)
    return keys


def lookup(table, values, keys):
    """values of keys in a sorted table; 0 where absent."""
    at = np.minimum(np.searchsorted(table, keys), len(table) - 1)
    return np.where(table[at] == keys, values[at], 0)


class Level:
    """Counts for one context length: of (context, byte), and of contexts."""

    def __init__(self, keys, counts):
        self.keys, self.counts = keys, counts
        contexts = keys >> np.uint64(8)
        first = np.flatnonzero(np.r_[True, contexts[1:] != contexts[:-1]])
        self.contexts = contexts[first]
        self.totals = np.add.reduceat(counts, first)
        self.types = np.diff(np.r_[first, len(keys)])


class KneserNey:
    def __init__(self, text, context, discount):
        self.discount = discount
        keys, counts = np.unique(grams(text, context + 1), return_counts=True)
        self.levels = [Level(keys, counts)]
        for length in range(context, 0, -1):
            mask = np.uint64((1 << (8 * length)) - 1)
            keys, counts = np.unique(keys & mask, return_counts=True)
            self.levels.insert(0, Level(keys, counts))

    def probability(self, context_keys, symbols, known):
        """p(symbol | context): context_keys hold the last bytes, of which `known` are there."""
        p = np.full(len(symbols), 1 / 256)
        symbols = symbols.astype(np.uint64)
        for length, level in enumerate(self.levels):
            context = context_keys & np.uint64((1 << (8 * length)) - 1)
            total = lookup(level.contexts, level.totals, context)
            types = lookup(level.contexts, level.types, context)
            count = lookup(level.keys, level.counts, (context << np.uint64(8)) | symbols)
            seen = (total > 0) & (known >= length)
            here = np.maximum(count - self.discount, 0) + self.discount * types * p
            p = np.where(seen, here / np.maximum(total, 1), p)
        return p


def contexts_of(text, length):
    """The bytes before each position, as integers, and how many there are of them."""
    padded = np.r_[np.zeros(length, dtype=np.uint8), text]
    return grams(padded, length)[:len(text)], np.minimum(np.arange(len(text)), length)


def check(model, heldout, length, generator):
    """Largest difference from 1 of sums over all bytes: contexts of the text, random, too short."""
    keys, known = contexts_of(heldout, length)
    pick = generator.integers(0, len(keys), 200)
    random = generator.integers(0, 256 ** length, 200, dtype=np.uint64)
    keys = np.r_[keys[pick], random, keys[:length]]
    known = np.r_[known[pick], np.full(200, length), known[:length]]
    p = model.probability(np.repeat(keys, 256), np.tile(np.arange(256), len(keys)),
                          np.repeat(known, 256))
    return float(np.abs(p.reshape(-1, 256).sum(axis=1) - 1).max()), float(p.min())


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--train", required=True)
    parser.add_argument("--heldout", required=True)
    parser.add_argument("--context", type=int, nargs="+", default=[2, 4], choices=range(1, 8),
                        metavar="N", help="bytes of context, 1 to 7")
    parser.add_argument("--discount", type=float, default=0.75)
    parser.add_argument("--json", metavar="FILE", help="- for standard output")
    parser.add_argument("--check", action="store_true", help="check that probabilities sum to 1")
    options = parser.parse_args()

    try:
        train, heldout = (np.fromfile(name, dtype=np.uint8)
                          for name in (options.train, options.heldout))
    except OSError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if len(train) <= max(options.context) or len(heldout) == 0:
        print("error: the texts are too short", file=sys.stderr)
        return 2

    figures = sys.stderr if options.json == "-" else sys.stdout
    results, failed = [], False
    for length in options.context:
        model = KneserNey(train, length, options.discount)
        keys, known = contexts_of(heldout, length)
        bits = float(-np.log2(model.probability(keys, heldout, known)).mean())
        result = {"context": length, "bits_per_byte": bits}
        line = f"Kneser-Ney, {length} bytes of context: {bits:.4f} bits per byte"
        if options.check:
            error, least = check(model, heldout, length, np.random.default_rng(1))
            result.update(sum_error=error, smallest_probability=least)
            line += f"; sums differ from 1 by at most {error:.1e}"
            failed = failed or error > 1e-9 or least <= 0
        print(line, file=figures, flush=True)
        results.append(result)

    if options.json:
        report = {"train": options.train, "heldout": options.heldout, "discount": options.discount,
                  "train_bytes": len(train), "heldout_bytes": len(heldout), "results": results}
        text = json.dumps(report, indent=2) + "\n"
        if options.json == "-":
            sys.stdout.write(text)
        else:
            with open(options.json, "w", encoding="utf-8") as file:
                file.write(text)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
