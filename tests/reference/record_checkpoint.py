# SPDX-FileCopyrightText: Kokomoe authors
# SPDX-License-Identifier: BSD-3-Clause

"""record_checkpoint.py STEP: what is in a checkpoint, read by h5py and json alone.

A line for each tensor: name, type, shape, CRC-32 of its little-endian bytes (zlib's), and its first
and last element. Then a line for each of the manifest's counters and texts, with a CRC-32 of these.
"""

import json
import sys
import zlib

import h5py

step = sys.argv[1]


def show(name, item):
    if not isinstance(item, h5py.Dataset) or name.startswith("digests/"):
        return
    values = item[...]
    data = values.astype(values.dtype.newbyteorder("<")).tobytes()
    digits = 9 if values.dtype.itemsize == 4 else 17
    first, last = (f"{float(v):.{digits}g}" for v in (values.flat[0], values.flat[-1]))
    shape = ",".join(map(str, values.shape))
    print("tensor", name, values.dtype.name, shape, f"{zlib.crc32(data):08x}", first, last)


with h5py.File(f"{step}/state.h5", "r") as f:
    print("attribute format_version", f.attrs["format_version"])
    print("attribute step", f.attrs["step"])
    f.visititems(show)

with open(f"{step}/manifest.json") as f:
    manifest = json.load(f)
for name, value in manifest["counters"].items():
    print("counter", name, value)
for name, text in manifest["texts"].items():
    print("text", name, f"{zlib.crc32(bytes.fromhex(text)):08x}")
print("text deck", f"{zlib.crc32(manifest['deck'].encode()):08x}")
