"""Network namespaces that vanish with the process that made them.

A namespace is held by a file descriptor and has no name in /run/netns. The
kernel removes it, with every interface in it, as soon as the descriptor is
closed and the last process in it has ended: also when we are killed.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

CLONE_NEWNET = 0x40000000

# An ordinary user's PATH leaves out the directories where some systems keep `ip`.
TOOL_PATH = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin", "/usr/bin", "/bin"])

_libc = ctypes.CDLL(None, use_errno=True)


class LabError(Exception):
    """The laboratory could not do what it was asked; the message says why, in a sentence."""


def tool(name: str) -> str:
    """Return the path of a command that the laboratory cannot do without. Raises LabError."""
    found = shutil.which(name, path=TOOL_PATH)
    if found is None:
        package = {"ip": "iproute2"}.get(name, "util-linux")
        raise LabError(f"the command {name!r} is missing: install it with 'apt install {package}'")
    return found


def environment() -> dict[str, str]:
    """Return the environment of commands in the laboratory: tools are found, and speak English."""
    return {**os.environ, "PATH": TOOL_PATH, "LC_ALL": "C"}


class Namespace:
    """One network namespace, with its loopback interface up."""

    def __init__(self, name: str) -> None:
        """Raises LabError where the kernel forbids it: see gateway.lab.userns."""
        self.name = name
        self._fd = _in_thread(_unshare)
        self.ip("link set lo up")

    def __repr__(self) -> str:
        return f"Namespace({self.name!r})"

    @property
    def path(self) -> str:
        """What other processes can open to enter it, while we run and hold it."""
        return f"/proc/{os.getpid()}/fd/{self._fd}"

    def command(self, *argv: str) -> list[str]:
        """Return the command line that runs `argv` inside."""
        return [tool("nsenter"), f"--net={self.path}", "--", *argv]

    def run(
        self, *argv: str, stdin: str | None = None, timeout: float = 60, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """Run a command inside and return what it said.

        Raises LabError if it takes more than `timeout` seconds, or if it fails and `check` is set.
        """
        try:
            done = subprocess.run(
                self.command(*argv),
                input=stdin,
                stdin=subprocess.DEVNULL if stdin is None else None,
                capture_output=True,
                text=True,
                timeout=timeout,
                env=environment(),
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise LabError(f"{self.name}: {' '.join(argv)} did not end in {timeout:g} s") from None
        if check and done.returncode:
            raise LabError(f"{self.name}: {' '.join(argv)} failed: {(done.stderr or done.stdout).strip()}")
        return done

    def ip(self, *lines: str) -> None:
        """Carry out iproute2 commands, such as `link set eth0 up`, inside, in one batch.

        Raises LabError with the line that failed.
        """
        if not lines:
            return
        done = self.run(tool("ip"), "-batch", "-", stdin="\n".join(lines) + "\n", check=False)
        if done.returncode == 0:
            return
        # "Command failed -:3" counts the lines from one; iproute2 stops at the first.
        reason, _, number = done.stderr.strip().partition("Command failed -:")
        line = lines[int(number) - 1] if number.isdecimal() else "; ".join(lines)
        raise LabError(f"{self.name}: 'ip {line}' failed: {reason.strip()}")

    def call(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call a function in a thread that is inside, and return or raise what it does.

        A socket opened there stays there. Processes are better started with
        `command`: one started in the short-lived thread would lose its parent.
        """

        def enter_and_call() -> T:
            if _libc.setns(self._fd, CLONE_NEWNET):
                raise _os_error(f"cannot enter {self.name}")
            return function(*args, **kwargs)

        return _in_thread(enter_and_call)

    def sysctl(self, values: Mapping[str, str | int]) -> None:
        """Set kernel parameters of the namespace, such as {"net/ipv4/ip_forward": 1}. Raises LabError."""

        def write() -> None:
            for name, value in values.items():
                path = Path("/proc/sys", name)
                try:
                    path.write_text(f"{value}\n")
                except OSError as error:
                    raise LabError(
                        f"{path} cannot be set to {value} ({error.strerror}): "
                        "this needs a kernel with IPv6, and in a container full privileges"
                    ) from error

        self.call(write)

    def interfaces(self) -> list[str]:
        """Return the names of the interfaces inside."""
        lines = self.call(Path("/proc/thread-self/net/dev").read_text).splitlines()[2:]
        return [line.partition(":")[0].strip() for line in lines]

    def close(self) -> None:
        """Let go of it. The kernel removes it once no process is inside."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def connect(a: Namespace, a_name: str, b: Namespace, b_name: str) -> None:
    """Join two namespaces by a veth pair; both ends are down and without addresses. Raises LabError."""
    a.ip(f"link add {a_name} type veth peer name {b_name} netns {b.path}")


def _unshare() -> int:
    if _libc.unshare(CLONE_NEWNET):
        raise LabError(str(_os_error("cannot make a network namespace")))
    return os.open("/proc/thread-self/ns/net", os.O_RDONLY)


def _os_error(what: str) -> OSError:
    number = ctypes.get_errno()
    return OSError(number, f"{what}: {os.strerror(number)}")


def _in_thread(function: Callable[[], T]) -> T:
    """A thread can be in another namespace than its process, and is thrown away so as not to come back."""
    results: list[T] = []
    failures: list[BaseException] = []

    def work() -> None:
        try:
            results.append(function())
        except BaseException as failure:
            failures.append(failure)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    if failures:
        raise failures[0]
    return results[0]
