from __future__ import annotations

import os
from pathlib import Path

import pytest

from gateway.http.renewed import Renewed
from policies.errors import ConfigurationError


def test_file_is_read_again_when_it_has_changed_and_only_then(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("one")
    reads: list[str] = []

    def read() -> str:
        reads.append(file.read_text())
        return reads[-1]

    renewed = Renewed("api.tls", (file, None), read)
    assert (renewed.value, renewed.value) == ("one", "one")
    file.write_text("another")
    assert (renewed.value, renewed.value) == ("another", "another")
    assert reads == ["one", "another"]


def test_file_that_is_replaced_by_one_of_the_same_size_and_time_is_read(tmp_path: Path) -> None:
    file, new = tmp_path / "token", tmp_path / "new"
    file.write_text("one")
    new.write_text("two")
    status = file.stat()
    os.utime(new, ns=(status.st_atime_ns, status.st_mtime_ns))
    renewed = Renewed("api.tls", (file,), file.read_text)
    new.replace(file)

    assert renewed.value == "two"


def test_what_cannot_be_read_later_leaves_what_was_and_is_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "token"
    file.write_text("one")
    renewed = Renewed("api.tls", (file,), file.read_text)
    file.unlink()

    assert [renewed.value for _ in range(3)] == ["one"] * 3
    assert [record.getMessage() for record in caplog.records] == [
        f"api.tls: what was there before goes on: {file}: No such file or directory"
    ]
    file.write_text("two")
    assert renewed.value == "two"


def test_what_cannot_be_read_at_first_is_said_with_its_key(tmp_path: Path) -> None:
    file = tmp_path / "nothing"

    with pytest.raises(ConfigurationError, match=r"api\.tls: .*nothing: No such file"):
        Renewed("api.tls", (file,), file.read_text)
