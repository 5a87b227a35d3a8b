"""What real processes keep of root's privileges, and what they still can do by that."""

from __future__ import annotations

import os
import pwd
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from gateway.lab.far_end import takes_redirected_frames
from gateway.lab.laboratory import Laboratory
from gateway.lab.namespaces import LabError
from gateway.lab.processes import Process
from tests.configurations import RED, edge_1, site, table

pytestmark = pytest.mark.netns

NET_BIND_SERVICE, NET_ADMIN, NET_RAW = 1 << 10, 1 << 12, 1 << 13
PERFMON, BPF = 1 << 38, 1 << 39

SITE = site("seattle", peer="any")


def gateway(state: Path, user: str | None = None, engine: str = "python") -> str:
    return edge_1(state=state, user=user, engine=engine) + RED


@pytest.fixture
def laboratory() -> Iterator[Laboratory]:
    with Laboratory() as lab:
        edge = lab.namespace("edge-1")
        lab.link(lab.namespace("router"), "eth1", edge, "eth1")
        edge.ip("address add 192.0.2.254/24 dev eth1", "link set eth1 up", "link set lo up")
        # Others than root are to read what is there.
        lab.directory.chmod(0o755)
        yield lab


@pytest.fixture
def nobody() -> pwd.struct_passwd:
    """Somebody else, whom this root can become and who can read this Python."""
    user = pwd.getpwnam("nobody")
    attempt = subprocess.run(
        [
            "setpriv",
            f"--reuid={user.pw_uid}",
            f"--regid={user.pw_gid}",
            "--clear-groups",
            sys.executable,
            "-c",
            "",
        ],
        check=False,
        capture_output=True,
    )
    if attempt.returncode or not os.access(Path(__file__).parents[2], os.R_OK):
        pytest.skip("this root can become nobody else, or nobody else can read the program")
    return user


def run(lab: Laboratory, text: str) -> Process:
    file = lab.directory / "node.toml"
    file.write_text(text)
    return lab.start(
        "edge-1", lab.namespaces["edge-1"], sys.executable, "-m", "gateway.cli", "run", str(file)
    )


def reload(lab: Laboratory) -> None:
    file = str(lab.directory / "node.toml")
    lab.namespaces["edge-1"].run(sys.executable, "-m", "gateway.cli", "reload", file)


def status(process: Process, key: str) -> str:
    text = Path(f"/proc/{process.pid}/status").read_text()
    return dict(line.split(":\t", 1) for line in text.splitlines())[key]


HELD = ("CapPrm", "CapEff", "CapInh")


def capabilities(process: Process, *kinds: str) -> set[int]:
    """Those that it, its threads and its children can have: all sets are alike, or those of some kinds."""
    sets = set()
    for thread in Path(f"/proc/{process.pid}/task").iterdir():
        lines = (line.split(":\t") for line in (thread / "status").read_text().splitlines())
        sets |= {int(value, 16) for key, value in lines if key in (kinds or (*HELD, "CapBnd"))}
    return sets


def put_secret(lab: Laboratory, owner: int = -1) -> None:
    secret = lab.directory / "seattle.psk"
    secret.touch(mode=0o600)
    secret.write_text("shared by both")
    os.chown(secret, owner, -1)


@pytest.mark.parametrize(
    ("engine", "more", "named"),
    [("python", 0, ""), ("auto", PERFMON | BPF, ", CAP_PERFMON, CAP_BPF")],
)
def test_gateway_of_root_keeps_what_its_engine_uses_and_gets_nothing_back(
    laboratory: Laboratory, engine: str, more: int, named: str
) -> None:
    process = run(laboratory, gateway(laboratory.directory / "state", engine=engine))
    process.wait_for("ready")

    assert capabilities(process) == {NET_BIND_SERVICE | NET_ADMIN | NET_RAW | more}
    assert status(process, "NoNewPrivs") == "1"
    process.wait_for(f"privileges: root with CAP_NET_BIND_SERVICE, CAP_NET_ADMIN, CAP_NET_RAW{named}$")


def test_gateway_whose_fast_path_is_refused_gives_up_what_only_that_needs(laboratory: Laboratory) -> None:
    with ExitStack() as others:
        laboratory.namespaces["edge-1"].call(others.enter_context, takes_redirected_frames("eth1"))
        process = run(laboratory, gateway(laboratory.directory / "state", engine="auto"))
        process.wait_for("ready")

        process.wait_for("engine python: the fast path was refused")
        assert capabilities(process, *HELD) == {NET_BIND_SERVICE | NET_ADMIN | NET_RAW}
        process.wait_for("privileges: root with CAP_NET_BIND_SERVICE, CAP_NET_ADMIN, CAP_NET_RAW$")


