"""Whatever a configuration holds, it loads or says what is wrong: nothing else is ever raised."""

from __future__ import annotations

import copy
import datetime as dt
import json
import math
import random
import tomllib
from typing import Any

import pytest

from policies.config import parse
from policies.errors import ConfigurationError
from tests.policies.whole import FOLLOWER, REWRITE, WHOLE

# Values at the edge of some meaning; any of them may be put anywhere.
EDGES: list[Any] = [
    *(True, False, 0, 1, -1, 4095, 4096, 5001, 0xFFFFFE, 1 << 31, 1 << 64, 1 << 20_000, -(1 << 20_000)),
    *(0.0, -1.5, math.inf, -math.inf, math.nan, 1e308),
    *(dt.date(2024, 2, 29), dt.time(1, 2), dt.datetime(1, 1, 1, tzinfo=dt.UTC)),
    *([], {}, [[]], [{}], [None], {"name": "red"}, {"": ""}, [[[["deep"]]]], ["red", "red"], [1, "a", True]),
    *("", " ", "any", "red", "blue", "web", "db", "hv1", "hv2", "edge-1", "edge-2", "seattle", "a" * 10_000),
    *("subnet:", "site:", "subnet:web", "site:seattle", "subnet:web:db", "::", ":", "/", "[red]", "#2", "."),
    *(
        "0.0.0.0",
        "255.255.255.255",
        "10.0.1.0",
        "10.0.1.1",
        "10.0.1.5",
        "10.0.1.255",
        "10.0.2.77",
        "010.0.1.5",
    ),
    *("fd00:1::", "fd00:1::1", "fd00:1::5", "::ffff:1.2.3.4", "fe80::1%eth0", "ff02::1", "192.0.2.254"),
    *(
        "0.0.0.0/0",
        "::/0",
        "10.0.1.0/24",
        "10.0.1.1/24",
        "10.0.2.77/32",
        "255.255.255.255/32",
        "10.0.0.0/255",
    ),
    *(
        "255.255.255.255/31",
        "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff/127",
        "::/127",
        "fd00:1::5/128",
        "1/2/3",
    ),
    *("02:00:00:00:01:05", "ff:ff:ff:ff:ff:ff", "02:69:73:00:13:89", "00-00-00-00-00-00", "02:00:00:00:01"),
    *("500 Mbit/s", "0 bit/s", "999999999999 Gbit/s", "1 TB", "٣ Mbit/s", "1 MB", "0-0", "65535-65536", "٣"),
    *("hash", "zero", "encap", "rewrite", "xdp", "auto", "etcd", "tcp", "icmp", "icmpv6", "allow", "deny"),
    *(
        "1 s",
        "0.5 s",
        "4 h",
        "99 d",
        "64 KiB",
        "respond",
        "trap",
        "modern",
        "pairs",
        "keyid:",
        "keyid:0b",
        "CN=a",
    ),
    *("aes256gcm16-prfsha384-ecp384", "aes256-sha256-none", "-", "null", "3des", "C=,", "a=b,c", "0x0b"),
    *(
        "https://[::1]:1/",
        "http://[::1:1",
        "https://a..b",
        "https://1.2.3.4:0",
        "https://é",
        "/a/",
        "//",
        "used",
    ),
    *("127.0.0.1:0", "127.0.0.1:65536", "[::1]:7637", "[::1:7637", "localhost:1", "https://", "http://a b"),
    *(
        "\x00",
        "a\x00b",
        "\x1b[31m",
        "line\nbreak",
        "\u202eright",
        "é",
        "\U0001f600",
        "psk\x7f",
        "a" * 300 + "/" + "b",
    ),
]

# Keys that some table knows, and some that none does.
KEYS = [
    *(
        "name",
        "vsid",
        "prefixes",
        "gateway",
        "gateways",
        "tenants",
        "provider_addresses",
        "ike",
        "psk_file",
        "via",
        "ike_proposals",
        "lifetimes",
        "selectors",
        "local_prefixes",
    ),
    *(
        "host",
        "tenant",
        "subnet",
        "site",
        "route",
        "record",
        "access",
        "limits",
        "port",
        "underlay",
        "lookup",
        "openvswitch",
        "tls",
        "etcd",
        "token",
        "certificate",
        "token_file",
        "key",
    ),
    *("", "a b", "]", "é", "\n", "nmae", "x" * 500),
]


