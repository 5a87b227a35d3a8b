"""What every test may ask for, and when one is skipped."""

from __future__ import annotations

import functools
import os
import shutil
import signal
import subprocess
from collections.abc import Callable

import hypothesis
import pytest

# Set where a missing peer or privilege is a failure: in .ci/run and `make interop`.
PEERS_ARE_REQUIRED = os.environ.get("ISTHMUS_REQUIRE_PEERS") == "1"

# Tests start Python hundreds of times, and each time it would compile everything again.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# A shell starts `make test &` with SIGINT ignored, and nohup with SIGHUP ignored. Processes that tests start
# would inherit that, and rightly not heed the signal. What has a handler here is theirs with its default.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, lambda _number, _frame: None)  # so that the tests still outlive the terminal

# The quick profile repeats the same examples, so that a red run is red again; the long one explores.
# There is no deadline: on two shared cores a slow example says nothing.
hypothesis.settings.register_profile("quick", max_examples=100, derandomize=True, deadline=None)
hypothesis.settings.register_profile("long", max_examples=10_000, deadline=None, print_blob=True)
hypothesis.settings.load_profile(os.environ.get("ISTHMUS_HYPOTHESIS", "quick"))


def _missing(reason: str) -> None:
    if PEERS_ARE_REQUIRED:
        pytest.fail(f"{reason}, and ISTHMUS_REQUIRE_PEERS=1 makes that a failure", pytrace=False)
    pytest.skip(reason)


@functools.cache
def _why_no_namespaces() -> str | None:
    if shutil.which("unshare") is None:
        return "unshare is not installed (package util-linux)"
    attempt = subprocess.run(
        ["unshare", "--net", "--mount", "true"], capture_output=True, text=True, check=False, timeout=10
    )
    return None if attempt.returncode == 0 else f"no namespaces may be made here ({attempt.stderr.strip()})"


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what needs namespaces where there can be none."""
    if item.get_closest_marker("netns") is not None and (reason := _why_no_namespaces()) is not None:
        _missing(reason)


@pytest.fixture(scope="session")
def require_tools() -> Callable[..., None]:
    """Skip the test, or fail it where peers are required, unless each of these commands is installed."""

    def require(*commands: str) -> None:
        path = os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin"
        absent = [command for command in commands if shutil.which(command, path=path) is None]
        if absent:
            _missing(f"{', '.join(absent)} not installed: `make peers` installs what the tests use")

    return require


@pytest.fixture(scope="session")
def require_tun() -> None:
    """Skip the test, or fail it where peers are required, unless TAP devices can be made."""
    try:
        os.close(os.open("/dev/net/tun", os.O_RDWR))
    except OSError as error:
        _missing(f"no TAP device can be made here ({error})")


@pytest.fixture(scope="session")
def require_bpf() -> None:
    """Skip the test, or fail it where peers are required, unless programs may be loaded into the kernel."""
    from gateway.fastpath.elf import MapDefinition
    from gateway.fastpath.kernel import BpfRefused, Map

    try:
        Map.create(MapDefinition(type=14, key_size=4, value_size=4, max_entries=1)).close()
    except BpfRefused as refused:
        _missing(f"no program may be loaded into the kernel here ({refused})")
