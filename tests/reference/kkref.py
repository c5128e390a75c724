# SPDX-FileCopyrightText: Kokomoe authors
# SPDX-License-Identifier: BSD-3-Clause
"""The .kkref container: named arrays, little-endian, C order.

    "KKREF1\n", then until the end of the file:  "name dtype d0 d1 ...\n"  raw bytes

dtype is f8, f4, i4 or i8; no dimension at all means a scalar. tests/support/reference_file.hpp
reads it in C++.
"""

import numpy as np

MAGIC = b"KKREF1\n"
TYPES = {"f8": "<f8", "f4": "<f4", "i4": "<i4", "i8": "<i8"}


class Writer:
    def __init__(self):
        self.records = {}

    def put(self, name, value, dtype=None):
        """dtype None: float64 and float32 stay, integers and booleans become i4."""
        array = np.asarray(value)
        if dtype is None:
            dtype = {"float64": "f8", "float32": "f4", "int64": "i4", "int32": "i4", "bool": "i4"}[
                array.dtype.name
            ]
        if not name or any(c.isspace() for c in name):
            raise ValueError(f"bad record name {name!r}")
        if name in self.records:
            raise ValueError(f"record {name!r} twice")
        # ascontiguousarray would turn a scalar into a vector of one.
        out = np.array(array, dtype=TYPES[dtype], order="C")
        if dtype[0] == "i" and not np.array_equal(out, array):
            raise ValueError(f"record {name!r} does not fit {dtype}")
        self.records[name] = (dtype, out)

    def save(self, path):
        with open(path, "wb") as f:
            f.write(MAGIC)
            for name, (dtype, array) in self.records.items():
                f.write(" ".join([name, dtype, *map(str, array.shape)]).encode() + b"\n")
                f.write(array.tobytes())
        back = load(path)
        assert list(back) == list(self.records)
        for name, (dtype, array) in self.records.items():
            assert back[name].shape == array.shape and back[name].tobytes() == array.tobytes(), name


def load(path):
    records = {}
    with open(path, "rb") as f:
        if f.read(len(MAGIC)) != MAGIC:
            raise ValueError(f"{path}: not a KKREF1 file")
        while line := f.readline():
            name, dtype, *shape = line.decode().split()
            shape = tuple(map(int, shape))
            kind = np.dtype(TYPES[dtype])
            count = int(np.prod(shape, dtype=np.int64))
            data = f.read(count * kind.itemsize)
            if len(data) != count * kind.itemsize:
                raise ValueError(f"{path}: {name} is cut off")
            records[name] = np.frombuffer(data, kind).reshape(shape)
    return records