@pytest.mark.parametrize("cases", [1_000, pytest.param(100_000, marks=pytest.mark.soak)])
def test_a_mutated_configuration_loads_or_says_what_is_wrong(cases: int) -> None:
    trees = [tomllib.loads(text) for text in (FOLLOWER, WHOLE, REWRITE, WHOLE)]
    loaded = refused = 0
    for seed in range(cases):
        rng = random.Random(seed)
        mutant = copy.deepcopy(trees[seed % 4])
        for _ in range(rng.choice((1, 1, 1, 2, 3, 8))):
            mutate(mutant, rng)
        if said(to_toml(mutant), seed):
            refused += 1
        else:
            loaded += 1

    # Else the mutations have become too harmless, or too harmful, to show anything.
    assert loaded > cases // 100
    assert refused > cases // 2


def test_mutated_text_loads_or_says_what_is_wrong() -> None:
    for seed in range(1_000):
        rng = random.Random(seed)
        text = WHOLE
        for _ in range(rng.choice((1, 1, 2, 5))):
            at = rng.randrange(len(text))
            inserted = rng.choice(
                ('"', "[", "]", "{", "=", "\n", "\\", "'''", "0x", "\x00", "é", text[at : at + 40])
            )
            text = text[:at] + inserted + text[at + rng.choice((0, 0, 1, 40)) :]
        said(text, seed)


def test_the_writer_of_these_tests_writes_what_it_was_given() -> None:
    tree = tomllib.loads(WHOLE)

    assert tomllib.loads(to_toml(tree)) == tree


def said(text: str, seed: int) -> list[str]:
    """What is said about a text; every problem once, in one line that a terminal can show."""
    try:
        parse(text)
    except ConfigurationError as error:
        problems = [str(problem) for problem in error.problems]
    else:
        return []
    assert problems, seed
    assert len(set(problems)) == len(problems), seed
    assert all(problem.isprintable() and len(problem) < 1000 for problem in problems), (seed, problems)
    return problems


def mutate(tree: dict[str, Any], rng: random.Random) -> None:
    """Change one thing of a parsed configuration."""
    container, key = rng.choice(list(places(tree)))
    match rng.randrange(6):
        case 0:
            del container[key]
        case 1 if isinstance(container, list):
            container.insert(rng.randrange(len(container) + 1), copy.deepcopy(container[key]))
        case 1:
            container[rng.choice(KEYS)] = copy.deepcopy(container[key])
        case 2:
            other, other_key = rng.choice(list(places(tree)))
            container[key] = copy.deepcopy(other[other_key])
        case 3:
            container[key] = [container[key]]
        case _:
            container[key] = copy.deepcopy(rng.choice(EDGES))


def places(node: Any) -> Any:
    """Every (container, key or index) below a node."""
    entries = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in entries:
        yield node, key
        yield from places(value)


def to_toml(node: Any, *, top: bool = True) -> str:
    """Write a tree as TOML, with inline tables below the first level."""
    match node:
        case dict() if top:
            return "\n".join(f"{quoted(key)} = {to_toml(value, top=False)}" for key, value in node.items())
        case dict():
            inner = ", ".join(f"{quoted(key)} = {to_toml(value, top=False)}" for key, value in node.items())
            return "{" + inner + "}"
        case list():
            return "[" + ", ".join(to_toml(value, top=False) for value in node) + "]"
        case bool():
            return str(node).lower()
        case int():
            return hex(node) if node >= 0 else str(-(-node % (1 << 62)))
        case str():
            return quoted(node)
        case None:
            return '""'
        case dt.date() | dt.time():
            return node.isoformat()
        case _:
            return str(node)


def quoted(text: str) -> str:
    """A TOML basic string: JSON's, but with DEL and what is beyond 16 bits escaped or left as they are."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
