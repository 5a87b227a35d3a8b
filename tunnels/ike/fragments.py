"""Messages in parts, each encrypted by itself (RFC 7383).

Only what has been authenticated comes here, so a stranger can neither fill
the memory nor spoil a message. A peer that proved nothing but its key exchange
can: so little is kept of one message, and of one message at a time.
"""

from __future__ import annotations

MOST_OCTETS = 0xFFFF
"""Of the parts of one message (section 5)."""
MOST_FRAGMENTS = 1024


def split(plaintext: bytes, limit: int) -> list[bytes]:
    """Return what goes into each fragment: at most `limit` octets, and at least one fragment."""
    return [plaintext[start : start + limit] for start in range(0, max(len(plaintext), 1), limit)]


class Reassembly:
    """The parts that have come of the newest request, or of the newest response: each has its own numbers."""

    def __init__(self) -> None:
        self._message_id = -1
        self._total = 0
        self._first_payload = 0
        self._parts: dict[int, bytes] = {}
        self._octets = 0

    def add(
        self, message_id: int, number: int, total: int, first_payload: int, plaintext: bytes
    ) -> tuple[int, bytes] | None:
        """Take an authentic fragment; with the last return the first payload's type, and all payloads.

        Fragments that can't be right, and repeated ones, change nothing (section 2.6). A new
        message takes the place of an unfinished older one.
        """
        if not 0 < number <= total <= MOST_FRAGMENTS or message_id < self._message_id:
            return None
        if message_id > self._message_id or total > self._total:
            # Of the same message in more fragments: larger ones did not get through (section 2.5.2).
            self._begin(message_id, total)
        elif total < self._total or number in self._parts:
            return None
        self._octets += len(plaintext)
        if self._octets > MOST_OCTETS:
            self.discard()
            return None
        self._parts[number] = plaintext
        if number == 1:
            self._first_payload = first_payload  # the others have 0 there (section 2.5)
        if len(self._parts) < total:
            return None
        whole = b"".join(self._parts[place] for place in range(1, total + 1))
        self._begin(message_id, total)
        return self._first_payload, whole

    def discard(self) -> None:
        """Forget an unfinished message; it may begin again."""
        self._begin(-1, 0)

    def _begin(self, message_id: int, total: int) -> None:
        self._message_id, self._total = message_id, total
        self._octets = 0
        self._parts.clear()
