"""docs/configuration.md knows every key, and shows what is really said."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from policies.config import parse, reader
from policies.errors import ConfigurationError

DOCUMENT = (Path(__file__).parents[2] / "docs" / "configuration.md").read_text()


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


# Every table with a key that is like none of its own, so that it says which it knows.
ASKING = "".join(
    f"{header}\nQQQQ = 1\n"
    for header in (
        "[appliance]",
        "[underlay]",
        "[gateway]",
        "[lookup]",
        "[lookup.tls]",
        "[lookup.etcd]",
        "[[lookup.token]]",
        "[[lookup.certificate]]",
        "[api]",
        "[host]",
        "[host.openvswitch]",
        "[[host.port]]",
        "[[provider_host]]",
        "[[provider_gateway]]",
        "[[tenant]]",
        "[[tenant.subnet]]",
        "[[tenant.record]]",
        "[[tenant.site]]",
        "[tenant.site.ike]",
        "[tenant.site.lifetimes]",
        "[[tenant.route]]",
        "[[tenant.access]]",
        "[tenant.limits]",
    )
)
TABLES_IN_TABLES = {
    *("tls", "etcd", "token", "certificate", "openvswitch", "port"),
    *("access", "ike", "lifetimes", "limits", "record", "route", "site", "subnet"),
}


def test_every_key_of_every_table_is_in_the_document(monkeypatch: pytest.MonkeyPatch) -> None:
    # All that are known, where people are told a dozen.
    monkeypatch.setattr(reader, "listed", lambda words: ", ".join(sorted(words)))
    sections = dict(re.findall(r"^### `\[+([\w.]+)\]+`\n(.*?)(?=^##)", DOCUMENT, re.DOTALL | re.MULTILINE))
    with pytest.raises(ConfigurationError) as caught:
        parse(ASKING)
    known = {
        problem.path.replace("[#1]", "").removesuffix(".QQQQ"): problem.message.partition("known: ")[2].split(
            ", "
        )
        for problem in caught.value.problems
        if problem.path.endswith(".QQQQ")
    }

    assert len(known) == ASKING.count("QQQQ")
    for table, keys in known.items():
        section, inner = table, ""
        if table.startswith("tenant.site."):
            section, inner = "tenant.site", table.removeprefix("tenant.site.") + "."
        written = [f"`{inner}{key}`" for key in keys if key not in TABLES_IN_TABLES and key != "none"]
        assert not [key for key in written if key not in sections[section]], table
