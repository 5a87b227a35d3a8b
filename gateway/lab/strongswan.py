"""strongSwan as an enterprise's VPN device, with its userspace ESP (kernel-libipsec).

Each has a folder of its own and a vici socket in it, so that many run side by
side, in namespaces, without a mount namespace. libipsec always says that a NAT
is on the path and encapsulates ESP in UDP, and knows no extended sequence
numbers: raw ESP and those are for others to prove.
"""

from __future__ import annotations

import re
import shutil
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from gateway.lab.laboratory import Laboratory
from gateway.lab.namespaces import TOOL_PATH, LabError, Namespace
from gateway.lab.processes import POLL_SECONDS, Process

DAEMON = "charon-systemd"
COMMANDS = (DAEMON, "swanctl")
APPARMOR = Path("/sys/module/apparmor/parameters/enabled")

# The device of libipsec, and the plugins: libipsec comes before the kernel's own IPsec.
TUN = Path("/dev/net/tun")
PLUGINS = (
    "random nonce openssl aes sha1 sha2 hmac kdf gcm chapoly curve25519 drbg pem pkcs1 pkcs8 x509 pubkey "
    "constraints revocation kernel-libipsec kernel-netlink socket-default vici updown"
)
CREDENTIAL_FOLDERS = ("x509", "x509ca", "x509crl", "private")

# With 8 threads libipsec blocks so many that vici never answers.
SETTINGS = """\
charon-systemd {{
  load = {plugins}
  threads = 16
  install_routes = yes
  rsa_pss = {rsa_pss}
  fragment_size = {fragment_size}
  retransmit_timeout = 1.0
  retransmit_base = 1.4
  retransmit_tries = 6
  keep_alive = 5s
  syslog {{
    daemon {{
      default = -1
    }}
  }}
  journal {{
    default = -1
  }}
  filelog {{
    stderr {{
      time_format = %H:%M:%S
      default = 1
      ike = 2
      cfg = 2
      flush_line = yes
    }}
  }}
  plugins {{
    vici {{
      socket = {socket}
    }}
    kernel-libipsec {{
      load = yes
    }}
  }}
}}
"""


class Child(msgspec.Struct, frozen=True, kw_only=True):
    """What a child SA carries, and with what; `start` is strongSwan's start_action."""

    local: tuple[str, ...]
    remote: tuple[str, ...]
    proposals: str = "aes256gcm16-ecp384"
    start: str = "none"
    rekey_seconds: float | None = None


class Connection(msgspec.Struct, frozen=True, kw_only=True):
    """How to reach one peer. With a pre-shared key unless `certificate` is set, a file below x509/."""

    local_id: str
    remote_id: str
    local_address: str = "%any"
    remote_address: str = "%any"
    children: Mapping[str, Child]
    psk: str | None = None
    certificate: str | None = None
    authentication: str = "pubkey"
    authority: str | None = None
    """A file below x509ca/ that alone may vouch for the peer."""
    proposals: str = "aes256gcm16-prfsha384-ecp384"
    rekey_seconds: float | None = None
    liveness_seconds: float | None = None
    fragmentation: bool = True
    keep_trying: bool = True
    force_udp: bool = False


class SecurityAssociation(msgspec.Struct, frozen=True):
    """An IKE SA with its child SAs, each as vici describes it."""

    connection: str
    state: str
    values: dict[str, Any]
    children: tuple[dict[str, Any], ...]

    @property
    def suite(self) -> str:
        """Its algorithms in swanctl's words, such as AES_GCM_16-256 PRF_HMAC_SHA2_384 ECP_384."""
        return algorithms(self.values)


def algorithms(values: Mapping[str, Any]) -> str:
    """Return the algorithms of an IKE SA or of a child SA."""
    words = []
    for name in ("encr-alg", "integ-alg", "prf-alg", "dh-group"):
        if name in values:
            size = values.get(name.replace("-alg", "-keysize"))
            words.append(f"{values[name]}-{size}" if size and name.endswith("-alg") else values[name])
    return " ".join(words)


def missing() -> str | None:
    """Return why strongSwan cannot run here, in words, or None if it can."""
    absent = [name for name in COMMANDS if shutil.which(name, path=TOOL_PATH) is None]
    if absent:
        return f"{' and '.join(absent)} not installed"
    try:
        with TUN.open("r+b", buffering=0):
            return None
    except OSError as error:
        return f"{TUN} cannot be opened ({error.strerror})"


