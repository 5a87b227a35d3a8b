"""The right to make network namespaces: as root at once, else inside a user namespace."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from gateway.lab.namespaces import TOOL_PATH, LabError, tool

# Set in the process that we started inside a user namespace, so that it is started once.
INSIDE = "ISTHMUS_USER_NAMESPACE"

CAP_NET_ADMIN = 12
CAP_NET_RAW = 13
CAP_SYS_ADMIN = 21

# --mount: what is mounted inside stays inside.
UNSHARE = ("--user", "--map-root-user", "--net", "--mount", "--")


def is_privileged() -> bool:
    """Whether this process may make network namespaces and open raw sockets in them."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapEff:"):
            effective = int(line.split()[1], 16)
            return all(effective >> bit & 1 for bit in (CAP_NET_ADMIN, CAP_NET_RAW, CAP_SYS_ADMIN))
    return False


def ensure_privileged() -> None:
    """Return with the right to make network namespaces.

    An ordinary user's command is started again inside a user namespace, in
    this same process, so this is called first, before any thread starts and
    any output. Raises LabError with one sentence that says what to do where
    that is forbidden or a command is missing.
    """
    for name in ("ip", "nsenter"):
        tool(name)
    if is_privileged():
        return
    if os.environ.get(INSIDE):
        raise LabError("the user namespace gives no right to make network namespaces: run this as root")
    unshare = tool("unshare")
    attempt = subprocess.run(
        [unshare, *UNSHARE, tool("ip"), "link", "set", "lo", "up"],
        capture_output=True,
        text=True,
        check=False,
    )
    if attempt.returncode:
        raise LabError(_why_forbidden(attempt.stderr.strip()))
    os.environ[INSIDE] = "1"
    os.environ["PATH"] = TOOL_PATH
    os.execv(unshare, [unshare, *UNSHARE, sys.executable, *sys.orig_argv[1:]])  # noqa: S606 - itself, again


def _why_forbidden(said: str) -> str:
    """The kernels' and distributions' switches, each with the command that turns it."""
    for name, forbidding, allowing in (
        ("kernel.unprivileged_userns_clone", "0", "1"),
        ("kernel.apparmor_restrict_unprivileged_userns", "1", "0"),
        ("user.max_user_namespaces", "0", "10000"),
        ("user.max_net_namespaces", "0", "10000"),
    ):
        switch = Path("/proc/sys", *name.split("."))
        if switch.exists() and switch.read_text().strip() == forbidding:
            return (
                f"this machine forbids ordinary users network namespaces ({name} is {forbidding}): "
                f"run this as root, or allow them with 'sudo sysctl {name}={allowing}'"
            )
    if os.geteuid() == 0:
        return f"root may make no network namespaces here ({said}): run this container with full privileges"
    return f"this machine forbids ordinary users network namespaces ({said}): run this as root"
