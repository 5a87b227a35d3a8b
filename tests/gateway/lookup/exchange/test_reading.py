"""Files of records, of which only the octets are known."""

from __future__ import annotations

import json

import pytest

from gateway.lookup.exchange.reading import Format, read

ROW = {"vsid": 5001, "ca": "10.0.1.5", "mac": "02:00:00:00:01:05", "pa": "198.51.100.11", "host": "hv\u00e9"}
JSON = json.dumps([ROW], ensure_ascii=False)
CSV = f"{','.join(ROW)}\r\n{','.join(str(each) for each in ROW.values())}\r\n"


@pytest.mark.parametrize("text", [JSON, f"\n {JSON}", CSV], ids=["json", "json behind space", "csv"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_the_format_and_the_encoding_are_seen(text: str, encoding: str) -> None:
    reading = read(text.encode(encoding), Format.AUTO)
    assert reading.problems == []
    assert [each.host for each in reading.given] == ["hv\u00e9"]


def test_a_format_that_is_said_is_not_guessed() -> None:
    assert "this is not JSON" in str(read(CSV.encode(), Format.JSON).problems[0])
    assert "no column" in str(read(JSON.encode(), Format.CSV).problems[0])


def test_octets_that_are_no_text_are_named() -> None:
    assert str(read(b"vsid\xff", Format.AUTO).problems[0]) == "octet 4: this is no text in UTF-8"
