"""docs/lookup.md: its examples are run against a lookup node, and do what it says they do."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from gateway.http.principals import Principal
from policies.config import load
from policies.services import LookupSettings, Role
from tests.gateway.lookup.serving import Serving, lookup_node

ROOT = Path(__file__).parents[4]
TEXT = (ROOT / "docs/lookup.md").read_text()
NETWORK = load(ROOT / "appliance.toml").network

# What differs from one run to the next.
VARYING = re.compile(r'("revision":|revision |after |connected for )[0-9.]+')


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)


def commands(block: str) -> list[tuple[str, str]]:
    """The commands of a console, each with what it prints."""
    found = re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]
    pairs = []
    for each in found:
        command, output = re.fullmatch(r"((?:[^\n]*\\\n)*[^\n]*\n)(.*)", each, re.DOTALL).groups()  # type: ignore[union-attr]
        pairs.append((command.replace("\\\n", " ").strip(), output.strip()))
    return pairs


async def attentive(node: Serving) -> None:
    """Two hosts that know of every change at once."""
    while True:
        position = node.replica.history.position
        for name in ("hv1", "hv2"):
            node.authority.acknowledge(Principal(name, Role.HOST), node.replica.revision)
        await node.replica.history.changed(position)


async def shell(command: str, node: Serving, directory: Path) -> str:
    """Run a command as its reader would, and return what it prints."""
    command = command.replace("127.0.0.1:7637", f"127.0.0.1:{node.port}")
    if command.startswith("isthmus "):
        command = f"{sys.executable} -m gateway.cli {command.removeprefix('isthmus ')}"
    if "/v1/watch" in command:
        command = f"{command} --max-time 1"  # it would never end
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "no_proxy": "127.0.0.1"}
    process = await asyncio.create_subprocess_shell(
        command,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        cwd=directory,
        env=environment,
    )
    output, errors = await process.communicate()
    assert not errors, errors.decode()
    return output.decode().strip()


def test_every_command_prints_what_the_document_says(
    tmp_path: Path, require_tools: Callable[..., None]
) -> None:
    require_tools("curl")

    async def main() -> None:
        async with lookup_node(LookupSettings(listen="127.0.0.1:0"), network=NETWORK) as node:
            reference = (ROOT / "appliance.toml").read_text()
            listen = f'[lookup]\nlisten = "127.0.0.1:{node.port}"\n'
            (tmp_path / "appliance.toml").write_text(reference.replace("[gateway]", f"{listen}[gateway]", 1))
            hosts = asyncio.create_task(attentive(node))
            try:
                for command, output in (pair for block in blocks("console") for pair in commands(block)):
                    printed = await shell(command, node, tmp_path)
                    assert VARYING.sub(r"\1…", printed) == VARYING.sub(r"\1…", output), command
            finally:
                hosts.cancel()
                await asyncio.gather(hosts, return_exceptions=True)

    asyncio.run(main())


@pytest.mark.parametrize("number", range(len(blocks("python"))))
def test_every_program_runs(tmp_path: Path, number: int) -> None:
    program = blocks("python")[number]

    async def main() -> None:
        async with lookup_node(LookupSettings(listen="127.0.0.1:0"), network=NETWORK) as node:
            file = tmp_path / "program.py"
            file.write_text(program.replace("127.0.0.1:7637", f"127.0.0.1:{node.port}"))
            printed = await shell(f"{sys.executable} -W error {file}", node, tmp_path)
            wanted = "Progress(" if "watch" in program else "nobody has it"
            assert wanted in printed

    asyncio.run(main())


def test_there_are_examples_for_everybody() -> None:
    assert len(blocks("console")) >= 6
    assert ["asyncio" in each for each in blocks("python")] == [True, True, False]


def test_every_configuration_in_it_is_one_that_is_read() -> None:
    """The keys, at least: the files that they name are the reader's."""
    import tomllib

    for block in blocks("toml"):
        assert set(tomllib.loads(block)) <= {"lookup", "host"}
