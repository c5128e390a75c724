#!/usr/bin/env python3
# SPDX-FileCopyrightText: Kokomoe authors
# SPDX-License-Identifier: BSD-3-Clause

"""Fits the coefficients of normal_tail in include/kokomoe/core/math.hpp, and prints its errors.

For z >= 0: Phi(-z) = exp(-z^2 / 2) t P(t), t = 1 / (1 + p z). P is the polynomial of least weighted
squares on Chebyshev points, weighted again and again until its relative errors are alike. Wants numpy
and scipy.
"""

import numpy as np
from scipy.special import erfcx

P, DEGREE, LAST = 0.35, 8, 13.0  # beyond LAST exp(-z^2 / 2) is below float's normal numbers


def main():
    t_last = 1 / (1 + P * LAST)
    nodes = np.cos(np.pi * (np.arange(4000) + 0.5) / 4000)
    t = t_last + (1 - t_last) * (nodes + 1) / 2
    z = (1 / t - 1) / P
    goal = 0.5 * erfcx(z / np.sqrt(2))
    powers = t[:, None] * t[:, None] ** np.arange(DEGREE + 1)
    weight = np.ones_like(t)
    for _ in range(200):
        root = np.sqrt(weight)[:, None]
        c, *_ = np.linalg.lstsq(powers / goal[:, None] * root, root[:, 0], rcond=None)
        error = np.abs(powers @ c / goal - 1)
        weight = weight * (error / error.max() + 1e-3)
        weight /= weight.mean()
    print("p =", P, "relative error", error.max())
    for value in c:
        print("%.9g" % value)
    # As float computes it.
    z = np.linspace(0, LAST, 2_000_001).astype(np.float32)
    t = np.float32(1) / (np.float32(1) + np.float32(P) * z)
    y = np.zeros_like(z)
    for value in c[::-1]:
        y = y * t + np.float32(value)
    y = y * t * np.exp(np.float32(-0.5) * z * z)
    exact = 0.5 * erfcx(z.astype(float) / np.sqrt(2)) * np.exp(-0.5 * z.astype(float) ** 2)
    print("in float: absolute", np.abs(y - exact).max(), "relative below z = 8",
          np.abs(y / exact - 1)[z < 8].max(), "below z = 3", np.abs(y / exact - 1)[z < 3].max())


if __name__ == "__main__":
    main()
