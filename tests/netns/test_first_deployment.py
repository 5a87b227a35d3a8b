"""README's first deployment to the letter: its files are written, its commands typed, its output compared."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from gateway.lab.namespaces import Namespace, environment
from gateway.lab.processes import Process
from gateway.lab.topology import Datacenter, standard_plan

pytestmark = pytest.mark.netns

README = Path(__file__).parents[2] / "README.md"
USERS = README.with_name("packaging") / "isthmus.sysusers"
SECTION = re.compile(r"^## A first deployment.*?(?=^## )", re.DOTALL | re.MULTILINE)
BLOCK = re.compile(r"^```(toml|console)\n(.*?)^```", re.DOTALL | re.MULTILINE)
PROMPT = re.compile(r"^([\w-]+)# (.*)$")
PATIENCE = 20.0


class Command(msgspec.Struct):
    """A line that is typed on a machine, and what is then shown."""

    machine: str
    line: str
    shown: list[str]


class File(msgspec.Struct):
    """A file on a machine, whose first line says where it is."""

    machine: str
    redirection: str
    """> or >> and the path."""
    text: str


def steps() -> Iterator[Command | File]:
    """README's steps, in order."""
    section = SECTION.search(README.read_text())
    assert section is not None, "README has no first deployment"
    for kind, text in BLOCK.findall(section[0]):
        if kind == "toml":
            place = re.match(r"# ([\w-]+): (added to )?(\S+)\n", text)
            assert place is not None, f"nobody knows where this belongs:\n{text}"
            yield File(place[1], f"{'>>' if place[2] else '>'} {place[3]}", text)
            continue
        command: Command | None = None
        for line in text.splitlines():
            if prompt := PROMPT.match(line):
                if command is not None:
                    yield command
                command = Command(prompt[1], prompt[2], [])
            elif command is not None:
                command.shown.append(line)
        if command is not None:
            yield command


class Machine:
    """A machine of its own: its network, its /etc, /var/lib and /run."""

    def __init__(self, name: str, namespace: Namespace, folder: Path, path: str) -> None:
        self.name = name
        self._environment = {"PATH": path}
        self.services: list[Process] = []
        self._folder = folder
        self._where = Path("/")
        folder.mkdir()
        private = (
            f"mount -t tmpfs tmpfs {folder} && mkdir {folder}/etc {folder}/work && "
            f"mount -t overlay overlay -o lowerdir=/etc,upperdir={folder}/etc,workdir={folder}/work /etc && "
            "mount -t tmpfs tmpfs /var/lib && mount -t tmpfs tmpfs /run && mkdir -p /etc/isthmus && "
            "echo ready && exec sleep 3600"
        )
        self._init = Process(
            name, namespace.command("unshare", "--mount", "sh", "-c", private), folder.with_suffix(".log")
        )
        self._init.wait_for("^ready")

    def type(self, line: str, others: dict[str, Machine]) -> str:
        """Type a line, and return what it says. What fails fails the test."""
        if line.startswith("cd "):
            self._where = Path(line.removeprefix("cd "))
            return ""
        if line.startswith("apt install"):
            # The command is on our path: tests of the package install it. Its users are made as there.
            line = f"systemd-sysusers {USERS} && chgrp isthmus /etc/isthmus && chmod 750 /etc/isthmus"
        if line == "systemctl enable --now isthmus":
            log = self._folder.with_name(f"{self.name}-isthmus.log")
            argv = self._inside("/etc/isthmus", "exec isthmus run /etc/isthmus/appliance.toml")
            self.services.append(Process(f"isthmus on {self.name}", argv, log, self._environment))
            self.services[-1].wait_for("ready: ")
            return ""
        if copied := re.fullmatch(r"scp ([\w-]+):(\S+) (\S+)", line):
            for source in sorted(_braces(copied[2])):
                octets = others[copied[1]].run(f"cat {source}").stdout
                name = Path(source).name
                self.run(f"umask 077; cat > {name}", octets)
            return ""
        done = self.run(line)
        assert done.returncode == 0, f"{self.name}# {line}\n{done.stdout}{done.stderr}"
        return done.stdout + done.stderr

    def run(self, line: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        """Run a shell's line here."""
        return subprocess.run(
            self._inside(str(self._where), line),
            input=stdin,
            capture_output=True,
            text=True,
            timeout=60,
            env={**environment(), **self._environment},
            check=False,
        )

    def close(self) -> None:
        """End what runs here; the rest vanishes."""
        for service in self.services:
            service.stop()
        self._init.stop()

    def _inside(self, where: str, line: str) -> list[str]:
        enter = ["nsenter", "--target", str(self._init.pid), "--net", "--mount", "--"]
        return [*enter, "sh", "-c", f"cd {where} && {line}"]


def _braces(path: str) -> list[str]:
    """What a shell makes of one pair of braces."""
    found = re.fullmatch(r"(.*)\{(.*)\}(.*)", path)
    return [path] if found is None else [f"{found[1]}{each}{found[3]}" for each in found[2].split(",")]


def same(line: str) -> str:
    """A line without what differs from one run to the next: numbers, and how wide they are."""
    return re.sub(r"\s+", " ", re.sub(r"\d+", "0", line)).strip()


def missing(command: Command, said: str) -> list[str]:
    """The lines that README shows and that were not said."""
    there = {same(line) for line in said.splitlines()}
    return [line for line in command.shown if line.strip() not in ("", "...") and same(line) not in there]


def test_the_first_deployment_of_the_readme_works_as_it_is_written(
    tmp_path: Path, require_tools: Callable[..., None], require_bpf: None
) -> None:
    require_tools("openssl", "ping", "systemd-sysusers", "unshare")
    attempt = ["setpriv", "--reuid=65534", "--clear-groups", sys.executable, "-c", "import gateway.cli"]
    if subprocess.run(
        attempt, env={"PYTHONPATH": str(README.parent)}, capture_output=True, check=False
    ).returncode:
        pytest.skip("the service's user cannot read this tree or this Python")
    command = tmp_path / "bin" / "isthmus"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nPYTHONPATH={README.parent} exec {sys.executable} -m gateway.cli "$@"\n')
    command.chmod(0o755)
    path = os.pathsep.join([str(command.parent), environment()["PATH"]])
    plan = msgspec.structs.replace(standard_plan(underlay=(4,), engine="auto"), vms=())
    with Datacenter(plan) as lab:
        machines: dict[str, Machine] = {}
        try:
            for name in ("edge-1", "hv1", "hv2"):
                machines[name] = Machine(name, lab.node(name), tmp_path / name, path)
            for step in steps():
                machine = machines[step.machine]
                if isinstance(step, File):
                    machine.run(f"cat {step.redirection}", step.text)
                    continue
                deadline = time.monotonic() + PATIENCE
                said = machine.type(step.line, machines)
                # What is on its way at this moment is there at the next.
                while missing(step, said) and time.monotonic() < deadline and "reload" not in step.line:
                    time.sleep(0.5)
                    said = machine.type(step.line, machines)
                assert not missing(step, said), f"{step.machine}# {step.line}\n{said}"
        finally:
            for machine in machines.values():
                machine.close()
