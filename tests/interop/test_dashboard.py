"""The dashboard in a real Chromium, told by a canned appliance: what it shows, when, and to whom."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from ipaddress import ip_network
from typing import Any

import msgspec
import pytest
from axe_playwright_python.sync_playwright import Axe  # type: ignore[import-untyped]
from playwright.sync_api import Browser, Locator, Page, expect

from gateway.http.principals import Principal
from gateway.operating.trends import Key, Rates
from gateway.sites.status import Moment
from policies.services import Role
from tests.interop import browser as chrome
from tests.interop.dashboard_server import DashboardServer
from tests.interop.dashboard_world import World, network, site_status, two_tenants

pytestmark = pytest.mark.interop

READER, OPERATOR = "reader-of-red-0123456789", "operator-0123456789abcd"
TOKENS = {
    READER: Principal("red-reader", Role.READER, frozenset({"red"})),
    OPERATOR: Principal("alice", Role.OPERATOR),
}
NOT_KNOWN = "\N{EN DASH}"
HOSTILE = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>"


@pytest.fixture(scope="module")
def browser(require_tools: Callable[..., None]) -> Iterator[Browser]:
    require_tools("chromium")
    with chrome.chromium() as browser:
        yield browser


@pytest.fixture
def world() -> World:
    return two_tenants(time.time())


@pytest.fixture
def server(world: World) -> Iterator[DashboardServer]:
    with DashboardServer(world) as server:
        yield server


@pytest.fixture
def guarded(world: World) -> Iterator[DashboardServer]:
    with DashboardServer(world, TOKENS) as server:
        yield server


def look(
    browser: Browser, server: DashboardServer, view: str = "#/", **settings: Any
) -> AbstractContextManager[Page]:
    return chrome.page(browser, server.url + view, **settings)


def go(page: Page, server: DashboardServer, view: str) -> None:
    """Show a view, and wait until it is there."""
    page.goto(server.url + view)
    page.wait_for_selector(f"main[data-shown='{view.removeprefix('#/')}']")


def label(of: Locator) -> str:
    """What is said of a picture to whoever does not see it."""
    return of.get_attribute("aria-label") or ""


def drawn_text(page: Page, selector: str) -> str:
    return page.locator(selector).text_content() or ""


def height(page: Page, selector: str) -> float:
    box = page.locator(selector).bounding_box()
    assert box is not None
    return box["height"]


def verdict(page: Page) -> str:
    return page.locator("#verdict").inner_text()


def test_the_picture_and_its_tables_show_the_whole_network(browser: Browser, server: DashboardServer) -> None:
    with look(browser, server) as page:
        page.wait_for_selector("svg.network")
        assert verdict(page) == "All is well"
        said = label(page.locator("svg.network"))
        assert said.startswith(
            "The network: 2 hosts, 4 virtual subnets of 2 tenants, 2 gateways, 3 sites: 2 up, 1 by another"
        )
        drawn = drawn_text(page, "svg.network")
        for name in (
            "hv1",
            "hv2",
            "red",
            "blue",
            "edge-1",
            "edge-2",
            "seattle",
            "tacoma",
            "boston",
            "15.2 Mbit/s",
        ):
            assert name in drawn
        page.get_by_text("The same as tables").press("Enter")
        sites = page.get_by_role("table", name="Sites")
        assert sites.get_by_role("row").count() == 4
        assert "15.2 Mbit/s" in sites.get_by_role("row", name="blue/boston").inner_text()


def test_a_site_that_goes_down_is_said_first_and_spoken(
    browser: Browser, server: DashboardServer, world: World
) -> None:
    with look(browser, server) as page:
        page.wait_for_selector("svg.network")
        assert page.locator("#spoken").inner_text() == ""
        world.break_site("red", "seattle", "no answer to 5 copies of IKE_SA_INIT")
        expect(page.locator("#spoken")).to_have_text("1 thing is wrong")
        assert verdict(page) == "1 thing is wrong"
        findings = page.locator(".findings").inner_text()
        assert "red/seattle is down" in findings
        assert "no answer to 5 copies of IKE_SA_INIT" in findings
        assert drawn_text(page, ".network .state.is-down").startswith("down 3 min")
        page.get_by_role("link", name="red/seattle").first.click()
        page.wait_for_selector("text=tries again in 12 s")
        assert page.evaluate("document.activeElement.tagName") == "H1"
        assert page.title() == "red / seattle · edge-1 · Isthmus"


def test_old_numbers_are_never_shown_as_current(browser: Browser, server: DashboardServer) -> None:
    with look(browser, server) as page:
        page.wait_for_selector("text=15.2 Mbit/s")
        server.is_away = True
        page.wait_for_selector("body.stale")
        assert "cannot answer yet: this node knows nothing yet" in page.locator("#banner").inner_text()
        assert "is old" in page.locator("#banner").inner_text()
        assert page.locator("#heard").inner_text().startswith("last heard ")
        assert verdict(page) == "It was: All is well"
        assert "Mbit/s" not in page.locator("main").inner_text()
        assert page.locator(".network .moves:visible").count() == 0
        page.goto(server.url + "#/sites")
        page.wait_for_selector("text=was up")
        server.is_away = False
        page.wait_for_selector("body:not(.stale)")
        assert page.locator("#heard").inner_text() == "live"
        page.wait_for_selector("td:has-text('15.2 Mbit/s')")


def test_an_appliance_that_has_gone_is_noticed(browser: Browser, world: World) -> None:
    with DashboardServer(world) as server, look(browser, server) as page:
        page.wait_for_selector("svg.network")
        server.stop()
        page.wait_for_selector("text=The appliance does not answer: nobody answers")


def test_names_and_messages_are_text_whatever_they_say(
    browser: Browser, server: DashboardServer, world: World
) -> None:
    hostile = msgspec.structs.replace(
        world.sites["red", "seattle"],
        state="down",
        last_error=Moment(world.now - 5, "trouble", f"the peer says {HOSTILE}"),
        history=[Moment(world.now - 5, "trouble", HOSTILE)],
        remote_id=HOSTILE,
    )
    world.sites["red", "seattle"] = hostile
    world.moves[0] |= {"host": HOSTILE, "subnet": HOSTILE}
    tenants = world.appliance.network.tenants
    renamed = msgspec.structs.replace(tenants[1], name=HOSTILE)
    network = world.appliance.network
    leasing = msgspec.structs.replace(
        network.hosts[-1], name=HOSTILE, pools=(ip_network("203.0.113.128/25"),)
    )
    world.appliance = msgspec.structs.replace(
        world.appliance,
        network=msgspec.structs.replace(
            network, hosts=(*network.hosts, leasing), tenants=(tenants[0], renamed)
        ),
    )
    server.tell(
        {
            "at": world.now,
            "event": "site-down",
            "level": "warning",
            "words": HOSTILE,
            "tenant": HOSTILE,
            "site": "",
        }
    )
    with look(browser, server) as page:
        for view in (
            "#/",
            "#/sites",
            "#/sites/red/seattle",
            "#/tenants",
            "#/records",
            "#/pools",
            "#/drops",
            "#/events",
        ):
            go(page, server, view)
            if view not in {"#/records", "#/drops"}:
                expect(page.locator("main")).to_contain_text("onerror")
            assert page.locator("main img, main script, body > script").count() == 0
            assert "owned" not in page.title()
        page.goto(server.url + "#/sites/%3Cimg%20src=x%20onerror=alert(1)%3E/x")
        page.wait_for_selector("text=There is no such site")
        page.goto(server.url + "#/%E0%A4%A")
        page.wait_for_selector("#verdict")


def test_a_reader_signs_in_and_sees_its_own_tenant_alone(browser: Browser, guarded: DashboardServer) -> None:
    with look(browser, guarded) as page:
        page.wait_for_selector("#token-form")
        assert page.evaluate("document.activeElement.id") == "token"
        page.keyboard.type("not-a-token-that-is-known")
        page.keyboard.press("Enter")
        page.wait_for_selector("text=does not know this token")
        page.fill("#token", READER)
        page.keyboard.press("Enter")
        page.wait_for_selector("#verdict")
        assert verdict(page) == "All is well with what you may see"
        for view in ("#/", "#/sites", "#/tenants", "#/records", "#/pools", "#/drops", "#/events"):
            go(page, guarded, view)
            assert "blue" not in page.content()
            assert "boston" not in page.content()
        assert READER not in page.content()
        assert page.evaluate("sessionStorage.getItem('isthmus-token')") == READER
        assert page.evaluate(
            "[document.cookie, localStorage.length, location.href.includes('reader-of')]"
        ) == ["", 0, False]
        page.reload()
        page.wait_for_selector("text=live")
        page.get_by_role("button", name="Forget the token").click()
        page.wait_for_selector("#token-form")
        assert page.evaluate("sessionStorage.getItem('isthmus-token')") is None
        assert page.locator("nav:visible").count() == 0


def test_a_token_that_is_taken_away_ends_the_view(browser: Browser, guarded: DashboardServer) -> None:
    with look(browser, guarded) as page:
        page.fill("#token", OPERATOR)
        page.keyboard.press("Enter")
        page.wait_for_selector("svg.network")
        guarded._door.credentials._by_digest.clear()
        guarded._door.credentials._by_subject["someone"] = TOKENS[READER]
        page.wait_for_selector("#token-form")
        assert page.locator("svg.network").count() == 0


def test_events_appear_as_they_happen(browser: Browser, server: DashboardServer, world: World) -> None:
    with look(browser, server, "#/events") as page:
        page.wait_for_selector("text=Live: new ones appear by themselves.")
        server.tell(
            {
                "at": world.now + 1,
                "event": "site-down",
                "level": "warning",
                "words": "down: the peer deleted it",
                "tenant": "red",
                "site": "seattle",
            }
        )
        page.wait_for_selector("ol.events li:first-child:has-text('the peer deleted it')")
        page.get_by_role("button", name="warnings and errors").click()
        expect(page.locator("ol.events li")).to_have_count(2)


def test_moves_appear_as_they_happen(browser: Browser, server: DashboardServer, world: World) -> None:
    with look(browser, server) as page:
        page.wait_for_selector("text=orchestrated")
        world.moves.insert(
            0,
            world.moves[0]
            | {"at": world.now, "host": "hv7", "epoch": 9, "seconds": None, "waiting": ["hv2"]},
        )
        server.tell(
            {
                "at": world.now + 1,
                "event": "moved",
                "level": "info",
                "words": "moved",
                "tenant": "red",
                "site": "",
            }
        )
        page.wait_for_selector("text=hv7")
        page.wait_for_selector("text=waits for hv2")


def test_records_are_found_by_address_and_by_anything_else(browser: Browser, server: DashboardServer) -> None:
    with look(browser, server, "#/records") as page:
        page.wait_for_selector("text=24 records")
        page.get_by_label("Address, MAC or host").fill("10.0.1.5")
        asked = len(server.asked)
        expect(page.locator("#heard")).to_have_text("live")
        while server.asked[asked:].count("/v1/overview") < 2:
            page.wait_for_timeout(100)
        page.keyboard.press("Enter")
        page.wait_for_selector("text=2 records of 10.0.1.5")
        assert any(path == "/v1/resolve" for path in server.asked)
        page.get_by_label("Address, MAC or host").fill("hv1")
        page.get_by_label("Tenant").select_option("red")
        page.get_by_role("button", name="Search").click()
        page.wait_for_selector("text=5 records with “hv1” among 12")
        page.get_by_label("Address, MAC or host").fill("nowhere")
        page.keyboard.press("Enter")
        page.wait_for_selector("text=None found.")


def test_pools_are_shown_with_those_first_that_have_least_left(
    browser: Browser, server: DashboardServer
) -> None:
    with look(browser, server, "#/pools") as page:
        rows = page.get_by_role("table", name="Pools").get_by_role("row")
        expect(rows).to_have_count(4)
        said = [rows.nth(at).inner_text().split() for at in range(1, 4)]
        assert said == [
            ["192.0.2.64/27", "edge-1", "none", "30", "0", "30"],
            ["198.51.100.128/25", "hv1,", "hv2", "111", "12", "3", "126"],
            ["192.0.2.96/27", "edge-2", *[NOT_KNOWN] * 4],
        ]


def test_how_vms_are_carried_is_shown_with_their_subnet_and_their_records(
    browser: Browser, server: DashboardServer
) -> None:
    with look(browser, server, "#/tenants/blue") as page:
        row = page.get_by_role("table", name="Virtual subnets").get_by_role("row", name="web")
        assert "rewritten" in row.inner_text()
        go(page, server, "#/tenants/red")
        assert "encapsulated" in page.get_by_role("table", name="Virtual subnets").inner_text()
        go(page, server, "#/records")
        page.get_by_label("Tenant").select_option("blue")
        page.get_by_role("button", name="Search").click()
        page.wait_for_selector("text=12 records")
        assert page.get_by_role("cell", name="rewritten").count() == 12


def test_reader_sees_the_pools_of_its_hosts_but_not_how_full_they_are(
    browser: Browser, guarded: DashboardServer
) -> None:
    with look(browser, guarded, "#/pools") as page:
        page.get_by_label("Token").fill(READER)
        page.keyboard.press("Enter")
        rows = page.get_by_role("table", name="Pools").get_by_role("row")
        expect(rows).to_have_count(4)
        assert NOT_KNOWN in rows.nth(1).inner_text()
        page.wait_for_selector("text=told to who sees every tenant")


def test_many_records_are_looked_through_in_bounded_steps(browser: Browser, world: World) -> None:
    wide = world.appliance.network.tenants[0].subnets[0]
    records = [
        {
            "vsid": wide.vsid,
            "ca": f"10.{at >> 16}.{at >> 8 & 255}.{at & 255}",
            "mac": "02:00:00:00:00:01",
            "pa": "198.51.100.11",
            "host": "hv1",
            "translation": "encap",
            "epoch": 1,
            "revision": 1,
        }
        for at in range(25_000)
    ]
    world.records = lambda query: iter(records)  # type: ignore[method-assign]
    with DashboardServer(world) as server, look(browser, server, "#/records") as page:
        page.wait_for_selector("text=and there are more")
        assert page.locator("tbody tr").count() == 200
        before = len(server.asked)
        page.get_by_label("Address, MAC or host").fill("no such thing")
        page.keyboard.press("Enter")
        page.wait_for_selector("text=among 20,000, and there are more")
        assert sum(path.startswith("/v1/records") for path in server.asked[before:]) == 20
        page.get_by_role("button", name="Look further").click()
        page.wait_for_selector("text=among 25,000")


def test_records_that_are_elsewhere_are_not_asked_for(browser: Browser) -> None:
    world = two_tenants(time.time())
    world.appliance = msgspec.structs.replace(world.appliance, lookup=None)
    with DashboardServer(world) as server, look(browser, server, "#/records") as page:
        page.wait_for_selector("text=This node serves no lookup service")
        assert not any(path.startswith("/v1/records") for path in server.asked)


def test_a_sites_view_shows_its_past(browser: Browser, server: DashboardServer) -> None:
    with look(browser, server, "#/sites/red/seattle") as page:
        page.wait_for_selector("text=Up 96.29 % of the 19 h 26 min watched; down 2 times, 43 min in all.")
        assert page.locator(".spell.is-down").count() == 2
        plot = page.get_by_role("img", name="Throughput of the last 15 min")
        assert "to the site: now 2.27 Mbit/s, mean 19.7 Mbit/s, highest 35.2 Mbit/s" in label(plot)
        page.get_by_role("button", name="24 hours").click()
        page.wait_for_selector("[aria-label^='Throughput of the last 24 h']")
        assert page.get_by_role("button", name="24 hours").get_attribute("aria-pressed") == "true"
        page.wait_for_selector("text=c1a2b3c4")


def test_three_hundred_nodes_are_drawn_in_rows_that_can_be_read(browser: Browser) -> None:
    tenants = {f"tenant-{number:03}": (("web", "db"), ("north", "south")) for number in range(300)}
    world = World(network(tenants, hosts=200), time.time())
    world.break_site("tenant-217", "south", "AUTHENTICATION_FAILED")
    with DashboardServer(world) as server, look(browser, server) as page:
        page.wait_for_selector("svg.network")
        drawn = drawn_text(page, "svg.network")
        assert "200 hosts" in drawn
        assert "tenant-217" in drawn
        assert "1 of 2 not up" in drawn
        assert "and 240 tenants more" in drawn
        assert page.locator(".network .lane").count() == 60
        assert height(page, "svg.network") < 2600


def test_an_empty_network_is_no_error(browser: Browser) -> None:
    world = World(network({}, hosts=0, gateways=()), time.time())
    with DashboardServer(world) as server, look(browser, server) as page:
        page.wait_for_selector("text=no tenants yet")
        for view in ("#/sites", "#/tenants", "#/drops", "#/events"):
            go(page, server, view)


def test_what_is_open_and_focused_stays_so_while_numbers_change(
    browser: Browser, server: DashboardServer, world: World
) -> None:
    with look(browser, server) as page:
        page.get_by_text("The same as tables").click()
        link = page.get_by_role("table", name="Sites").get_by_role("link", name="blue/boston")
        link.focus()
        world.rates[Key("blue", site="boston")] = Rates(1.0, 125_000.0, 1.0, 125.0)
        page.wait_for_selector("td:has-text('1.00 Mbit/s')")
        assert page.evaluate("document.activeElement.textContent") == "blue/boston"


def test_the_page_is_used_by_keyboard_alone(browser: Browser, server: DashboardServer) -> None:
    with look(browser, server) as page:
        page.wait_for_selector("svg.network")
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.textContent") == "Skip to the content"
        assert page.locator(".skip:focus").is_visible()
        seen = []
        for _ in range(9):
            page.keyboard.press("Tab")
            seen.append(page.evaluate("document.activeElement.textContent"))
            outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
            assert outline != "none", seen[-1]
        assert seen[:8] == [*IN_ORDER, "The same as tables"]
        page.locator("nav a", has_text="Drops").focus()
        page.keyboard.press("Enter")
        page.wait_for_selector("h1:has-text('Drops')")
        assert page.evaluate("document.activeElement.tagName") == "H1"


def test_nothing_moves_for_those_who_want_it_still(browser: Browser, server: DashboardServer) -> None:
    with look(browser, server) as page:
        page.wait_for_selector(".network .moves", state="attached")
        assert (
            page.evaluate("getComputedStyle(document.querySelector('.network .moves')).animationName")
            != "none"
        )
    with look(browser, server, reduced_motion="reduce") as page:
        page.wait_for_selector(".network .moves", state="attached")
        assert page.evaluate("document.getAnimations().length") == 0


EVERY_VIEW = (
    "#/",
    "#/sites",
    "#/sites/red/seattle",
    "#/tenants/red",
    "#/records",
    "#/pools",
    "#/drops",
    "#/events",
)
IN_ORDER = ("Network", "Sites", "Tenants", "Records", "Pools", "Drops", "Events")


@pytest.mark.parametrize(
    ("size", "scheme", "views"), [("laptop", "light", EVERY_VIEW), ("phone", "dark", EVERY_VIEW[:3])]
)
def test_views_are_accessible(
    browser: Browser, server: DashboardServer, world: World, size: str, scheme: str, views: tuple[str, ...]
) -> None:
    world.break_site("red", "seattle", "no answer to 5 copies of IKE_SA_INIT")
    axe = Axe()
    rules = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]}
    with look(
        browser, server, size=chrome.LAPTOP if size == "laptop" else chrome.PHONE, scheme=scheme
    ) as page:
        for view in views:
            go(page, server, view)
            page.evaluate("document.querySelectorAll('details').forEach((each) => { each.open = true; })")
            results = axe.run(page, options=rules)
            assert results.violations_count == 0, f"{view}: {results.generate_report()}"
            width = page.evaluate(
                "document.documentElement.scrollWidth - document.documentElement.clientWidth"
            )
            assert width <= 0, f"{view} is wider than the {size}"


@pytest.mark.long
def test_screens_are_kept_as_pictures(browser: Browser, server: DashboardServer, world: World) -> None:
    for name, size, scheme, view in (
        ("laptop-light", chrome.LAPTOP, "light", "#/"),
        ("laptop-dark", chrome.LAPTOP, "dark", "#/"),
        ("phone-light", chrome.PHONE, "light", "#/"),
        ("phone-dark", chrome.PHONE, "dark", "#/"),
        ("site-detail", chrome.LAPTOP, "light", "#/sites/red/seattle"),
    ):
        with look(browser, server, view, size=size, scheme=scheme) as page:
            page.wait_for_selector("svg.network, .plot svg")
            page.wait_for_selector("ol.events li")
            assert chrome.screenshot(page, name).stat().st_size > 10_000
    world.sites["red", "seattle"] = site_status(
        "red", "seattle", world.now, "down", "no answer to 5 copies of IKE_SA_INIT", 192
    )
    with look(browser, server) as page:
        page.wait_for_selector(".network .state.is-down")
        page.wait_for_selector("ol.events li")
        assert chrome.screenshot(page, "site-down").stat().st_size > 10_000
