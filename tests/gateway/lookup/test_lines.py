"""Lines are found however a stream is cut, and one that never ends is given up."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.lookup import lines as module
from gateway.lookup.forms import Malformed
from gateway.lookup.lines import Lines


@given(
    st.lists(st.binary(max_size=40).filter(lambda octets: b"\n" not in octets)), st.sets(st.integers(0, 90))
)
def test_lines_are_put_together_however_they_were_cut(whole: list[bytes], places: set[int]) -> None:
    stream = b"".join(line + b"\n" for line in whole)
    cuts = sorted(place for place in places if place <= len(stream))
    lines = Lines()
    found = [
        line
        for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True)
        for line in lines.feed(stream[start:end])
    ]
    assert found == [line for line in whole if line]


def test_line_is_not_told_before_its_end() -> None:
    lines = Lines()
    assert lines.feed(b"a" * 1_000_000) == []
    assert lines.feed(b"b\n\nc") == [b"a" * 1_000_000 + b"b"]
    assert lines.feed(b"\n") == [b"c"]


def test_line_without_an_end_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LONGEST_LINE", 1000)
    lines = Lines()
    assert lines.feed(b"x" * 999) == []
    assert lines.feed(b"x\n" + b"y" * 1000) == [b"x" * 1000]
    with pytest.raises(Malformed, match="a line of more"):
        lines.feed(b"y")
