"""docs/http.md says what the interface is, and has an example of each call that is as the document asks."""

from __future__ import annotations

import re
import shlex

import msgspec
import pytest

from docs.generate import HTTP, everything_by_http, http
from gateway.api.table import OPERATIONS

DOCUMENT = msgspec.json.decode(everything_by_http())
TEXT = HTTP.read_text()


def test_reference_is_what_the_code_says() -> None:
    assert http(TEXT) == TEXT, "make docs writes it anew"


def test_every_command_of_the_table_is_there() -> None:
    for each in OPERATIONS:
        assert each.method.lower() in DOCUMENT["paths"][each.path], each.path


@pytest.mark.parametrize("each", OPERATIONS, ids=lambda each: f"{each.method} {each.path}")
def test_what_is_told_of_arguments_is_of_arguments_that_there_are(each: object) -> None:
    operation = DOCUMENT["paths"][each.path][each.method.lower()]  # type: ignore[attr-defined]
    named = {parameter["name"] for parameter in operation.get("parameters", ())}
    if "requestBody" in operation:
        named |= set(operation["requestBody"]["content"]["application/json"]["schema"]["properties"])
    assert {*each.about, *each.example} <= named  # type: ignore[attr-defined]
    assert not named & each.hidden  # type: ignore[attr-defined]


def test_every_example_is_a_command_of_a_shell() -> None:
    examples = re.findall(r"```sh\n(.*?)\n```", TEXT)
    assert len(examples) == sum(
        len(item.keys() & {"get", "put", "post", "delete"}) for item in DOCUMENT["paths"].values()
    )
    for example in examples:
        words = shlex.split(example)
        assert words[0] == "curl"
        if "-d" in words:
            msgspec.json.decode(words[words.index("-d") + 1])


def test_every_link_leads_somewhere() -> None:
    headings = set()
    for heading in re.findall(r"^#+ (.*)$", TEXT, re.MULTILINE):
        kept = "".join(each for each in heading.lower() if each.isalnum() or each in " -_")
        headings.add(kept.replace(" ", "-"))
    missing = {anchor for anchor in re.findall(r"\]\(#([^)]*)\)", TEXT) if anchor not in headings}
    assert not missing
