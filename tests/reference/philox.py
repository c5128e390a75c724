# SPDX-FileCopyrightText: Kokomoe authors
# SPDX-License-Identifier: BSD-3-Clause
"""Philox4x32-10 (Salmon, Moraes, Dror, Shaw 2011) and Kokomoe's layout of key and counter."""

import numpy as np

GUMBEL, COIN, JITTER, DROPOUT = 1, 2, 3, 4

_M0, _M1 = 0xD2511F53, 0xCD9E8D57
_W0, _W1 = 0x9E3779B9, 0xBB67AE85
_MASK = 0xFFFFFFFF


def philox4x32(counter, key):
    """One block: four 32-bit words from a counter of four and a key of two (Python integers)."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        a, b = _M0 * c0, _M1 * c2
        c0, c1, c2, c3 = (b >> 32) ^ c1 ^ k0, b & _MASK, (a >> 32) ^ c3 ^ k1, a & _MASK
        k0, k1 = (k0 + _W0) & _MASK, (k1 + _W1) & _MASK
    return c0, c1, c2, c3


def word(seed, purpose, step, sequence, layer, position, draw, lane=0, replica=0):
    assert 0 <= seed < 2**40 and 0 <= step < 2**32 and 0 <= sequence < 2**32
    assert 0 <= position < 2**24 and 0 <= layer < 2**8 and 0 <= draw < 2**18
    key = (seed & _MASK, purpose | lane << 8 | ((seed >> 32) & 0xFF) << 24)
    counter = (step, sequence, position | layer << 24, (draw // 4) | replica << 16)
    return philox4x32(counter, key)[draw % 4]


def to_uniform(r, dtype):
    """A word as a number in the open interval (0, 1)."""
    if np.dtype(dtype) == np.float64:
        return np.float64(r + 0.5) * np.float64(2.0**-32)
    return np.float32((r >> 9) + 0.5) * np.float32(2.0**-23)  # 24 bits: exact


def uniforms(seed, purpose, step, sequence, layer, position, draws, dtype):
    """(T, len(draws)) uniforms for the tokens whose sequence index and position are given."""
    return np.array(
        [
            [to_uniform(word(seed, purpose, step, int(s), layer, int(p), d), dtype) for d in draws]
            for s, p in zip(sequence, position)
        ],
        dtype=dtype,
    ).reshape(len(sequence), len(draws))


KNOWN = [  # Random123's known answers for philox4x32, 10 rounds: counter, key, result
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((_MASK,) * 4, (_MASK,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


def self_check():
    for counter, key, result in KNOWN:
        assert philox4x32(counter, key) == result, (counter, key)
    for dtype in (np.float64, np.float32):
        low, high = to_uniform(0, dtype), to_uniform(_MASK, dtype)
        assert 0 < low < high < 1
