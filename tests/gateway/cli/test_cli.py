"""What a person at the command line sees."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from cyclopts import App

from gateway.cli import app

ROOT = Path(__file__).parents[3]
REFERENCE = ROOT / "appliance.toml"
TRACE = ("trace", str(REFERENCE), "--tenant", "red", "--from", "10.0.1.5", "--to", "10.0.2.5")


def isthmus(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "gateway.cli", *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_sound_configuration_is_said_to_be_sound() -> None:
    result = isthmus("check", REFERENCE)

    assert result.returncode == 0, result.stderr
    assert "sound: edge-1, 2 tenants, 4 virtual subnets, 0 sites, 2 hosts" in result.stdout


def test_check_for_programs_has_everything_that_is_wrong_with_its_path(tmp_path: Path) -> None:
    sound = isthmus("check", REFERENCE, "--json")
    assert (sound.returncode, json.loads(sound.stdout)) == (0, {"problems": [], "warnings": []})

    broken = tmp_path / "appliance.toml"
    broken.write_text('[appliance]\nname = 5\nengines = "auto"\n')
    result = isthmus("check", broken, "--json")
    assert result.returncode == 2
    assert {"appliance.name", "appliance.engines"} <= {
        problem["path"] for problem in json.loads(result.stdout)["problems"]
    }


def commands(app: App) -> Iterator[tuple[str, App]]:
    """All commands, those of commands too, but for --help and --version."""
    for name in app:
        if not name.startswith("-"):
            if app[name].default_command is None:
                yield from ((f"{name} {other}", each) for other, each in commands(app[name]))
            else:
                yield name, app[name]


def test_every_command_that_answers_has_json() -> None:
    answers = {
        name: "json" in inspect.signature(each.default_command).parameters
        for name, each in commands(app)
        if each.default_command is not None
    }
    # One of them writes a file of a form that --format chooses, and one speaks nftables' own language.
    without = {name for name, has_json in answers.items() if not has_json}
    assert without == {"run", "demo", "firewall", "records export"}
    assert len(answers) > 20


def test_no_flag_has_a_second_name_that_denies_it() -> None:
    for name, command in commands(app):
        names = [
            each
            for argument in command.assemble_argument_collection(default_parameter=app.default_parameter)
            for each in argument.names
        ]
        assert [each for each in names if each.startswith(("--no-", "--empty-"))] == [], name


def test_check_looks_into_the_files_that_sites_are_proved_by(tmp_path: Path) -> None:
    site = """
[[tenant.site]]
name = "seattle"
gateway = "edge-1"
prefixes = ["172.16.0.0/16"]
peer = "203.0.113.7"
ike = { local_id = "edge-1.example", remote_id = "seattle.example", psk_file = "seattle.psk" }
"""
    (tmp_path / "appliance.toml").write_text(REFERENCE.read_text() + site)
    (tmp_path / "seattle.psk").write_text("0x12 is not hexadecimal")
    (tmp_path / "seattle.psk").chmod(0o600)

    result = isthmus("check", tmp_path / "appliance.toml")

    assert result.returncode == 2
    assert "tenant[blue].site[seattle].ike.psk_file: " in result.stderr + result.stdout
    assert "0x12" not in result.stderr + result.stdout


@pytest.mark.parametrize("command", ["status", "top", "sites", "events", "capture", "reload"])
def test_asking_an_appliance_that_does_not_run_says_so(tmp_path: Path, command: str) -> None:
    file = tmp_path / "appliance.toml"
    # Whoever asks may be in the midst of changing the file.
    own = f'[appliance]\nname = "edge-1"\n\nstate = "{tmp_path}" # here\n'
    file.write_text(f'{own}\n  [underlay]\nmtu = "large"\n[[tenant\nname = ')

    result = isthmus(command, file)

    assert result.returncode == 1
    assert result.stderr == f"isthmus: no appliance listens at {tmp_path}/edge-1.sock: is it running?\n"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "appliance: is missing"),
        ("[appliance]\n", "appliance.name: is missing"),
        ("[appliance]\nname = 5\n", "appliance.name: "),
        ("[appliance", "not TOML: "),
    ],
)
def test_file_that_names_no_appliance_cannot_be_asked_about(tmp_path: Path, text: str, problem: str) -> None:
    file = tmp_path / "appliance.toml"
    file.write_text(text)

    result = isthmus("sites", file)

    assert result.returncode == 2
    assert problem in result.stderr


def test_every_problem_of_a_configuration_is_listed_and_the_exit_code_is_2(tmp_path: Path) -> None:
    broken = tmp_path / "appliance.toml"
    text = REFERENCE.read_text().replace("vsid = 5002", "vsid = 5001").replace('host = "hv2"', 'host = "hv9"')
    broken.write_text(text)

    result = isthmus("check", broken)

    assert result.returncode == 2
    assert result.stdout == ""
    lines = result.stderr.splitlines()
    assert sum("5001" in line for line in lines) >= 1
    assert sum("hv9" in line for line in lines) >= 2
    assert lines[-1] == f"isthmus: {len(lines) - 1} problems"


@pytest.mark.parametrize("command", ["run", "check"])
def test_missing_file_is_one_problem(command: str, tmp_path: Path) -> None:
    result = isthmus(command, tmp_path / "nowhere.toml")

    assert result.returncode == 2
    assert "nowhere.toml: No such file or directory" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("arguments", [[], ["--help"], ["trace", "--help"]])
def test_help_needs_no_configuration(arguments: list[str]) -> None:
    result = isthmus(*arguments)

    assert result.returncode == 0
    assert "Usage" in result.stdout


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param(["fly"], id="unknown command"),
        pytest.param(["check"], id="no file"),
        pytest.param(["trace", str(REFERENCE)], id="no addresses"),
        pytest.param(
            ["trace", str(REFERENCE), "--from", "10.0.1.300", "--to", "10.0.2.5"], id="not an address"
        ),
        pytest.param(["trace", str(REFERENCE), "--from", "10.0.1.5", "--to", "10.0.2.5"], id="no tenant"),
        *(
            pytest.param([*TRACE, option, value], id=f"{option} {value}")
            for option, value in (
                ("--port", "65536"),
                ("--source-port", "-1"),
                ("--hop-limit", "256"),
                ("--size", "65536"),
            )
        ),
    ],
)
def test_misuse_exits_with_2_and_without_a_traceback(arguments: list[str]) -> None:
    result = isthmus(*arguments)

    assert result.returncode == 2, result
    assert result.stderr or result.stdout
    assert "Traceback" not in result.stderr


def test_trace_prints_each_step_and_the_verdict() -> None:
    result = isthmus(*TRACE, "--protocol", "tcp", "--port", "5432")

    assert result.returncode == 0, result.stderr
    by, *lines = result.stdout.splitlines()
    assert by == f"by {REFERENCE}"
    assert [line.split("  ")[0] for line in lines[:-1]] == [
        "virtual subnet", "source", "access", "route", "record", "hop limit",
    ]  # fmt: skip
    assert lines[-1].startswith("=> forwarded from 192.0.2.254 to 203.0.113.12 in NVGRE, VSID 5002 (db)")
