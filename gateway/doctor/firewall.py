"""The machine's packet filter: the rules that keep the kernel silent, and what else may be in the way."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterable, Iterator

import msgspec

from gateway.doctor.findings import Finding, Level
from gateway.process.firewall import TABLE
from policies.addresses import ProviderAddress

AREA = "firewall"

_COMING_IN = ("ingress", "prerouting", "input")

PATIENCE = 5.0
"""Seconds for nft to answer."""


class Rules(msgspec.Struct, frozen=True):
    """What nft says. `why_not`: why it says nothing."""

    own: str | None = None
    """The table of `isthmus firewall`; None: it is not there."""
    dropping: tuple[str, ...] = ()
    """The chains for what comes in that drop what no rule accepts."""
    filtering: tuple[str, ...] = ()
    """All chains for what comes in that may drop some of it, but for our own."""
    why_not: str | None = None


def look() -> Rules:
    """Ask nft."""
    try:
        listed = _nft("--json", "list", "chains")
    except (FileNotFoundError, subprocess.TimeoutExpired) as error:
        missing = isinstance(error, FileNotFoundError)
        return Rules(why_not="nft is not installed" if missing else "nft does not answer")
    if listed.returncode:
        said = listed.stderr.strip().splitlines() or [f"exit code {listed.returncode}"]
        return Rules(why_not=f"nft: {said[0]}")
    own = _nft("list", "table", *TABLE.split())
    return Rules(
        own.stdout if own.returncode == 0 else None, dropping(listed.stdout), filtering(listed.stdout)
    )


def dropping(listed: str) -> tuple[str, ...]:
    """Return the chains for what comes in that drop by policy, as `nft --json list chains` prints them."""
    return tuple(
        _name(chain)
        for chain in _chains(listed)
        if chain.get("hook") == "input" and chain.get("policy") == "drop"
    )


def filtering(listed: str) -> tuple[str, ...]:
    """Return others' chains for what comes in that may drop some of it, by the same list."""
    return tuple(
        _name(chain)
        for chain in _chains(listed)
        if chain.get("type") == "filter"
        and chain.get("hook") in _COMING_IN
        and f"{chain.get('family')} {chain.get('table')}" != TABLE
    )


def _chains(listed: str) -> list[dict[str, object]]:
    try:
        items = msgspec.json.decode(listed, type=dict[str, list[dict[str, object]]]).get("nftables", [])
    except msgspec.MsgspecError:
        return []
    return [chain for item in items if isinstance(chain := item.get("chain"), dict)]


def _name(chain: dict[str, object]) -> str:
    return f"{chain.get('family')} {chain.get('table')} {chain.get('name')}"


def judge(rules: Rules, addresses: Iterable[ProviderAddress], *, has_sites: bool) -> Iterator[Finding]:
    """Say whether the rules are there for these own addresses, and which others to look at."""
    if rules.why_not is not None:
        yield Finding(AREA, Level.SKIPPED, rules.why_not, "run this as root, with nftables installed")
        return
    missing = [str(each) for each in addresses if rules.own is None or str(each) not in _words(rules.own)]
    if missing:
        words = (
            f"no rule keeps the kernel silent at {', '.join(missing)} while isthmus does not run: peers hear"
            " that nobody takes NVGRE or ESP, and may give this node up"
        )
        yield Finding(AREA, Level.WARN, words, "isthmus firewall FILE --install")
    else:
        yield Finding(AREA, Level.OK, "rules keep the kernel silent while isthmus does not run")
    if rules.dropping:
        wanted = "GRE (protocol 47) from provider addresses, and ICMP"
        if has_sites:
            wanted += ", and ESP (protocol 50), UDP 500 and UDP 4500 from sites"
        words = f"what no rule accepts is dropped on its way in, by {', '.join(rules.dropping)}"
        yield Finding(AREA, Level.WARN, words, f"see that its rules accept {wanted}")


def _words(text: str) -> set[str]:
    return set(text.replace(",", " ").split())


def _nft(*arguments: str) -> subprocess.CompletedProcess[str]:
    path = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"
    return subprocess.run(
        ("nft", *arguments),
        capture_output=True,
        text=True,
        env={**os.environ, "PATH": path, "LC_ALL": "C"},
        timeout=PATIENCE,
        check=False,
    )
