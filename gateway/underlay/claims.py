"""One server for each thing: a second one of the same provider address or port would double every packet."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator
from contextlib import contextmanager

from policies.errors import ConfigurationError, Problem


@contextmanager
def claimed(kind: str, name: str, key: str) -> Iterator[None]:
    """Hold something for this process, as long as the block lasts.

    The claim is an abstract Unix socket: the kernel keeps them apart by network namespace,
    as it does addresses and interfaces, and ends them with their process, however
    that ends. Raises ConfigurationError, which names `key`, where another holds it.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as claim:
        try:
            claim.bind(_address(kind, name))
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            problem = Problem(key, f"{name} is served by another isthmus already")
            raise ConfigurationError([problem]) from None
        yield


def is_claimed(kind: str, name: str) -> bool:
    """Whether some process of this network namespace holds something now; it notices nothing."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as asking:
        try:
            asking.connect(_address(kind, name))
        except ConnectionRefusedError:
            return False
        return True


def _address(kind: str, name: str) -> str:
    return f"\0isthmus/{kind}/{name}"
