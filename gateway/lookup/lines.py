"""Lines out of a stream of octets, wherever that was cut on its way: a node's watch, and etcd's."""

from __future__ import annotations

from gateway.lookup.forms import Malformed

LONGEST_LINE = 16 << 20
"""In octets. A tenant with all of its sites and rules is one line."""


class Lines:
    """Cuts octets into lines. The octets of a line that is not whole yet are kept."""

    def __init__(self) -> None:
        self._rest: list[bytes] = []
        self._length = 0

    def feed(self, octets: bytes) -> list[bytes]:
        """Return the lines that are whole now, without their ends, and without empty ones.

        Raises Malformed for one that is too long.
        """
        first, *further = octets.split(b"\n")
        self._rest.append(first)
        self._length += len(first)
        if self._length > LONGEST_LINE:
            raise Malformed(f"a line of more than {LONGEST_LINE >> 20} MiB")
        if not further:
            return []
        whole = [b"".join(self._rest), *further]
        self._rest = [whole.pop()]
        self._length = len(self._rest[0])
        return [line for line in whole if line]
