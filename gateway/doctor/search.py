"""The search for the largest packet that a path carries, with several sizes tried at once."""

from __future__ import annotations

from collections.abc import Collection

AT_ONCE = 8


class Search:
    """Looks between a size that arrives and one that does not. Sizes are in octets of the IP packet.

    What is smaller than one that arrives would arrive too: so where a packet was lost by chance, a
    larger one sets that right.
    """

    def __init__(self, arrives: int, too_large: int) -> None:
        self._arrives = arrives
        self._too_large = too_large
        self._hints: set[int] = set()

    @property
    def largest(self) -> int | None:
        """The largest that arrives; None while it is not known."""
        return self._arrives if self._too_large - self._arrives <= 1 else None

    @property
    def at_least(self) -> int:
        """What is known to arrive."""
        return self._arrives

    def sizes(self) -> list[int]:
        """Return what to try next: evenly spread, and what a router has said."""
        low, high = self._arrives, self._too_large
        step = max(1, (high - low) // (AT_ONCE + 1))
        spread = range(low + step, high, step)
        hinted = {size for hint in self._hints for size in (hint, hint + 1) if low < size < high}
        return sorted({*list(spread)[:AT_ONCE], *hinted})

    def hint(self, size: int) -> None:
        """A router says that this is what its next link carries. It is tried, and not believed."""
        self._hints.add(size)

    def tried(self, sizes: Collection[int], arrived: Collection[int]) -> None:
        """Some sizes have been tried, and of those these have arrived."""
        self._arrives = max([self._arrives, *arrived])
        self._too_large = min([self._too_large, *(size for size in sizes if size > self._arrives)])
