"""What a reader of the documents can rely on: links lead somewhere, and what is named is there."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from cyclopts import App

from gateway.cli import app

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
DOCUMENTS = [README, *sorted((ROOT / "docs").glob("*.md"))]

# Inline links and images; not what stands in code.
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_CODE = re.compile(r"^```.*?^```|`[^`\n]+`", re.MULTILINE | re.DOTALL)
# As it is typed: after a prompt, or in code. In prose isthmus does things, too.
_COMMAND = re.compile(
    r"(?:^ *[a-z0-9-]*[#$] |`)isthmus (?P<words>[a-z]+(?: [a-z]+)?)(?P<rest>[^`|\n]*)", re.MULTILINE
)
_OPTION = re.compile(r"(?<!\S)(--[a-z][a-z-]*)")


def links(document: Path) -> list[str]:
    return _LINK.findall(_CODE.sub("", document.read_text()))


def anchors(document: Path) -> set[str]:
    """The anchors of a document's headings, as GitHub makes them."""
    text = re.sub(r"^```.*?^```", "", document.read_text(), flags=re.MULTILINE | re.DOTALL)
    seen: Counter[str] = Counter()
    found = set()
    for heading in re.findall(r"^#+ +(.*)$", text, re.MULTILINE):
        words = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).strip().lower()
        anchor = re.sub(r"[^\w\- ]", "", words).replace(" ", "-")
        found.add(f"{anchor}-{seen[anchor]}" if anchor in seen else anchor)
        seen[anchor] += 1
    return found


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_link_leads_somewhere(document: Path) -> None:
    broken = []
    for link in links(document):
        if re.match(r"[a-z]+://", link):
            continue
        path, _, anchor = link.partition("#")
        target = document.parent / path if path else document
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert broken == []


def test_every_alert_says_where_to_read_what_to_do() -> None:
    rules = (ROOT / "docs" / "prometheus" / "isthmus.rules.yml").read_text()
    runbooks = re.findall(r'runbook: "([^#"]+)#([^"]+)"', rules)
    assert len(runbooks) == rules.count("- alert:")
    assert all(anchor in anchors(ROOT / path) for path, anchor in runbooks)


def test_every_document_is_named_in_the_readme_or_in_one_that_is() -> None:
    found, wanted = {README}, [README]
    while wanted:
        document = wanted.pop()
        for link in links(document):
            target = (document.parent / link.partition("#")[0]).resolve()
            if target.suffix == ".md" and target not in found and target.exists():
                found.add(target)
                wanted.append(target)
    assert set(DOCUMENTS) <= found


def commands(app: App, *before: str) -> Iterator[tuple[str, App]]:
    for name in app:
        if not name.startswith("-"):
            if app[name].default_command is None:
                yield from commands(app[name], *before, name)
            else:
                yield " ".join((*before, name)), app[name]


def options(command: App) -> set[str]:
    collected = command.assemble_argument_collection()
    return {name for argument in collected for name in argument.names if name.startswith("--")}


COMMANDS = dict(commands(app))


def test_readme_names_every_command() -> None:
    rows = "\n".join(re.findall(r"^\| `isthmus .*$", README.read_text(), re.MULTILINE))
    assert [name for name in COMMANDS if not all(f"{word}" in rows for word in name.split())] == []
    assert [name for name in COMMANDS if " " not in name and f"`isthmus {name}" not in rows] == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_command_and_option_that_is_shown_exists(document: Path) -> None:
    wrong = []
    for match in _COMMAND.finditer(document.read_text()):
        words = match["words"].split()
        name = " ".join(words) if " ".join(words) in COMMANDS else words[0]
        command = COMMANDS.get(name)
        if command is None:
            wrong += [] if words[0] == "records" else [name]
            continue
        rest = match["rest"].split(" | ")[0]
        wrong += [f"{name} {option}" for option in _OPTION.findall(rest) if option not in options(command)]
    assert wrong == []
