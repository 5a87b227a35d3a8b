from __future__ import annotations

from gateway.sites.ledger import REMEMBERED, Ledger, Turn
from policies.addresses import ProviderAddress
from policies.ipsec import Encryption, Group, IkeSuite, Prf
from tunnels.effects import Endpoint, Path, SiteDown, SiteRekeyed, SiteTrouble, SiteUp

SEATTLE, OSLO = ("red", "seattle"), ("blue", "oslo")
SUITE = IkeSuite(Encryption.AES_256_GCM, None, Prf.SHA2_384, Group.X25519)
PATH = Path(
    Endpoint(ProviderAddress.parse("192.0.2.254"), 500), Endpoint(ProviderAddress.parse("203.0.113.7"), 500)
)
UP = SiteUp(SEATTLE, SUITE, PATH)


def ledger() -> Ledger:
    made = Ledger()
    made.configure([SEATTLE, OSLO], now=100)
    return made


def test_site_that_never_came_up_is_down_since_it_was_configured() -> None:
    entry = ledger().entries[SEATTLE]

    assert (entry.is_up, entry.since, entry.last_error) == (False, 100, None)


def test_site_is_up_once_packets_can_be_sent_there_and_not_before() -> None:
    book = ledger()
    assert book.note(UP, now=110) == Turn(110, "authenticated", f"{SUITE}, {PATH}")
    assert not book.entries[SEATTLE].is_up
    assert book.carries(SEATTLE, "all", now=111) == Turn(111, "up", "all")
    assert book.carries(SEATTLE, "all", now=112) is None

    assert (book.entries[SEATTLE].is_up, book.entries[SEATTLE].since) == (True, 111)


def test_ups_and_downs_are_dated_and_the_last_error_stays() -> None:
    book = ledger()
    book.carries(SEATTLE, "all", now=110)
    assert book.carries(SEATTLE, None, now=120) is None
    book.note(SiteDown(SEATTLE, "no answer"), now=120)
    assert (book.entries[SEATTLE].is_up, book.entries[SEATTLE].since) == (False, 120)
    book.carries(SEATTLE, "all", now=130)
    entry = book.entries[SEATTLE]

    assert (entry.is_up, entry.since) == (True, 130)
    assert entry.last_error == Turn(120, "down", "no answer")
    assert [turn.what for turn in entry.history] == ["up", "down", "up"]
    assert not book.entries[OSLO].history


def test_failures_are_counted_until_the_peer_has_proved_itself() -> None:
    book = ledger()
    for now in (110, 120):
        book.note(SiteTrouble(SEATTLE, "the peer accepted none of our proposals"), now=now)
    assert book.entries[SEATTLE].failures == 2
    book.note(UP, now=130)

    assert book.entries[SEATTLE].failures == 0


def test_the_same_trouble_again_is_no_news_but_the_last_error_is_dated_anew() -> None:
    book = ledger()
    trouble = SiteTrouble(SEATTLE, "no answer")

    assert book.note(trouble, now=110) == Turn(110, "trouble", "no answer")
    assert book.note(trouble, now=111) is None
    assert book.entries[SEATTLE].last_error == Turn(111, "trouble", "no answer")
    assert len(book.entries[SEATTLE].history) == 1


def test_history_is_bounded() -> None:
    book = ledger()
    for number in range(1000):
        book.note(SiteTrouble(SEATTLE, f"trouble {number}"), now=number)

    assert len(book.entries[SEATTLE].history) == REMEMBERED


def test_rekeys_are_counted_apart() -> None:
    book = ledger()
    for what in ("ike", "net", "net"):
        assert book.note(SiteRekeyed(SEATTLE, what), now=110) is None
    entry = book.entries[SEATTLE]

    assert (entry.ike_rekeys, entry.child_rekeys) == (1, 2)


def test_reload_keeps_what_is_known_of_sites_that_stay() -> None:
    book = ledger()
    book.carries(SEATTLE, "all", now=110)
    book.configure([SEATTLE], now=200)

    assert book.entries[SEATTLE].since == 110
    assert OSLO not in book.entries
    assert book.note(SiteTrouble(OSLO, "late"), now=210) is None


def test_site_that_was_down_before_a_restart_is_down_since_then_and_shows_why() -> None:
    past = [Turn(50, "up", "all"), Turn(60, "down", "no answer"), Turn(61, "trouble", "refused")]
    book = Ledger({SEATTLE: past})
    book.configure([], now=99)  # who follows a lookup service hears of its sites later
    book.configure([SEATTLE, OSLO], now=100)

    assert book.entries[SEATTLE].since == 60
    assert list(book.entries[SEATTLE].history) == past
    assert book.entries[OSLO].since == 100

    book.configure([OSLO], now=110)
    book.configure([SEATTLE], now=120)
    assert book.entries[SEATTLE].since == 120
    assert not book.entries[SEATTLE].history


def test_site_that_was_up_before_a_restart_is_down_since_the_restart() -> None:
    book = Ledger(
        {SEATTLE: [Turn(50, "down", "no answer"), Turn(60, "up", "all"), Turn(70, "trouble", "late")]}
    )
    book.configure([SEATTLE], now=100)
    assert book.entries[SEATTLE].since == 100


def test_site_that_was_never_up_is_down_since_the_first_that_is_known_of_it() -> None:
    book = Ledger({SEATTLE: [Turn(50, "trouble", "no answer"), Turn(60, "trouble", "refused")]})
    book.configure([SEATTLE], now=100)
    assert book.entries[SEATTLE].since == 50


def test_site_is_not_down_since_a_time_that_is_still_to_come() -> None:
    book = Ledger({SEATTLE: [Turn(5000, "down", "no answer")]})  # the clock was set back
    book.configure([SEATTLE], now=100)
    assert book.entries[SEATTLE].since == 100
