"""A secret is bytes that no message shows."""

from __future__ import annotations

import traceback

import msgspec

from policies.secret import Secret

OCTETS = b"correct horse"


class Holder(msgspec.Struct, frozen=True):
    key: Secret


def test_a_secret_compares_as_its_octets() -> None:
    assert Secret(OCTETS) == OCTETS
    assert hash(Secret(OCTETS)) == hash(OCTETS)
    assert Secret(OCTETS)[:7] == b"correct"
    assert len(Secret(OCTETS)) == 13


def test_no_way_to_print_a_secret_shows_it() -> None:
    secret = Secret(OCTETS)
    shown = [
        repr(secret),
        str(secret),
        f"{secret}",
        f"{secret!r:>40}",
        f"{secret:x}",
        "{} {!r}".format(*[secret] * 2),
        repr([secret]),
        repr({"key": secret}),
        repr(Holder(secret)),
        "".join(traceback.format_exception(ValueError(secret, Holder(secret)))),
    ]

    assert not [text for text in shown if "horse" in text or OCTETS.hex() in text]
    assert repr(secret) == "<13 secret octets>"