class StrongSwan:
    """One strongSwan in a namespace: `start` it, and it ends with the laboratory."""

    def __init__(
        self,
        lab: Laboratory,
        name: str,
        namespace: Namespace,
        connections: Mapping[str, Connection] | None = None,
        *,
        rsa_pss: bool = False,
        fragment_size: int = 1280,
    ) -> None:
        self.name = name
        self.namespace = namespace
        self.connections = dict(connections or {})
        self.process: Process | None = None
        self._lab = lab
        self._folder = lab.directory / name
        for folder in CREDENTIAL_FOLDERS:
            (self._folder / folder).mkdir(parents=True)
        self._socket = f"unix://{self._folder / 'vici'}"
        self._environment = {
            "STRONGSWAN_CONF": str(self._folder / "strongswan.conf"),
            "SWANCTL_DIR": str(self._folder),
        }
        (self._folder / "strongswan.conf").write_text(
            SETTINGS.format(
                plugins=PLUGINS,
                rsa_pss="yes" if rsa_pss else "no",
                fragment_size=fragment_size,
                socket=self._socket,
            )
        )
        self._programs = {command: self._unconfined(command) for command in COMMANDS}

    def credential(self, folder: str, file: str, text: bytes) -> None:
        """Put a PEM file into one of CREDENTIAL_FOLDERS; `start` or `reload` reads it."""
        path = self._folder / folder / file
        path.touch(mode=0o600)
        path.write_bytes(text)

    def start(self, timeout: float = 20) -> None:
        """Start it and load its connections. Raises LabError."""
        (self._folder / "vici").unlink(missing_ok=True)
        self.process = self._lab.start(
            self.name, self.namespace, self._programs[DAEMON], environment=self._environment
        )
        deadline = time.monotonic() + timeout
        self._write_connections()
        while self.swanctl("--load-all", "--noprompt", check=False) is None:
            if time.monotonic() > deadline or self.process.returncode is not None:
                raise LabError(f"{self.name} did not start in {timeout:g} s:\n{self.log[-3000:]}")
            time.sleep(10 * POLL_SECONDS)

    def stop(self) -> None:
        """End it with farewells to its peers."""
        self._running.stop()
        self._lab.processes.remove(self._running)
        self.process = None

    def kill(self) -> None:
        """End it at once: its peers learn nothing."""
        self._running.send_signal(signal.SIGKILL)
        self.stop()

    def reload(self) -> None:
        """Load connections and credentials as they are now. Raises LabError."""
        self._write_connections()
        self.swanctl("--load-all", "--clear", "--noprompt")

    def initiate(self, child: str, timeout: float = 10, *, check: bool = True) -> str | None:
        """Bring a child SA up and return what swanctl said.

        Raises LabError if it does not come up, or returns None without `check`.
        """
        return self.swanctl("--initiate", "--child", child, "--timeout", f"{timeout:g}", check=check)

    def terminate(self, connection: str) -> None:
        """Take an IKE SA down, with a delete to the peer."""
        self.swanctl("--terminate", "--ike", connection, "--timeout", "5")

    def rekey(self, connection: str) -> None:
        """Rekey the IKE SA of a connection."""
        self.swanctl("--rekey", "--ike", connection)

    def rekey_child(self, child: str) -> None:
        """Rekey a child SA."""
        self.swanctl("--rekey", "--child", child)

    def security_associations(self) -> list[SecurityAssociation]:
        """Return the IKE SAs as they are now."""
        said = self.swanctl("--list-sas", "--pretty") or ""
        return [
            SecurityAssociation(name, values["state"], values, tuple(values.get("child-sas", {}).values()))
            for event in parse_vici(said)
            for name, values in event.items()
        ]

    def is_up(self, connection: str) -> bool:
        """Whether a connection has an established IKE SA with an installed child SA."""
        return any(
            sa.connection == connection
            and sa.state == "ESTABLISHED"
            and any(child["state"] == "INSTALLED" for child in sa.children)
            for sa in self.security_associations()
        )

    def wait_until_up(self, connection: str, timeout: float = 20) -> None:
        """Raises LabError if the connection is not up in `timeout` seconds."""
        deadline = time.monotonic() + timeout
        while not self.is_up(connection):
            if time.monotonic() > deadline:
                raise LabError(f"{self.name}: {connection} not up in {timeout:g} s:\n{self.log[-3000:]}")
            time.sleep(10 * POLL_SECONDS)

    def swanctl(self, *arguments: str, check: bool = True) -> str | None:
        """Run swanctl and return its output. Raises LabError if it fails, or returns None without `check`."""
        command, *options = arguments
        variables = [f"{name}={value}" for name, value in self._environment.items()]
        done = self.namespace.run(
            "env",
            *variables,
            self._programs["swanctl"],
            command,
            "--uri",
            self._socket,
            *options,
            check=check,
        )
        return None if done.returncode else done.stdout

    @property
    def log(self) -> str:
        """What it has written since it was last started."""
        return self.process.output() if self.process is not None else ""

    @property
    def _running(self) -> Process:
        if self.process is None:
            raise LabError(f"{self.name} does not run")
        return self.process

    def _unconfined(self, command: str) -> str:
        """Distributions' AppArmor profiles, which know programs by their paths, forbid them our folder."""
        path = shutil.which(command, path=TOOL_PATH)
        if path is None:
            raise LabError(f"{command} is not installed: `make peers` installs it")
        if not APPARMOR.exists() or APPARMOR.read_text().strip() != "Y":
            return path
        return shutil.copy(path, str(self._folder))

    def _write_connections(self) -> None:
        path = self._folder / "swanctl.conf"
        path.touch(mode=0o600)
        path.write_text(configuration(self.connections))


