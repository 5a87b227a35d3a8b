"""The far end of a veth pair, made such that frames which are redirected into the pair arrive.

A veth takes a frame from an XDP program only where its far end receives by NAPI: with GRO on, or with
a program of its own. GRO would merge what is to be seen as it was sent, so the far end gets
a program that passes everything on, and GRO off.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager

from gateway.fastpath import kernel, links
from gateway.fastpath.elf import ObjectFile, ProgramCode, ProgramKind
from gateway.underlay.offloads import merging_off

# r0 = XDP_PASS; exit
_PASS = bytes.fromhex("b700000002000000 9500000000000000")
_OBJECT = ObjectFile({"pass_all": ProgramCode(ProgramKind.XDP, _PASS, ())}, {}, "Apache-2.0")


@contextmanager
def takes_redirected_frames(interface: str) -> Iterator[None]:
    """Keep an interface so. Enter it in the interface's namespace. Raises BpfRefused."""
    with (
        kernel.load(_OBJECT) as loaded,
        links.attach(loaded.programs["pass_all"], socket.if_nametoindex(interface), links.Mode.NATIVE),
        merging_off([interface]),
    ):
        yield