def test_child_gets_nothing_back_of_what_a_fast_path_would_have_needed(laboratory: Laboratory) -> None:
    program = (
        "import subprocess\n"
        "from gateway.process import privileges\n"
        "from tests.configurations import edge_1\n"
        "from policies.config import parse\n"
        "privileges.give_up(parse(edge_1()))\n"
        "privileges.give_up_fast_path()\n"
        "subprocess.run(['cat', '/proc/self/status'], check=True)\n"
    )
    found = laboratory.namespaces["edge-1"].run(sys.executable, "-c", program).stdout
    sets = dict(line.split(":\t", 1) for line in found.splitlines())
    assert {int(sets[kind], 16) & (PERFMON | BPF) for kind in (*HELD, "CapAmb")} == {0}
    assert int(sets["CapEff"], 16) & NET_ADMIN


@pytest.mark.parametrize(("port", "kept"), [(7637, 0), (637, NET_BIND_SERVICE)])
def test_lookup_service_needs_none_unless_its_port_is_low(
    laboratory: Laboratory, port: int, kept: int
) -> None:
    lookup = table("[lookup]", listen=f"127.0.0.1:{port}")
    text = table("[appliance]", name="nva-1", state=laboratory.directory / "state") + lookup
    process = run(laboratory, text)
    process.wait_for("ready")

    assert capabilities(process) == {kept}


def test_gateway_goes_on_as_another_user_and_a_reload_opens_sockets_and_reads_secrets(
    laboratory: Laboratory, nobody: pwd.struct_passwd
) -> None:
    state = laboratory.directory / "state"
    text = gateway(state, user="nobody")
    process = run(laboratory, text)
    process.wait_for("ready")

    assert status(process, "Uid").split() == [str(nobody.pw_uid)] * 4
    assert status(process, "Groups").split() == [
        str(each) for each in os.getgrouplist("nobody", nobody.pw_gid)
    ]
    assert capabilities(process) == {NET_BIND_SERVICE | NET_ADMIN | NET_RAW}
    assert int(status(process, "CapAmb"), 16) == NET_BIND_SERVICE | NET_ADMIN | NET_RAW
    assert (state.stat().st_uid, state.stat().st_mode & 0o777) == (nobody.pw_uid, 0o700)

    put_secret(laboratory, nobody.pw_uid)
    (laboratory.directory / "node.toml").write_text(text + SITE)
    reload(laboratory)  # which opens UDP 500 and 4500 and raw ESP

    sites = laboratory.namespaces["edge-1"].run(
        sys.executable, "-m", "gateway.cli", "sites", str(laboratory.directory / "node.toml")
    )
    assert "red/seattle" in sites.stdout


def test_secret_that_who_it_becomes_cannot_read_is_said_at_the_start_and_at_a_reload(
    laboratory: Laboratory, nobody: pwd.struct_passwd
) -> None:
    text = gateway(laboratory.directory / "state", user="nobody")
    put_secret(laboratory)
    secret = laboratory.directory / "seattle.psk"
    said = f"tenant[red].site[seattle].ike.psk_file: nobody may not read {secret}: chown nobody {secret}"
    process = run(laboratory, text + SITE)
    assert process.wait() == 2
    assert said in process.output()

    process = run(laboratory, text)
    process.wait_for("ready")
    (laboratory.directory / "node.toml").write_text(text + SITE)
    with pytest.raises(LabError, match="nobody may not read"):
        reload(laboratory)
    assert process.returncode is None


def test_folder_that_who_it_becomes_cannot_enter_is_said_at_the_start(
    laboratory: Laboratory, nobody: pwd.struct_passwd
) -> None:
    closed = laboratory.directory / "closed"
    closed.mkdir(mode=0o700)
    file = closed / "node.toml"
    file.write_text(gateway(laboratory.directory / "state", user="nobody"))
    command = (sys.executable, "-m", "gateway.cli", "run", str(file))
    process = laboratory.start("edge-1", laboratory.namespaces["edge-1"], *command)
    assert process.wait() == 2
    assert f"{file}: Permission denied" in process.output()


def test_state_of_another_user_is_said_at_the_start(
    laboratory: Laboratory, nobody: pwd.struct_passwd
) -> None:
    state = laboratory.directory / "state"
    state.mkdir(mode=0o700)
    process = run(laboratory, gateway(state, user="nobody"))
    assert process.wait() == 2
    assert f"appliance.state: {state} belongs to user 0, and nobody without privileges" in process.output()

    os.chown(state, nobody.pw_uid, -1)
    process = run(laboratory, gateway(state))
    assert process.wait() == 2
    assert "name that user in [appliance] user" in process.output()


