"""Vectors of the functions and groups that IKE's keys come from, by the package `cryptography-vectors`."""

from __future__ import annotations

import pytest

from policies.ipsec import Prf
from policies.secret import Secret
from tests.vectors.files import vectors
from tunnels.ike import groups, keys
from tunnels.ike.groups import X25519Value


@pytest.mark.parametrize(
    ("prf", "name"), [(Prf.SHA2_256, "sha256"), (Prf.SHA2_384, "sha384"), (Prf.SHA2_512, "sha512")]
)
def test_prf_is_the_hmac_of_rfc_4231(prf: Prf, name: str) -> None:
    found = list(vectors(f"HMAC/rfc-4231-{name}.txt", "len"))

    assert len(found) >= 6
    for vector in found:
        made = keys.prf(prf, bytes.fromhex(vector["key"]), bytes.fromhex(vector["msg"]))
        assert made.hex().startswith(vector["md"])


def test_prf_plus_is_the_expansion_of_rfc_5869() -> None:
    found = list(vectors("KDF/rfc-5869-HKDF-SHA256.txt", "count"))

    assert len(found) == 3
    for vector in found:
        made = keys.prf_plus(
            Prf.SHA2_256,
            Secret(bytes.fromhex(vector["prk"])),
            bytes.fromhex(vector.get("info", "")),
            int(vector["l"]),
        )
        assert made.hex() == vector["okm"]


def test_x25519_is_that_of_rfc_7748() -> None:
    found = list(vectors("asymmetric/X25519/rfc7748.txt", "count"))

    assert len(found) == 3
    for vector in found[:2]:  # the third is of many rounds
        scalar, point = bytes.fromhex(vector["input_scalar"]), bytes.fromhex(vector["input_u"])
        assert X25519Value(scalar).shared(point).hex() == vector["output_u"]


def test_group_14_is_that_of_rfc_3526() -> None:
    [group] = [
        vector for vector in vectors("asymmetric/DH/rfc3526.txt", "count") if len(vector["p"]) == 2048 // 4
    ]

    assert int(group["p"], 16) == groups._PRIME
    assert group["g"] == "2"
