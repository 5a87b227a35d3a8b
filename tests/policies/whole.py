"""Sound configurations with every section, for tests that change one thing of them."""

from __future__ import annotations

from pathlib import Path

WHOLE = Path(__file__).with_name("whole.toml").read_text()
REWRITE = Path(__file__).with_name("rewrite.toml").read_text()
FOLLOWER = Path(__file__).with_name("follower.toml").read_text()


def with_change(old: str, new: str, text: str = WHOLE) -> str:
    """The text with its one occurrence of `old` replaced."""
    assert text.count(old) == 1, f"{text.count(old)} times {old!r}"
    return text.replace(old, new)
