"""Every line that the appliance logs says by a name what has happened, and the document lists the names."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
DOCUMENT = ROOT / "docs" / "monitoring.md"
LOGGERS = {"log", "_log", "_LOG"}
EVENT = re.compile(r"[a-z]+(-[a-z]+)+")
LEVELS = {"info", "warning", "error", "exception", "critical", "log"}

SOURCES = sorted(
    path
    for folder in ("gateway", "tunnels", "policies")
    for path in (ROOT / folder).rglob("*.py")
    if "lab" not in path.relative_to(ROOT).parts
)


def calls(tree: ast.AST) -> Iterator[ast.Call]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in LEVELS:
            named = node.func.value
            if isinstance(named, ast.Name) and named.id in LOGGERS:
                yield node


def events(tree: ast.AST) -> Iterator[str]:
    """The events that a module names: as a dictionary's value, or to a function that says something."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Dict):
            for key, value in zip(node.keys, node.values, strict=True):
                if (
                    isinstance(key, ast.Constant)
                    and key.value == "event"
                    and isinstance(value, ast.Constant)
                    and " " not in str(value.value)
                ):
                    yield str(value.value)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("about", "say")):
            for argument in ast.walk(node):
                if isinstance(argument, ast.Constant) and EVENT.fullmatch(str(argument.value)):
                    yield str(argument.value)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_line_of_the_log_names_its_event(path: Path) -> None:
    nameless = [
        f"{path.name}:{call.lineno}"
        for call in calls(ast.parse(path.read_text()))
        if not any(keyword.arg == "extra" for keyword in call.keywords)
    ]
    assert not nameless


def test_every_event_is_in_the_document() -> None:
    found = {event for path in SOURCES for event in events(ast.parse(path.read_text()))}
    listed = DOCUMENT.read_text()

    assert len(found) > 30
    assert not [event for event in sorted(found) if f"`{event}`" not in listed]
