"""docs/configuration.md knows every key, and shows what is really said."""

from __future__ import annotations

import re
import tomllib

import pytest

from docs.generate import ALIKE, ASKERS, ASKING, CONFIGURATION, configuration, meanings
from policies.config import parse
from policies.config.schema import KeySchema, tables
from policies.errors import ConfigurationError

DOCUMENT = CONFIGURATION.read_text()


def test_the_mistakes_that_the_document_shows_are_said_so() -> None:
    _, broken = re.findall(r"```toml\n(.*?)```", DOCUMENT, re.DOTALL)
    answers = re.findall(r"\$ isthmus check broken.toml\n(.*?)isthmus: \d+ problem", DOCUMENT, re.DOTALL)

    for text, answer in zip((broken, "[appliance]\nname = \n"), answers, strict=True):
        with pytest.raises(ConfigurationError) as caught:
            parse(text)
        assert f"{caught.value}\n" == answer


def test_the_host_that_the_document_shows_is_sound() -> None:
    host, _ = re.findall(r"```toml\n(.*?)```", DOCUMENT, re.DOTALL)

    assert parse(host).lookup_access is not None


EACH_KEY = [(table.path, key) for table in tables() for key in table.keys]


def section(path: str, key: KeySchema) -> str:
    """Where a key's meaning is told."""
    return "asking" if path in ASKERS and key.name in ASKING else ALIKE.get(path, path)


def parsed(key: KeySchema, written: str) -> object:
    """What the code that reads the file makes of what the document shows."""
    value = tomllib.loads(f"value = {written}")["value"]
    return tuple(map(key.parse, value)) if key.is_list else key.parse(value)


def test_the_tables_of_keys_are_as_the_code_has_them() -> None:
    assert configuration(DOCUMENT, meanings()) == DOCUMENT, "run: make docs"


def test_every_table_is_in_the_document_and_no_other() -> None:
    shown = {path for match in re.findall(r"<!-- keys: ([\w. ]+) -->", DOCUMENT) for path in match.split()}

    assert shown == {ALIKE.get(table.path, table.path) for table in tables() if table.keys} | {"asking"}


def test_every_meaning_is_that_of_a_key() -> None:
    told = {(path, name) for path, keys in meanings().items() for name in keys}

    assert told == {(section(path, key), key.name) for path, key in EACH_KEY}


@pytest.mark.parametrize(
    ("path", "key"), [pytest.param(*each, id=f"{each[0]}.{each[1].name}") for each in EACH_KEY]
)
def test_an_example_is_one_and_a_default_is_the_one_that_is_taken(path: str, key: KeySchema) -> None:
    words = meanings()[section(path, key)][key.name]
    parsed(key, words["example"])
    default = words.get("default", "")
    if default.startswith("`") and key.default is not None:
        assert parsed(key, default.strip("`")) == key.default
