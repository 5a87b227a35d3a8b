"""Programs on real interfaces: attached, replaced, pinned and gone, and what is said where that cannot be."""

from __future__ import annotations

import ctypes
import errno
import functools
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import ParamSpec

import pytest

from gateway.fastpath import kernel, links
from gateway.fastpath.elf import read_object
from gateway.fastpath.kernel import BpfRefused, Loaded
from gateway.fastpath.links import Mode
from gateway.lab.namespaces import Namespace

P = ParamSpec("P")

pytestmark = [pytest.mark.netns, pytest.mark.usefixtures("require_bpf")]

OBJECT = Path(__file__).with_name("small.bpf.o")
SMALL = read_object(OBJECT.read_bytes())
LOOPBACK, EDGE = 1, 77  # the numbers of interfaces
CLONE_NEWNS, MS_REC, MS_PRIVATE = 0x20000, 0x4000, 1 << 18

_libc = ctypes.CDLL(None, use_errno=True)


def on_a_machine(test: Callable[P, None]) -> Callable[P, None]:
    """Run a test where the interface edge, a veth, is number 77, and mounts are nobody else's."""

    @functools.wraps(test)
    def inside(*args: P.args, **kwargs: P.kwargs) -> None:
        def run() -> None:
            assert _libc.unshare(CLONE_NEWNS) == 0, os.strerror(ctypes.get_errno())
            assert _libc.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None) == 0
            test(*args, **kwargs)

        machine = Namespace("links")
        try:
            machine.ip(
                f"link add edge index {EDGE} type veth peer name far", "link set edge up", "link set far up"
            )
            machine.call(run)
        finally:
            machine.close()

    return inside


