"""The services' units, as systemd itself judges them."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

PACKAGING = Path(__file__).parents[2] / "packaging"
# The exposure that systemd finds, from 0 to 10, may be no more than this.
MOST_EXPOSED = {"isthmus": 2.2, "isthmus-lookup": 1.5, "isthmus-firewall": 1.6}


@pytest.fixture
def units(tmp_path: Path, require_tools: Callable[..., None]) -> Path:
    """The units with a program that is there."""
    require_tools("systemd-analyze")
    program = tmp_path / "bin" / "isthmus"
    program.parent.mkdir()
    program.touch(mode=0o755)
    for name in MOST_EXPOSED:
        text = (PACKAGING / f"{name}.service").read_text().replace("@BINDIR@", str(program.parent))
        # A document that is not installed here is none of their faults.
        text = re.sub("^Documentation=.*\n", "", text, flags=re.MULTILINE)
        (tmp_path / f"{name}.service").write_text(text)
    return tmp_path


def test_systemd_understands_every_line_of_the_units(units: Path) -> None:
    done = subprocess.run(
        ["systemd-analyze", "verify", "--recursive-errors=no", *units.glob("*.service")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("name", MOST_EXPOSED)
def test_unit_exposes_little(units: Path, name: str) -> None:
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--no-pager", units / f"{name}.service"],
        capture_output=True,
        text=True,
        check=False,
    )
    found = re.search(r"Overall exposure level for \S+: ([\d.]+)", done.stdout)
    assert found is not None, done.stderr
    assert float(found[1]) <= MOST_EXPOSED[name]


def test_lookup_service_has_no_capability_and_the_gateway_those_of_its_roles_and_engine() -> None:
    def bounding(name: str) -> list[str]:
        (line,) = re.findall(
            "^CapabilityBoundingSet=(.*)$", (PACKAGING / f"{name}.service").read_text(), re.MULTILINE
        )
        return line.split()

    assert bounding("isthmus-lookup") == []
    assert sorted(bounding("isthmus")) == [
        "CAP_BPF",
        "CAP_NET_ADMIN",
        "CAP_NET_BIND_SERVICE",
        "CAP_NET_RAW",
        "CAP_PERFMON",
    ]
    assert bounding("isthmus-firewall") == ["CAP_NET_ADMIN"]
