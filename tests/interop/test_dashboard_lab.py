"""The dashboard of a running gateway, in a Chromium on the same machine: sites, traffic, a move, an end."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from gateway.lab.demo_sites import SERVER, SitesDemo, with_sites
from gateway.lab.narration import Narrator
from gateway.lab.nodes import LOOKUP_PORT, OPERATOR, LookupPlan
from gateway.lab.premises import Internet
from gateway.lab.processes import Process
from gateway.lab.terminal import Terminal
from gateway.lab.topology import Datacenter, standard_plan
from tests.interop import browser as chrome
from tests.netns.moving import World

pytestmark = [pytest.mark.netns, pytest.mark.interop]

EDGE = "edge-1"
SOON = 15_000  # milliseconds that a page has on two busy cores


class Lab(World):
    """Two tenants with a site each, whose devices are an isthmus, too; and traffic between VMs and sites."""

    def __init__(self, lab: Datacenter, lookup: LookupPlan) -> None:
        super().__init__(lab, lookup)
        internet = Internet(lab)
        demo = SitesDemo(lab, Narrator(), Terminal(lab, Narrator()))
        self.devices: dict[str, Process] = {
            site.name: demo.start_isthmus(site, internet.premises(site.name, routed=False))
            for site in lab.plan.sites
        }

    @property
    def url(self) -> str:
        node = next(node for node in self.lab.plan.nodes if node.name == EDGE)
        return f"https://{node.provider_addresses[0]}:{LOOKUP_PORT}/"

    @property
    def token(self) -> str:
        return self.lookup.token_file(OPERATOR).read_text().strip()

    def chromium(self) -> str:
        """Return a command that starts it where the gateway is."""
        command = self.lab.directory / "chromium"
        inside = " ".join(self.lab.node(EDGE).command(shutil.which("chromium") or "chromium"))
        # Its pipes to whoever leads it are descriptors 3 and 4, which a shell hands on.
        command.write_text(f'#!/bin/sh\nexec {inside} "$@"\n')
        command.chmod(0o755)
        return str(command)

    def send(self, name: str, target: str) -> None:
        """Have a VM send to an address until the end."""
        words = ("-i", "0.02", "-s", "1200", target)
        self.lab.start(f"{name}-pings", self.lab.vm(name), shutil.which("ping") or "ping", *words)


@pytest.fixture(scope="module")
def lab(require_tools: Callable[..., None], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    require_tools("chromium", "ping")
    files: Path = tmp_path_factory.mktemp("lookup")
    with Datacenter(with_sites(standard_plan())) as datacenter:
        yield Lab(datacenter, LookupPlan(files, moving=("red-web1",)))


def test_what_happens_in_the_network_is_seen_as_it_happens(lab: Lab) -> None:
    lab.send("red-web1", SERVER)
    lab.send("blue-web1", "10.0.2.6")
    with (
        chrome.chromium(lab.chromium()) as browser,
        chrome.page(browser, lab.url, ignore_https_errors=True) as page,
    ):
        page.fill("#token", lab.token)
        page.keyboard.press("Enter")
        network_is_drawn(page)
        chrome.screenshot(page, "lab-network")
        move_is_shown(lab, page)
        site_is_drawn(lab, page)
        lab.devices["seattle"].stop()
        page.goto(lab.url + "#/")
        expect(page.locator("#verdict")).to_have_text("1 thing is wrong", timeout=SOON)
        expect(page.locator(".findings")).to_contain_text("red/seattle is down")
        expect(page.locator(".network .state")).to_have_text(re.compile(r"^down"))
        chrome.screenshot(page, "lab-site-down")
        lab.processes[EDGE].stop()
        expect(page.locator("#banner")).to_contain_text("The appliance does not answer", timeout=SOON)
        expect(page.locator("#heard")).to_have_text(re.compile(r"^last heard \d+ s ago$"))
        assert "bit/s" not in page.locator("main").inner_text()


def network_is_drawn(page: Page) -> None:
    """Hosts, subnets, the gateway and the sites; and the traffic on its way."""
    page.wait_for_selector("svg.network", timeout=SOON)
    drawn = page.locator("svg.network")
    for name in ("hv1", "hv2", "red", "blue", "web", "db", EDGE, "seattle", "boston"):
        expect(drawn).to_contain_text(name)
    expect(page.locator("#verdict")).to_have_text("All is well", timeout=SOON)
    expect(page.locator(".network .mark.is-up")).to_have_count(2, timeout=SOON)
    expect(page.locator(".network .moves.back").first).to_be_attached(timeout=SOON)
    expect(drawn).to_contain_text("kbit/s", timeout=SOON)


def move_is_shown(lab: Lab, page: Page) -> None:
    lab.mover.orchestrated(lab.vm("red-web1"), "hv2")
    moved = page.get_by_role("table", name="Records that changed their host")
    expect(moved).to_contain_text("hv1 → hv2", timeout=SOON)
    expect(moved).to_contain_text("orchestrated")
    page.goto(lab.url + "#/records")
    page.get_by_label("Address, MAC or host").fill("10.0.1.5")
    page.keyboard.press("Enter")
    expect(page.locator(".result")).to_contain_text("2 records of 10.0.1.5")
    expect(page.get_by_role("row").filter(has_text="red")).to_contain_text("hv2")


def site_is_drawn(lab: Lab, page: Page) -> None:
    page.goto(lab.url + "#/sites/red/seattle")
    expect(page.get_by_role("table", name="Child SAs")).to_contain_text("aes256gcm16", timeout=SOON)
    expect(page.get_by_role("img", name="Throughput")).to_have_attribute(
        "aria-label", re.compile(r"to the site: now \d+ kbit/s"), timeout=SOON
    )
    expect(page.locator(".spell.is-up").first).to_be_attached()
    chrome.screenshot(page, "lab-site")
