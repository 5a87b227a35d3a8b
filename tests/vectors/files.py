"""Reads the vectors that the package `cryptography-vectors` brings: lines of `Name = value`, in sections."""

from __future__ import annotations

from collections.abc import Iterator

import cryptography_vectors

Vector = dict[str, str]


def vectors(path: str, first: str) -> Iterator[Vector]:
    """Yield each vector of a file; `first` is the name (in lower case) that begins one.

    Its section's values, such as `[IVlen = 96]`, are among its own; a line without a value is `True`.
    """
    section: Vector = {}
    vector: Vector = {}
    with cryptography_vectors.open_vector_file(path, "r") as file:
        for written in file:
            line = written.strip()
            if not line or line.startswith("#"):
                continue
            name, equals, value = (each.strip() for each in line.strip("[]").partition("="))
            if line.startswith("["):
                section[name.lower()] = value
                continue
            if name.lower() == first and vector:
                yield vector
                vector = {}
            if name.lower() == first:
                vector = dict(section)
            vector[name.lower()] = value if equals else "True"
    if vector:
        yield vector