@pytest.fixture
def loaded() -> Iterator[Loaded]:
    with kernel.load(SMALL, programs=["count", "redirect", "grow"]) as programs:
        yield programs


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where `mount_bpf` mounts a BPF file system."""
    made = tmp_path / "bpf"
    made.mkdir()
    return made


def mount_bpf(folder: Path) -> None:
    assert _libc.mount(b"bpf", os.fsencode(folder), b"bpf", 0, None) == 0, os.strerror(ctypes.get_errno())


def ip(line: str) -> None:
    subprocess.run(["ip", *line.split()], check=True)


@pytest.mark.parametrize("mode", Mode)
@on_a_machine
def test_program_is_attached_until_its_link_is_closed(loaded: Loaded, mode: Mode) -> None:
    assert links.attached(EDGE) is None
    link = links.attach(loaded.programs["count"], EDGE, mode)
    assert links.attached(EDGE) == link.program()
    found = links.interface(EDGE)
    assert found is not None
    assert (found.name, found.mtu, dict(found.programs)) == ("edge", 1500, {mode: link.program()})
    link.close()
    link.close()
    assert links.attached(EDGE) is None


@on_a_machine
def test_every_packet_meets_the_old_program_or_the_new_one_while_they_are_replaced(loaded: Loaded) -> None:
    with (
        kernel.load(SMALL, programs=["count"]) as other,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender,
    ):
        receiver.bind(("127.0.0.1", 0))
        receiver.settimeout(10)
        sender.connect(receiver.getsockname())
        with links.attach(loaded.programs["count"], LOOPBACK, Mode.GENERIC) as link:
            for number in range(100):
                sender.send(b"")
                turn = (other, loaded)[number % 2]
                link.replace(turn.programs["count"])
                receiver.recv(1)
        seen = [
            sum(memoryview(each.maps["by_cpu"].lookup(bytes(4)) or b"").cast("Q")) for each in (loaded, other)
        ]
    assert sum(seen) == 100
    assert min(seen) > 0


@on_a_machine
def test_program_that_is_there_already_is_named_and_left_alone(loaded: Loaded) -> None:
    with links.attach(loaded.programs["count"], EDGE, Mode.NATIVE) as first:
        for mode, number in ((Mode.NATIVE, errno.EBUSY), (Mode.GENERIC, errno.EEXIST)):
            with pytest.raises(
                BpfRefused, match=rf"program {first.program()} \(native\) is attached"
            ) as refused:
                links.attach(loaded.programs["redirect"], EDGE, mode)
            assert refused.value.errno == number
        assert links.attached(EDGE) == first.program()


@on_a_machine
def test_driver_without_native_mode_is_told_from_one_that_does_not_like_the_mtu(loaded: Loaded) -> None:
    with pytest.raises(BpfRefused, match="lo's driver has no native XDP") as refused:
        links.attach(loaded.programs["count"], LOOPBACK, Mode.NATIVE)
    assert refused.value.errno == errno.EOPNOTSUPP

    ip("link set far mtu 9000")
    ip("link set edge mtu 9000")
    with pytest.raises(BpfRefused, match="MTU of 9000"):
        links.attach(loaded.programs["count"], EDGE, Mode.NATIVE)
    links.attach(loaded.programs["count"], EDGE, Mode.GENERIC).close()


@on_a_machine
def test_interface_that_is_not_there_has_no_program_and_takes_none(loaded: Loaded) -> None:
    assert links.attached(4_000) is None
    with pytest.raises(BpfRefused, match="interface 4000: No such device"):
        links.attach(loaded.programs["count"], 4_000, Mode.NATIVE)


@on_a_machine
def test_link_outlives_its_interface_harmlessly(loaded: Loaded, folder: Path) -> None:
    mount_bpf(folder)
    with links.attach(loaded.programs["count"], EDGE, Mode.NATIVE) as link:
        link.pin(folder / "edge")
        ip("link delete edge")
        with pytest.raises(BpfRefused, match="the interface is gone") as refused:
            link.replace(loaded.programs["redirect"])
        assert refused.value.errno == errno.ENOLINK
        assert links.open_pinned(folder / "edge") is None


@on_a_machine
def test_pinned_link_stays_attached_and_is_taken_over(loaded: Loaded, folder: Path) -> None:
    mount_bpf(folder)
    path = folder / "isthmus/gateway/edge"
    with links.attach(loaded.programs["count"], EDGE, Mode.NATIVE) as link:
        link.pin(path)
        with pytest.raises(BpfRefused, match="something has this name already"):
            link.pin(path)
        before = link.program()
    assert links.attached(EDGE) == before

    again = links.open_pinned(path)
    assert again is not None
    assert (again.ifindex, again.mode, again.program()) == (EDGE, Mode.NATIVE, before)
    again.replace(loaded.programs["redirect"])
    assert links.attached(EDGE) == again.program() != before

    links.unpin(path)
    links.unpin(path)
    assert links.open_pinned(path) is None
    assert links.attached(EDGE) == again.program()
    again.close()
    assert links.attached(EDGE) is None


@on_a_machine
def test_detaching_takes_a_pinned_program_off_at_once(loaded: Loaded, folder: Path) -> None:
    mount_bpf(folder)
    with links.attach(loaded.programs["count"], EDGE, Mode.GENERIC) as link:
        link.pin(folder / "edge")
        assert link.is_attached()
        link.detach()
        assert not link.is_attached()
        assert links.attached(EDGE) is None
        assert links.open_pinned(folder / "edge") is None


@on_a_machine
def test_pinning_where_no_bpf_file_system_is_says_how_to_mount_one(loaded: Loaded, folder: Path) -> None:
    with links.attach(loaded.programs["count"], EDGE, Mode.NATIVE) as link:
        with pytest.raises(BpfRefused, match="mount -t bpf bpf /sys/fs/bpf"):
            link.pin(folder / "made/edge")
        assert list(folder.iterdir()) == []
        mount_bpf(folder)
        with pytest.raises(BpfRefused, match="a name without dots"):
            link.pin(folder / "edge.100")


@on_a_machine
def test_what_is_pinned_there_and_is_no_link_is_refused(loaded: Loaded, folder: Path) -> None:
    mount_bpf(folder)
    path = folder / "program"
    links.Link(loaded.programs["count"], EDGE, Mode.NATIVE).pin(path)
    with pytest.raises(BpfRefused, match="no link of an XDP program"):
        links.open_pinned(path)


@on_a_machine
def test_killed_process_leaves_nothing_attached(folder: Path) -> None:
    mount_bpf(folder)
    for pinned in (False, True):
        with attaching(folder / "edge" if pinned else None) as process:
            assert links.attached(EDGE) is not None
            process.send_signal(signal.SIGKILL)
            process.wait()
            assert (links.attached(EDGE) is not None) == pinned


def attaching(path: Path | None) -> subprocess.Popen[bytes]:
    """A process that has attached a program, and pinned its link if a path is given."""
    script = f"""
import sys
from pathlib import Path
from gateway.fastpath import elf, kernel, links
loaded = kernel.load(elf.read_object(Path({str(OBJECT)!r}).read_bytes()), programs=["count"])
link = links.attach(loaded.programs["count"], {EDGE}, links.Mode.NATIVE)
{f"link.pin(Path({str(path)!r}))" if path else ""}
print(flush=True)
sys.stdin.read()
"""
    process = subprocess.Popen(
        [sys.executable, "-c", script],
        cwd=Path(__file__).parents[3],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"\n"
    return process
