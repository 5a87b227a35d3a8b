"""What etcd's JSON gateway says."""

from __future__ import annotations

import msgspec
import pytest

from gateway.lookup.stores.etcd_wire import RangeAnswer, TxnAnswer, WatchLine, read


def test_numbers_are_text_octets_are_base64_and_zero_is_left_out() -> None:
    answer = read(
        b'{"header":{"cluster_id":"14841639068965178418","member_id":"1","revision":"9007199254740993"},'
        b'"kvs":[{"key":"L3gvMQ==","mod_revision":"2","version":"1"}],"count":"1"}',
        RangeAnswer,
    )
    assert answer.header.cluster_id == 14841639068965178418
    assert answer.header.revision == 9007199254740993
    assert not answer.more
    assert answer.only is not None
    assert (answer.only.key, answer.only.value, answer.only.mod_revision) == (b"/x/1", b"", 2)


def test_transaction_that_changed_nothing_has_what_it_read() -> None:
    answer = read(
        b'{"header":{"revision":"2"},"responses":[{"response_range":{"header":{"revision":"2"},"count":"0"}}]}',
        TxnAnswer,
    )
    assert not answer.succeeded
    assert [each.only for each in answer.ranges] == [None]


def test_watch_tells_changes_compaction_and_failure() -> None:
    line = read(
        b'{"result":{"header":{"revision":"3"},"events":[{"kv":{"key":"YQ==","mod_revision":"2"}},'
        b'{"type":"DELETE","kv":{"key":"YQ==","mod_revision":"3"}}]}}',
        WatchLine,
    )
    assert line.result is not None
    assert [(event.type, event.kv.mod_revision) for event in line.result.events] == [
        ("PUT", 2),
        ("DELETE", 3),
    ]
    line = read(b'{"result":{"header":{},"canceled":true,"compact_revision":"7"}}', WatchLine)
    assert line.result is not None
    assert (line.result.canceled, line.result.compact_revision) == (True, 7)
    line = read(b'{"error":{"grpc_code":14,"http_code":503,"message":"etcdserver: no leader"}}', WatchLine)
    assert line.result is None
    assert line.error is not None
    assert line.error.message == "etcdserver: no leader"


@pytest.mark.parametrize("found", [b"", b"<html>", b'{"header":{"revision":"two"}}', b'{"kvs":[]}'])
def test_what_is_no_answer_is_refused(found: bytes) -> None:
    with pytest.raises(msgspec.DecodeError):
        read(found, RangeAnswer)
