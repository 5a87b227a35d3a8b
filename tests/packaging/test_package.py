"""The .deb, built with a package index, and installed on a machine of its own whose systemd runs it."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.configurations import (
    DB,
    RED,
    WEB,
    edge_1,
    host_port,
    node,
    provider_gateway,
    provider_host,
    table,
    tenant,
    token,
)
from tests.packaging.machine import Machine, MachineError

pytestmark = [pytest.mark.interop, pytest.mark.long]

TREE = Path(__file__).parents[2]
FILE = "/etc/isthmus/appliance.toml"

GATEWAY = edge_1(user="isthmus")
FOLLOWING = """lookup = ["http://127.0.0.1:7637"]
token_file = "gateway.token"
"""
LOOKUP = (
    table("[appliance]", name="lookup-1", user="isthmus-lookup", state="/var/lib/isthmus-lookup")
    + table("[lookup]", listen="127.0.0.1:7637")
    + token("lookup", "edge-1", "gateway")
    + provider_gateway("edge-1", "192.0.2.254")
)
HOST = (
    node("hv1", "192.0.2.254", user="isthmus")
    + table("[host]", name="hv1")
    + host_port()
    + provider_host("hv1", "192.0.2.254")
    + tenant("red", gateway=None)
    + WEB
)


@pytest.fixture(scope="module")
def package() -> Path:
    """The package, built from this tree."""
    done = subprocess.run(["make", "deb"], cwd=TREE, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.fail(f"make deb: {done.stdout}{done.stderr}", pytrace=False)
    return TREE / done.stdout.split()[-1]


@pytest.fixture
def machine(package: Path, tmp_path: Path, require_tools: Callable[..., None]) -> Iterator[Machine]:
    """A machine with the package, and an address of the underlay."""
    require_tools("dpkg-deb", "nft", "ip")
    folder = tmp_path / "machine"
    folder.mkdir()
    try:
        with Machine(folder) as made:
            made.copy(package, "/root/isthmus.deb")
            made.run("dpkg", "--install", "/root/isthmus.deb")
            for line in (
                "link set lo up",
                "link add eth1 type veth peer name far",
                "address add 192.0.2.254/24 dev eth1",
                "link set eth1 up",
                "link set far up",
            ):
                made.run("ip", *line.split())
            yield made
    except MachineError as error:
        if "of its own" not in str(error):
            raise
        pytest.skip(str(error))


def configure(machine: Machine, text: str, file: str = FILE) -> None:
    machine.write(file, text, owner="root:isthmus", mode="640")


def rules(machine: Machine) -> int:
    return machine.run("nft", "list", "ruleset").count("counter")


def shown(machine: Machine, *properties: str, unit: str = "isthmus") -> list[str]:
    return [
        machine.run("systemctl", "show", "--value", f"--property={each}", unit).strip() for each in properties
    ]


def test_package_runs_as_it_is_and_leaves_nothing_when_purged(machine: Machine) -> None:
    assert machine.run("isthmus", "--version").strip() in machine.run("dpkg", "--status", "isthmus")
    assert "firewall" in machine.run("isthmus", "--help")
    assert machine.run("stat", "--format=%A %U %G", "/etc/isthmus") == "drwxr-x--- root isthmus\n"
    assert "isthmus-lookup" in machine.run("id", "isthmus-lookup")
    # Where it was built is nobody's business.
    assert machine.run("grep", "-rIl", str(TREE / "build"), "/usr/lib/isthmus", check=False) == ""
    # Nothing starts without a configuration, also when it is told to.
    machine.run("systemctl", "start", "isthmus", "isthmus-lookup")
    assert shown(machine, "ActiveState", "ConditionResult") == ["inactive", "no"]

    machine.run("dpkg", "--purge", "isthmus")
    left = machine.run(
        *("find", "/etc", "/usr", "/var/lib", "-xdev", "-iname", "*isthmus*", "-newer", "/root/isthmus.deb"),
        *("-not", "-path", "*/dpkg/*"),
    )
    assert left == ""


def test_uninstall_takes_away_all_that_install_puts_there(package: Path, tmp_path: Path) -> None:
    subprocess.run(["dpkg-deb", "--extract", package, tmp_path], check=True)
    kept = tmp_path / "etc/isthmus/appliance.toml"
    kept.parent.mkdir()
    kept.write_text(GATEWAY)

    subprocess.run(["make", "uninstall", "PREFIX=/usr", f"DESTDIR={tmp_path}"], cwd=TREE, check=True)

    assert [each for each in tmp_path.rglob("*") if not each.is_dir()] == [kept]


def test_package_holds_the_kernels_program_as_it_is_in_the_tree(package: Path, tmp_path: Path) -> None:
    subprocess.run(["dpkg-deb", "--extract", package, tmp_path], check=True)

    for name in ("nvgre.bpf.o", "nvgre.bpf.c", "helpers.h"):
        (installed,) = (tmp_path / "usr/lib/isthmus").rglob(f"gateway/fastpath/{name}")
        assert installed.read_bytes() == (TREE / "gateway/fastpath" / name).read_bytes()
        assert installed.stat().st_mode & 0o777 == 0o644
    fields = subprocess.run(
        ["dpkg-deb", "--field", package], capture_output=True, text=True, check=True
    ).stdout
    assert "clang" not in fields


def test_gateway_lives_under_systemd(machine: Machine) -> None:
    configure(machine, GATEWAY + RED)
    machine.run("systemctl", "start", "isthmus")
    assert shown(machine, "ActiveState", "StatusText") == ["active", "edge-1: gateway, 0 records"]
    assert rules(machine) == 3
    (process,) = shown(machine, "MainPID")
    status = machine.run("cat", f"/proc/{process}/status")
    assert "CapBnd:\t000000c000003400" in status
    assert "CapEff:\t000000c000003400" in status
    assert "NoNewPrivs:\t1" in status

    # A reload is waited for, and one that fails says why and changes nothing.
    configure(machine, GATEWAY + RED + DB)
    machine.run("systemctl", "reload", "isthmus")
    configure(machine, GATEWAY + RED + DB + "nonsense = 1\n")
    with pytest.raises(MachineError):
        machine.run("systemctl", "reload", "isthmus")
    assert "nonsense: is not a key of this table" in machine.run("journalctl", "--unit=isthmus", "--no-pager")
    assert shown(machine, "ActiveState", "MainPID") == ["active", process]

    # The rules stay while it restarts, also after a crash, and go with the service.
    configure(machine, GATEWAY + RED)
    since = shown(machine, "ActiveEnterTimestampMonotonic", unit="isthmus-firewall")
    machine.run("systemctl", "restart", "isthmus")
    machine.run("sh", "-c", "kill -9 $(systemctl show --value --property=MainPID isthmus)")
    assert rules(machine) == 3
    wait_until(lambda: shown(machine, "ActiveState", "NRestarts") == ["active", "1"])
    assert shown(machine, "ActiveEnterTimestampMonotonic", unit="isthmus-firewall") == since
    begun = time.monotonic()
    machine.run("systemctl", "stop", "isthmus")
    assert time.monotonic() - begun < 5
    assert shown(machine, "Result", "ExecMainStatus") == ["success", "0"]
    wait_until(lambda: rules(machine) == 0)


def test_gateway_has_its_fast_path_under_systemd_and_pinned_that_outlives_the_service(
    machine: Machine, require_bpf: None
) -> None:
    def program() -> bool:
        return "xdp" in machine.run("ip", "link", "show", "eth1")

    # As systemd does on a machine that is not in namespaces.
    machine.run("mount", "-t", "bpf", "-o", "mode=700", "bpf", "/sys/fs/bpf")
    gateway = edge_1(user="isthmus", engine="xdp") + RED
    configure(machine, gateway)
    machine.run("systemctl", "start", "isthmus")
    assert program()
    machine.run("systemctl", "stop", "isthmus")
    assert not program()

    machine.run("mkdir", "/etc/systemd/system/isthmus.service.d")
    machine.run("cp", "/usr/share/doc/isthmus/examples/pinned.conf", "/etc/systemd/system/isthmus.service.d/")
    machine.run("systemctl", "daemon-reload")
    configure(machine, gateway + table("[fastpath]", pinned=True))
    machine.run("systemctl", "start", "isthmus")
    machine.run("systemctl", "restart", "isthmus")
    assert program()
    machine.run("systemctl", "stop", "isthmus")
    assert program()

    machine.run("dpkg", "--remove", "isthmus")
    assert not program()


def test_gateway_that_hangs_is_ended_and_started_again(machine: Machine) -> None:
    configure(machine, GATEWAY + RED)
    machine.run("mkdir", "/etc/systemd/system/isthmus.service.d")
    machine.write("/etc/systemd/system/isthmus.service.d/watchdog.conf", "[Service]\nWatchdogSec=2\n")
    machine.run("systemctl", "daemon-reload")
    machine.run("systemctl", "start", "isthmus")
    time.sleep(4)
    (process,) = shown(machine, "MainPID")
    assert shown(machine, "NRestarts") == ["0"]

    machine.run("kill", "-STOP", process)

    wait_until(lambda: shown(machine, "ActiveState", "NRestarts") == ["active", "1"])
    assert shown(machine, "MainPID") != [process]


def test_host_may_change_its_ports_settings_and_no_others(machine: Machine) -> None:
    machine.run("ip", "link", "add", "vnet0", "type", "veth", "peer", "name", "vm0")
    machine.run("ip", "link", "set", "vm0", "up")
    configure(machine, HOST)
    setting = "/proc/sys/net/ipv6/conf/vnet0/disable_ipv6"

    machine.run("systemctl", "start", "isthmus")

    assert machine.run("cat", setting) == "1\n"
    assert "NOARP" in machine.run("ip", "link", "show", "vnet0")
    (process,) = shown(machine, "MainPID")
    mounts = machine.run("cat", f"/proc/{process}/mounts")
    assert "/proc/sys proc ro," in mounts
    assert "/proc/sys/net proc rw," in mounts
    machine.run("systemctl", "stop", "isthmus")
    assert machine.run("cat", setting) == "0\n"


def test_gateway_follows_the_lookup_service_apart_from_it(machine: Machine) -> None:
    configure(machine, LOOKUP + RED, "/etc/isthmus/lookup.toml")
    configure(machine, GATEWAY + FOLLOWING)
    for name, owner in (("edge-1", "isthmus-lookup"), ("gateway", "isthmus")):
        machine.write(f"/etc/isthmus/{name}.token", "0123456789abcdef" * 4, owner=f"{owner}:root", mode="600")
    machine.run("systemctl", "start", "isthmus-lookup", "isthmus")
    assert shown(machine, "ActiveState", unit="isthmus-lookup") == ["active"]
    (process,) = shown(machine, "MainPID", unit="isthmus-lookup")
    assert "CapPrm:\t0000000000000000" in machine.run("cat", f"/proc/{process}/status")

    def carries_web() -> bool:
        told = json.loads(machine.run("isthmus", "status", FILE, "--json"))
        return "gateway" in told["roles"] and "follows" in machine.run("journalctl", "-u", "isthmus-lookup")

    wait_until(carries_web)
    machine.run("systemctl", "stop", "isthmus-lookup")
    assert shown(machine, "Result", "ExecMainStatus", unit="isthmus-lookup") == ["success", "0"]
    assert shown(machine, "ActiveState") == ["active"]


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)