def configuration(connections: Mapping[str, Connection]) -> str:
    """Write swanctl.conf."""
    parts = {
        "connections": {name: _connection(each) for name, each in connections.items()},
        "secrets": {
            f"ike-{name}": {
                "id-1": f'"{each.local_id}"',
                "id-2": f'"{each.remote_id}"',
                "secret": f'"{each.psk}"',
            }
            for name, each in connections.items()
            if each.psk is not None
        },
    }
    return "\n".join(_section(parts)) + "\n"


def _connection(connection: Connection) -> dict[str, Any]:
    method = connection.authentication if connection.certificate else "psk"
    local = {"auth": method, "id": f'"{connection.local_id}"'}
    remote = {"auth": "pubkey" if connection.certificate else "psk", "id": f'"{connection.remote_id}"'}
    if connection.certificate:
        local["certs"] = connection.certificate
    if connection.authority:
        remote["cacerts"] = connection.authority
    section: dict[str, Any] = {
        "version": 2,
        "local_addrs": connection.local_address,
        "remote_addrs": connection.remote_address,
        "proposals": connection.proposals,
        "fragmentation": "yes" if connection.fragmentation else "no",
        "encap": "yes" if connection.force_udp else "no",
        "keyingtries": 0 if connection.keep_trying else 1,
        "mobike": "no",
        "local": local,
        "remote": remote,
        "children": {name: _child(child) for name, child in connection.children.items()},
    }
    if connection.certificate:
        section["send_cert"] = "always"
    if connection.rekey_seconds is not None:
        section |= {"rekey_time": f"{connection.rekey_seconds:g}s", "over_time": "30s", "rand_time": "0s"}
    if connection.liveness_seconds is not None:
        section["dpd_delay"] = f"{connection.liveness_seconds:g}s"
    return section


def _child(child: Child) -> dict[str, Any]:
    section: dict[str, Any] = {
        "local_ts": ",".join(child.local),
        "remote_ts": ",".join(child.remote),
        "esp_proposals": child.proposals,
        "start_action": child.start,
        "dpd_action": "restart" if child.start == "start" else "clear",
    }
    if child.rekey_seconds is not None:
        section |= {"rekey_time": f"{child.rekey_seconds:g}s", "life_time": "600s", "rand_time": "0s"}
    return section


def _section(values: Mapping[str, Any], depth: int = 0) -> list[str]:
    indent = "  " * depth
    lines = []
    for name, value in values.items():
        if isinstance(value, Mapping):
            lines += [f"{indent}{name} {{", *_section(value, depth + 1), f"{indent}}}"]
        else:
            lines.append(f"{indent}{name} = {value}")
    return lines


def parse_vici(text: str) -> list[dict[str, Any]]:
    """Return the events of a `swanctl --pretty` listing: sections are dicts, lists are lists of strings.

    Raises ValueError for anything else.
    """
    events: list[dict[str, Any]] = []
    stack: list[Any] = []
    for line in text.splitlines():
        words = line.strip()
        if words in ("}", "]") and stack:
            finished = stack.pop()
            if not stack and finished:
                events.append(finished)
        elif opening := re.fullmatch(r"(.+?)(?: =)? ([\[{])", words):
            section: Any = {} if opening[2] == "{" else []
            if stack:
                stack[-1][opening[1]] = section
            stack.append(section)
        elif stack and isinstance(stack[-1], list):
            stack[-1].append(words)
        elif stack and (value := re.fullmatch(r"(\S+) = ?(.*)|(\S+) =", words)):
            stack[-1][value[1] or value[3]] = value[2] or ""
        elif words:
            raise ValueError(f"not a line of a vici message: {line!r}")
    return events
