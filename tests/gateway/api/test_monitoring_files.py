"""docs/monitoring.md, the alert rules and the Grafana dashboard name what a scrape really has."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from docs.generate import MONITORING, metrics
from gateway.api.families import FAMILIES, Family, Kind
from tests.gateway.api.test_metrics import everything, scraped

DOCS = MONITORING.parent
RULES = DOCS / "prometheus" / "isthmus.rules.yml"
RULES_TEST = DOCS / "prometheus" / "isthmus.test.yml"
DASHBOARD = DOCS / "grafana" / "isthmus.json"
SETTINGS = DOCS / "prometheus" / "prometheus.yml"

BUILT_IN = {"instance", "job", "le", "alertname", "alertstate"}


def names(family: Family) -> Iterator[str]:
    if family.kind is not Kind.HISTOGRAM:
        yield family.name
    else:
        yield from (f"{family.name}{part}" for part in ("_bucket", "_count", "_sum"))


SERIES = {name: family for family in FAMILIES.values() for name in names(family)}


def queries() -> Iterator[str]:
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        yield from (target["expr"] for target in panel.get("targets", []))


@pytest.mark.parametrize("file", [RULES, RULES_TEST, DASHBOARD], ids=lambda file: file.name)
def test_every_metric_that_is_asked_for_is_in_a_scrape(file: Path) -> None:
    named = set(re.findall(r"isthmus_[a-z_]+", file.read_text()))

    assert named
    assert not named - SERIES.keys()


@pytest.mark.parametrize("file", [RULES, RULES_TEST, DASHBOARD], ids=lambda file: file.name)
def test_every_metric_is_asked_for_by_labels_that_it_has(file: Path) -> None:
    text = file.read_text().replace('\\"', '"')
    for name, labels in re.findall(r"(isthmus_[a-z_]+)\{([^{}]*)\}", text):
        used = set(re.findall(r"([a-z_]+)\s*(?:=~|=|!=)", labels))
        assert not used - set(SERIES[name].labels) - BUILT_IN, name


def test_dashboard_has_no_panel_over_another_and_none_without_a_name() -> None:
    taken: set[tuple[int, int]] = set()
    panels: list[dict[str, Any]] = json.loads(DASHBOARD.read_text())["panels"]
    for panel in panels:
        at = panel["gridPos"]
        cells = {(at["x"] + x, at["y"] + y) for x in range(at["w"]) for y in range(at["h"])}
        assert not cells & taken
        assert all(x < 24 for x, _ in cells)
        taken |= cells
        assert panel["title"]
    assert len({panel["id"] for panel in panels}) == len(panels)


def test_the_guide_has_the_metrics_as_they_are() -> None:
    assert metrics(MONITORING.read_text()) == MONITORING.read_text(), "make docs writes it anew"


def test_the_guide_says_of_every_alert_what_to_do() -> None:
    alerts = set(re.findall(r"alert: (\w+)", RULES.read_text()))

    assert alerts == set(re.findall(r"^\| `(Isthmus\w+)` \|", MONITORING.read_text(), re.MULTILINE))


def test_every_alert_is_tried() -> None:
    alerts = set(re.findall(r"alert: (\w+)", RULES.read_text()))

    assert alerts == set(re.findall(r"\bIsthmus\w+", RULES_TEST.read_text()))


def promtool(*arguments: str, stdin: str | None = None) -> str:
    found = subprocess.run(
        ["promtool", *arguments],
        input=stdin,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=60,
        check=False,
    )
    assert found.returncode == 0, found.stdout
    return found.stdout


def test_prometheus_reads_a_scrape_and_finds_nothing_to_blame(require_tools: Callable[..., None]) -> None:
    require_tools("promtool")

    assert not promtool("check", "metrics", stdin=scraped(everything()))


def test_prometheus_takes_the_rules_and_its_settings(require_tools: Callable[..., None]) -> None:
    require_tools("promtool")

    assert "26 rules found" in promtool("check", "rules", str(RULES))
    promtool("check", "config", "--syntax-only", str(SETTINGS))


def test_a_site_that_is_down_fires_and_nothing_does_where_all_is_well(
    require_tools: Callable[..., None],
) -> None:
    require_tools("promtool")

    promtool("test", "rules", str(RULES_TEST))


def test_prometheus_understands_every_query_of_the_dashboard(
    require_tools: Callable[..., None], tmp_path: Path
) -> None:
    require_tools("promtool")
    lines = ["groups:", "- name: dashboard", "  rules:"]
    for number, query in enumerate(queries()):
        filled = re.sub(r"\$[a-z]+", ".*", query.replace("$__rate_interval", "5m"))
        lines += [f"  - record: query_{number}", f"    expr: {json.dumps(filled)}"]
    file = tmp_path / "queries.yml"
    file.write_text("\n".join(lines))

    promtool("check", "rules", str(file))
