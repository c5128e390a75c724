#!/usr/bin/env python3
# SPDX-FileCopyrightText: Kokomoe authors
# SPDX-License-Identifier: BSD-3-Clause
"""text_scores.kkref: BLEU and chrF by sacrebleu, task metrics by scipy and scikit-learn.

NAME/hypotheses and NAME/references hold UTF-8 bytes, a line each; NAME/bleu, NAME/precisions,
NAME/brevity_penalty, NAME/counts, NAME/totals, NAME/bleu_none (tok:none, smooth:none), NAME/chrf.
tokens/lines and tokens/words: what sacrebleu's 13a makes of some lines. metrics/N/...: predictions,
labels and what comes of them.
"""

import pathlib
import random

import numpy as np
import sacrebleu
import scipy.stats
import sklearn.metrics
from kkref import Writer
from sacrebleu.tokenizers.tokenizer_13a import Tokenizer13a

SUBJECTS = ["Der Rechner", "Das kleine Modell", "Ein Experte", "Die Schaltfläche „Öffnen“", "Größe 3,5",
            "Frau Dr. Weiß", "Version 1.2.3-rc4", "Das Menü <Bild>", "Es", "Niemand (außer uns)"]
VERBS = ["berechnet", "öffnet", "verteilt", "löscht", "zeigt", "wählt", "speichert", "übersetzt"]
OBJECTS = ["die Datei", "alle 1,234.56 Werte", "20-30 Gewichte", "das Fenster", "den Pfad /usr/bin",
           "nichts", "50% der Wörter", "die Ebene & den Kanal", "„den Satz“", "A/B-Tests", "2 + 2 = 4"]
ENDS = [".", "!", "?", " ...", ", und so weiter.", " (siehe unten).", ";", "", " – oder?", "…"]
MIXED = ["&quot;Ja&quot;, sagte er.", "a &amp; b &lt; c &gt; d", "&amp;lt;", "no-break\u00a0space and\u3000wide",
         "日本語 のテキスト。", "emoji 🙂 and 🙂🙂", "1.5,2.5;3.5", ".,.,.,", "x.", ".x", "3.", ".3", "1-2 a-b 3-c",
         "tab\tin between", "trailing space   ", "   leading", "", " ", "don't can't 'quoted'", "https://x.y/z?q=1#f",
         "ﬁne ligature", "naïve café", "<skipped>word", "~[]{}|\\^_`@#$%*+=:;\"", "-- ---", "5,", ",5 .5", "ß.ß,ß"]


def sentence(rng):
    return f"{rng.choice(SUBJECTS)} {rng.choice(VERBS)} {rng.choice(OBJECTS)}{rng.choice(ENDS)}"


def worse(rng, line, rate):
    words = line.split(" ")
    result = []
    for word in words:
        x = rng.random()
        if x < rate / 4:
            continue
        if x < rate / 2:
            word = rng.choice(VERBS)
        elif x < 3 * rate / 4:
            word = word[: max(1, len(word) - 1)]
        elif x < rate:
            result.append(word)
        result.append(word)
    return " ".join(result)


def text(lines):
    return np.frombuffer("\n".join(lines).encode(), dtype=np.uint8).astype(np.int32)


def put_scores(out, name, hypotheses, references):
    both = list(zip(hypotheses, references))
    assert all("\n" not in a + b for a, b in both)
    score = sacrebleu.corpus_bleu(hypotheses, [references])
    raw = sacrebleu.corpus_bleu(hypotheses, [references], tokenize="none", smooth_method="none",
                                force=True)
    out.put(f"{name}/lines", len(both))
    out.put(f"{name}/hypotheses", text(hypotheses))
    out.put(f"{name}/references", text(references))
    out.put(f"{name}/bleu", score.score)
    out.put(f"{name}/precisions", np.array(score.precisions, dtype=float))
    out.put(f"{name}/brevity_penalty", float(score.bp))
    out.put(f"{name}/counts", np.array(score.counts))
    out.put(f"{name}/totals", np.array(score.totals))
    out.put(f"{name}/bleu_none", float(raw.score))
    out.put(f"{name}/chrf", sacrebleu.corpus_chrf(hypotheses, [references]).score)
    print(name, score, sacrebleu.corpus_chrf(hypotheses, [references]), raw.score)


def main():
    rng = random.Random(7)
    out = Writer()
    references = [sentence(rng) for _ in range(120)]
    for name, rate in (("good", 0.1), ("fair", 0.5), ("poor", 0.95)):
        put_scores(out, name, [worse(rng, line, rate) for line in references], references)
    put_scores(out, "equal", references, references)
    put_scores(out, "longer", [line + " und noch mehr" for line in references], references)
    put_scores(out, "mixed", MIXED[3:] + MIXED[:3], MIXED)
    put_scores(out, "mixed_equal", MIXED, MIXED)
    put_scores(out, "nothing", [""] * 5, references[:5])
    put_scores(out, "nothing_alike", ["xyz qqq"] * 3, references[:3])
    put_scores(out, "no_reference", references[:3], ["", "", references[2]])
    put_scores(out, "short", ["das Fenster", "Es", "zeigt"], ["das Fenster da", "Es ist", "er zeigt"])

    cut = Tokenizer13a()
    lines = MIXED + references
    out.put("tokens/lines", text(lines))
    out.put("tokens/words", text([cut(line.rstrip()) for line in lines]))

    numbers = np.random.default_rng(11)
    for case, classes in enumerate((2, 2, 2, 3, 5, 2, 2)):
        labels = numbers.integers(0, classes, 60)
        predicted = np.where(numbers.random(60) < 0.3 + 0.1 * case,
                             numbers.integers(0, classes, 60), labels)
        if case == 5:
            predicted[:] = 0
        if case == 6:
            labels[:] = 0
        x = numbers.normal(size=60)
        y = np.round(x + numbers.normal(size=60), case % 2)
        where = f"metrics/{case}"
        out.put(f"{where}/labels", labels)
        out.put(f"{where}/predicted", predicted)
        out.put(f"{where}/accuracy", float(sklearn.metrics.accuracy_score(labels, predicted)))
        out.put(f"{where}/f1", float(sklearn.metrics.f1_score(
            labels, predicted, labels=[1], average="macro", zero_division=0)))
        out.put(f"{where}/matthews", float(sklearn.metrics.matthews_corrcoef(labels, predicted)))
        out.put(f"{where}/x", x)
        out.put(f"{where}/y", y)
        out.put(f"{where}/pearson", float(scipy.stats.pearsonr(x, y)[0]))
        out.put(f"{where}/spearman", float(scipy.stats.spearmanr(x, y)[0]))
    out.save(pathlib.Path(__file__).resolve().parent / "text_scores.kkref")


if __name__ == "__main__":
    main()
