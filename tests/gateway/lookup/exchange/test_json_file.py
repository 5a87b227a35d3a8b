"""Records as JSON, and what Windows prints of its own."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.lookup.exchange import json_file
from policies.addresses import CustomerAddress, MacAddress, ProviderAddress, Vsid
from policies.model import LookupRecord, Translation

RECORD = LookupRecord(
    Vsid(5001),
    CustomerAddress.parse("10.0.1.5"),
    MacAddress.parse("02:00:00:00:01:05"),
    ProviderAddress.parse("198.51.100.11"),
    'hv"1',
    epoch=7,
    revision=1234,
)

# As ConvertTo-Json of Windows PowerShell 5.1 prints an instance, with what it knows of the class.
WINDOWS: dict[str, Any] = {
    "Caption": None,
    "Description": None,
    "ElementName": None,
    "InstanceID": "10.0.1.5;5001;020000000105",
    "Context": "web server",
    "CustomerAddress": "10.0.1.5",
    "CustomerID": "{11111111-2222-3333-4444-000000005001}",
    "MACAddress": "020000000105",
    "ProviderAddress": "198.51.100.11",
    "Rule": 1,
    "Type": 0,
    "UseVmMACAddress": False,
    "VirtualSubnetID": 5001,
    "VMName": "Red1",
    "PSComputerName": None,
    "CimClass": {"CimClassName": "MSFT_NetVirtualizationLookupRecordSettingData", "CimClassMethods": [""]},
    "CimInstanceProperties": ["Caption", 'Context = "web server"'],
    "CimSystemProperties": {"Namespace": "root/StandardCimv2"},
}


def test_records_come_back_as_they_went() -> None:
    text = "".join(json_file.lines([RECORD, RECORD]))
    assert [row["host"] for row in json.loads(text)] == ['hv"1', 'hv"1']
    (found, again) = json_file.read(text).given
    assert (found.where, again.where) == ("[0]", "[1]")
    assert (found.ca, found.mac, found.pa, found.host) == (RECORD.ca, RECORD.mac, RECORD.pa, RECORD.host)


def test_no_records_are_an_empty_array() -> None:
    assert json.loads("".join(json_file.lines([]))) == []


@pytest.mark.parametrize("mac", ["020000000105", "02-00-00-00-01-05", "02:00:00:00:01:05"])
@pytest.mark.parametrize("rule", [1, 36, "36", "TranslationMethodEncap"], ids=repr)
def test_what_windows_prints_of_several_records_is_read(mac: str, rule: object) -> None:
    text = json.dumps([{**WINDOWS, "MACAddress": mac, "Rule": rule}, WINDOWS])
    reading = json_file.read(text)
    assert reading.problems == []
    assert [(each.mac, each.translation, each.host) for each in reading.given] == [
        (RECORD.mac, Translation.ENCAP, None)
    ] * 2


@pytest.mark.parametrize("rule", [0, 35, "35", "TranslationMethodNat"], ids=repr)
def test_what_windows_rewrites_is_rewritten(rule: object) -> None:
    (found,) = json_file.read(json.dumps({**WINDOWS, "Rule": rule})).given
    assert found.translation is Translation.REWRITE


def test_a_rewritten_record_comes_back_as_it_went() -> None:
    rewritten = msgspec.structs.replace(RECORD, translation=Translation.REWRITE)
    (found,) = json_file.read("".join(json_file.lines([rewritten]))).given
    assert (found.pa, found.translation) == (rewritten.pa, Translation.REWRITE)


def test_windows_prints_a_single_record_without_an_array() -> None:
    reading = json_file.read(json.dumps(WINDOWS))
    assert [(each.where, each.ca) for each in reading.given] == [("the record", RECORD.ca)]


@pytest.mark.parametrize(
    "change",
    [
        {"CustomerAddress": "0.0.0.0", "Type": 2},
        {"CustomerAddress": "::", "Type": "GatewayWildcard"},
        {"CustomerAddress": "0.0.0.0", "Type": None},
        {"CustomerAddress": "0.0.0.0", "Type": 6},
    ],
)
def test_wildcards_of_windows_are_passed_over_and_named(change: dict[str, Any]) -> None:
    reading = json_file.read(json.dumps([{**WINDOWS, **change}, WINDOWS]))
    assert [each.path for each in reading.passed_over] == ["[0]"]
    assert [each.where for each in reading.given] == ["[1]"]
    assert reading.problems == []


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "this is not JSON: "),
        ("7", "an array of records is wanted"),
        ("[7]", "[0]: a record is wanted"),
        ("[" * 100_000, "this is not JSON: "),
        ('[{"vsid": 5001, "hots": ""}]', "[0]: unknown field 'hots'"),
        (
            json.dumps({**WINDOWS, "Rule": 2}),
            "the record: translation: Rule '2' is neither TranslationMethodEncap nor TranslationMethodNat",
        ),
        (json.dumps({**WINDOWS, "VirtualSubnetID": 5001.5}), "the record: vsid: text is wanted"),
        (json.dumps({**WINDOWS, "MACAddress": "x" * 100_000}), "the record: mac: 'xxxx"),
        (json.dumps({**WINDOWS, "VirtualSubnetID": "9" * 5000}), "the record: vsid: '9999"),
        (json.dumps({**WINDOWS, "VirtualSubnetID": True}), "the record: vsid: text is wanted"),
    ],
)
def test_what_is_wrong_is_told(text: str, told: str) -> None:
    (problem,) = json_file.read(text).problems
    assert str(problem).startswith(told)
    assert len(str(problem)) < 300


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=8),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from([*WINDOWS, "vsid", "ca", "mac", "pa"]), inner, max_size=6)
        ),
        max_leaves=20,
    )
)
def test_any_json_is_read_or_has_problems(value: Any) -> None:
    reading = json_file.read(msgspec.json.encode(value).decode())
    assert all(each.message for each in (*reading.problems, *reading.passed_over))
