"""A process that changes records as fast as it can, in memory that it shares with a program.

It is given the file descriptor of the table's map, its octets, its seed, the version of IP of the
addresses, and how it is to write. It writes until its standard input is closed.
"""

from __future__ import annotations

import mmap
import select
import sys
from collections.abc import Callable, Iterator

from gateway.fastpath.layout import FIRST_SCOPE, words_of
from gateway.fastpath.places import Ipv4Places, Place, Places
from policies.addresses import CustomerAddress

TENANT = 1
SUBNETS = (0x0141, 0x0282, 0x03C3)
"""No two of them have a part in common: half of one and half of another is none of them."""
MOVING = {4: CustomerAddress.parse("10.0.0.5"), 6: CustomerAddress.parse("fd00::5")}
"""This one is now here, now there."""
OTHER = {4: CustomerAddress.parse("10.0.0.6"), 6: CustomerAddress.parse("fd00::6")}
"""Now and then this one has its place."""

Put = Callable[[CustomerAddress, Place], bool]
Remove = Callable[[CustomerAddress], bool]


def place(number: int) -> Place:
    """One of three places to be, whose every part has its number."""
    return Place(SUBNETS[number], number + 2, int.from_bytes(mac(number), "little"))


def mac(number: int) -> bytes:
    """The MAC in one of these places."""
    return bytes((2, 0x11 * (number + 1), 0x22, 0x33, 0x44, 0x55 + number))


def writer(version: int, words: memoryview[int], seed: int) -> tuple[Put, Remove]:
    """How addresses of a version of IP are put and removed."""
    if version == 4:
        scope = FIRST_SCOPE + 2 * TENANT
        ipv4 = Ipv4Places(words, seed, [scope] * (max(SUBNETS) + 1))
        return (
            lambda address, where: ipv4.put(words_of(address)[0], where),
            lambda address: ipv4.remove(scope, words_of(address)[0]),
        )
    scope = FIRST_SCOPE + 2 * TENANT + 1
    table = Places(words, seed)
    return (
        lambda address, where: table.put(scope, *words_of(address), where),
        lambda address: table.remove(scope, *words_of(address)),
    )


def rightly(version: int, words: memoryview[int], seed: int) -> Iterator[None]:
    """Change the table as it is meant to be."""
    put, remove = writer(version, words, seed)
    while True:
        for number in (0, 1, 0, 1):
            assert put(MOVING[version], place(number))
            yield
        remove(MOVING[version])
        assert put(OTHER[version], place(2))
        yield
        remove(OTHER[version])


def wrongly(version: int, words: memoryview[int], seed: int) -> Iterator[None]:
    """Change what an address leads to word by word, and say to nobody that it changes."""
    put, _ = writer(version, words, seed)
    contents = []
    for number in (0, 1):
        assert put(MOVING[version], place(number))
        contents.append(words.tolist())
    changing = [at for at in range(len(words)) if contents[0][at] != contents[1][at]]
    while True:
        for content in contents:
            for at in changing:
                words[at] = content[at]
        yield


def main() -> None:
    """Write until there is nobody left who reads."""
    fd, octets, seed, version = map(int, sys.argv[1:5])
    words = memoryview(mmap.mmap(fd, octets)).cast("Q")
    changes = (rightly if sys.argv[5] == "rightly" else wrongly)(version, words, seed)
    while not select.select([sys.stdin], [], [], 0)[0]:
        for _ in range(1000):
            next(changes)


if __name__ == "__main__":
    main()
