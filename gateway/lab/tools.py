"""The real ping, traceroute and tracepath where they are installed, else our own probes."""

from __future__ import annotations

import functools
import shutil
import subprocess
import sys

import msgspec

from gateway.lab.namespaces import TOOL_PATH

# Others of the same names (busybox's, inetutils') lack options that we use: each says who it is.
SIGNATURES = {
    "ping": ("-V", "iputils"),
    "traceroute": ("--version", "Modern traceroute"),
    "tracepath": ("-V", "iputils"),
}


class Tool(msgspec.Struct, frozen=True):
    """How to run a tool: what comes before its arguments, and whether it is the real one."""

    name: str
    prefix: tuple[str, ...]
    is_real: bool

    def command(self, *arguments: str) -> list[str]:
        """Return the command line for some arguments; both kinds take the same ones."""
        return [*self.prefix, *arguments]


@functools.cache
def find(name: str) -> Tool:
    """Return a tool of SIGNATURES: the installed one if it is the one that we know, else our probe."""
    option, signature = SIGNATURES[name]
    path = shutil.which(name, path=TOOL_PATH)
    if path is not None:
        said = subprocess.run([path, option], capture_output=True, text=True, check=False)
        if signature in said.stdout + said.stderr:
            return Tool(name, (name,), is_real=True)  # the laboratory runs it with TOOL_PATH
    return probe(name)


def probe(name: str) -> Tool:
    """Return our own probe of that name."""
    return Tool(name, (sys.executable, "-m", "gateway.lab.probe", name), is_real=False)
