"""RFC 5903, groups 19, 20 and 21: its test vectors (section 8), KE payloads and all."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from policies.ipsec import Group
from tunnels.ike import transforms
from tunnels.ike.groups import CurveValue

VECTORS = [
    (
        Group.ECP_256,
        ("c88f01f510d9ac3f70a292daa2316de544e9aab8afe84049c62a9c57862d1433"),
        (
            "0000004800130000dad0b65394221cf9b051e1feca5787d098dfe637fc90b9ef945d0c3772581180"
            "5271a0461cdb8252d61f1c456fa3e59ab1f45b33accf5f58389e0577b8990bb3"
        ),
        ("c6ef9c5d78ae012a011164acb397ce2088685d8f06bf9be0b283ab46476bee53"),
        (
            "0000004800130000d12dfb5289c8d4f81208b70270398c342296970a0bccb74c736fc7554494bf63"
            "56fbf3ca366cc23e8157854c13c58d6aac23f046ada30f8353e74f33039872ab"
        ),
        ("d6840f6b42f6edafd13116e0e12565202fef8e9ece7dce03812464d04b9442de"),
    ),
    (
        Group.ECP_384,
        ("099f3c7034d4a2c699884d73a375a67f7624ef7c6b3c0f160647b67414dce655e35b538041e649ee3faef896783ab194"),
        (
            "0000006800140000667842d7d180ac2cde6f74f37551f55755c7645c20ef73e31634fe72b4c55ee6"
            "de3ac808acb4bdb4c88732aee95f41aa9482ed1fc0eeb9cafc4984625ccfc23f65032149e0e144ad"
            "a024181535a0f38eeb9fcff3c2c947dae69b4c634573a81c"
        ),
        ("41cb0779b4bdb85d47846725fbec3c9430fab46cc8dc5060855cc9bda0aa2942e0308312916b8ed2960e4bd55a7448fc"),
        (
            "0000006800140000e558dbef53eecde3d3fccfc1aea08a89a987475d12fd950d83cfa41732bc509d"
            "0d1ac43a0336def96fda41d0774a3571dcfbec7aacf3196472169e838430367f66eebe3c6e70c416"
            "dd5f0c68759dd1fff83fa40142209dff5eaad96db9e6386c"
        ),
        ("11187331c279962d93d604243fd592cb9d0a926f422e47187521287e7156c5c4d603135569b9e9d09cf5d4a270f59746"),
    ),
    (
        Group.ECP_521,
        (
            "0037ade9319a89f4dabdb3ef411aaccca5123c61acab57b5393dce47608172a095aa85a30fe1c295"
            "2c6771d937ba9777f5957b2639bab072462f68c27a57382d4a52"
        ),
        (
            "0000008c001500000015417e84dbf28c0ad3c278713349dc7df153c897a1891bd98bab4357c9ecbe"
            "e1e3bf42e00b8e380aeae57c2d107564941885942af5a7f4601723c4195d176ced3e017cae20b664"
            "1d2eeb695786d8c946146239d099e18e1d5a514c739d7cb4a10ad8a788015ac405d7799dc75e7b7d"
            "5b6cf2261a6a7f1507438bf01beb6ca3926f9582"
        ),
        (
            "0145ba99a847af43793fdd0e872e7cdfa16be30fdc780f97bccc3f078380201e9c677d600b343757"
            "a3bdbf2a3163e4c2f869cca7458aa4a4effc311f5cb151685eb9"
        ),
        (
            "0000008c0015000000d0b3975ac4b799f5bea16d5e13e9af971d5e9b984c9f39728b5e5739735a21"
            "9b97c356436adc6e95bb0352f6be64a6c2912d4ef2d0433ced2b6171640012d9460f015c68226383"
            "956e3bd066e797b623c27ce0eac2f551a10c2c724d9852077b87220b6536c5c408a1d2aebb8e86d6"
            "78ae49cb57091f4732296579ab44fcd17f0fc56a"
        ),
        (
            "01144c7d79ae6956bc8edb8e7c787c4521cb086fa64407f97894e5e6b2d79b04d1427e73ca4baa24"
            "0a34786859810c06b3c715a3a8cc3151f2bee417996d19f3ddea"
        ),
    ),
]
"""Group; initiator's private value and KE payload, responder's, and the secret that they share."""
CURVES = {Group.ECP_256: ec.SECP256R1(), Group.ECP_384: ec.SECP384R1(), Group.ECP_521: ec.SECP521R1()}


@pytest.mark.parametrize(("group", "initiator", "sent", "responder", "answered", "shared"), VECTORS)
def test_section_8_values_are_encoded_and_shared_as_printed(
    group: Group, initiator: str, sent: str, responder: str, answered: str, shared: str
) -> None:
    ours, theirs = (
        CurveValue(group, ec.derive_private_key(int(each, 16), CURVES[group]))
        for each in (initiator, responder)
    )

    for value, payload in ((ours, sent), (theirs, answered)):
        length = 8 + len(value.public())
        assert payload[:8] == f"0000{length:04x}"
        assert payload[8:16] == f"{transforms.group_number(group):04x}0000"
        assert payload[16:] == value.public().hex()
    assert ours.shared(theirs.public()).hex() == shared
    assert theirs.shared(ours.public()).hex() == shared