def test_user_who_is_not_there_is_said(laboratory: Laboratory) -> None:
    process = run(laboratory, gateway(laboratory.directory, user="isthmus-nobody"))
    assert process.wait() == 2
    assert "appliance.user: there is no user isthmus-nobody here" in process.output()


def test_program_in_a_closed_folder_of_somebody_elses_is_still_read(
    laboratory: Laboratory, nobody: pwd.struct_passwd
) -> None:
    """As a checkout is in a home, which `sudo isthmus run` starts from."""
    home = laboratory.directory / "home"
    home.mkdir(mode=0o700)
    os.chown(home, nobody.pw_uid, -1)
    file = home / "node.toml"
    file.write_text(gateway(laboratory.directory / "state"))
    command = (sys.executable, "-m", "gateway.cli", "run", str(file))
    process = laboratory.start("edge-1", laboratory.namespaces["edge-1"], *command)
    process.wait_for("ready")

    reading = 1 << 2
    assert capabilities(process) == {reading | NET_BIND_SERVICE | NET_ADMIN | NET_RAW}


def test_unprivileged_process_keeps_what_it_was_given(
    laboratory: Laboratory, nobody: pwd.struct_passwd
) -> None:
    """As a service manager gives it, without the right to give up more."""
    state = laboratory.directory / "state"
    state.mkdir()
    os.chown(state, nobody.pw_uid, -1)
    file = laboratory.directory / "node.toml"
    file.write_text(gateway(state, user="nobody"))
    given = "+net_raw,+net_admin,+net_bind_service,+net_broadcast"
    process = laboratory.start(
        "edge-1",
        laboratory.namespaces["edge-1"],
        *("setpriv", f"--reuid={nobody.pw_uid}", f"--regid={nobody.pw_gid}", "--clear-groups"),
        *(f"--inh-caps={given}", f"--ambient-caps={given}"),
        *(sys.executable, "-m", "gateway.cli", "run", str(file)),
    )
    process.wait_for("ready")

    assert int(status(process, "CapPrm"), 16) == NET_BIND_SERVICE | NET_ADMIN | NET_RAW


def test_user_has_a_folder_of_its_own_for_what_is_pinned(
    laboratory: Laboratory, nobody: pwd.struct_passwd
) -> None:
    text = gateway(laboratory.directory / "state", user="nobody", engine="auto")
    pinned = text.replace("[gateway]", "[fastpath]\npinned = true\n[gateway]")
    (laboratory.directory / "node.toml").write_text(pinned)
    program = f"exec {sys.executable} -m gateway.cli run {laboratory.directory}/node.toml"
    mounted = f"mount -t bpf -o mode=700 bpf /sys/fs/bpf || exit 77; {program}"
    process = laboratory.start(
        "edge-1", laboratory.namespaces["edge-1"], "unshare", "--mount", "sh", "-c", mounted
    )
    if process.wait_for("ready|mount:|unshare:")[0] != "ready":
        pytest.skip("there is no BPF file system to be had here")

    found = Path(f"/proc/{process.pid}/root/sys/fs/bpf/isthmus").stat()
    assert (found.st_uid, found.st_mode & 0o777) == (nobody.pw_uid, 0o700)


def without_bpf(lab: Laboratory, engine: str) -> Process:
    """A gateway of a root who may load no program, as in a container."""
    file = lab.directory / "node.toml"
    file.write_text(gateway(lab.directory / "state", engine=engine))
    less = ("setpriv", "--bounding-set=-bpf,-perfmon,-sys_admin", "--inh-caps=-all")
    command = (*less, sys.executable, "-m", "gateway.cli", "run", str(file))
    return lab.start("edge-1", lab.namespaces["edge-1"], *command)


def test_gateway_that_may_load_no_program_has_python_carry_and_says_why(laboratory: Laboratory) -> None:
    process = without_bpf(laboratory, "auto")
    process.wait_for("ready: .* engine python")

    file = str(laboratory.directory / "node.toml")
    said = laboratory.namespaces["edge-1"].run(sys.executable, "-m", "gateway.cli", "status", file).stdout
    assert "Python carries every packet: the fast path needs CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON: " in said
    assert capabilities(process) == {NET_BIND_SERVICE | NET_ADMIN | NET_RAW}


def test_gateway_that_insists_on_the_fast_path_does_not_start_without_what_it_needs(
    laboratory: Laboratory,
) -> None:
    process = without_bpf(laboratory, "xdp")

    assert process.wait() == 2
    assert 'appliance.engine: "xdp" cannot be here: the fast path needs CAP_BPF' in process.output()
