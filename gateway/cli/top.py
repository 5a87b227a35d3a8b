"""The command `top`."""

from __future__ import annotations

import os
import select
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import App, Parameter
from cyclopts.validators import Number

from gateway.cli.command_line import INSTALLED, LOOK, ask, is_terminal, say_json
from policies.errors import ConfigurationError, Problem

if TYPE_CHECKING:
    from gateway.operating.rates import Order, Rates, Row
    from gateway.operating.status import Traffic

Seconds = Annotated[float, Parameter(validator=Number(gte=0.2, lte=3600))]
# Seconds until something is shown in a terminal.
_FIRST_LOOK = 0.5


def register(app: App) -> None:
    """Add this command to the command line."""
    app.command(top, group=LOOK)


def top(
    file: Path = INSTALLED,
    *,
    tenant: str | None = None,
    sort: Literal["bits", "packets", "tenant"] = "bits",
    interval: Seconds = 1.0,
    once: bool = False,
    json: bool = False,
) -> int:
    """Show what the appliance that runs by FILE carries now, of each tenant, subnet and site, and drops.

    In a terminal it goes on until q is pressed; b, p and t sort by bits, packets and the tenant's
    name. Else, and in a terminal that can place nothing (TERM=dumb), it prints plain lines, every
    interval anew.

    Parameters
    ----------
    file
        The configuration, appliance.toml.
    tenant
        Only this tenant.
    sort
        bits, packets or tenant.
    interval
        Seconds between two looks.
    once
        Look twice, and end.
    json
        Print one JSON object a line, for each interval.
    """
    looks = _Looks(file, tenant, interval)
    with suppress(KeyboardInterrupt, BrokenPipeError):
        if is_terminal() and not (once or json or _is_dumb()):
            _live(looks, sort)
            return 0
        for rates in looks:
            if json:
                say_json(rates)
            else:
                for line in _lines(rates, sort):
                    print(line)
                sys.stdout.flush()
            if once:
                break
    return 0


class _Looks:
    """The rates between each look and the one before."""

    def __init__(self, file: Path, tenant: str | None, interval: float) -> None:
        self._file = file
        self._tenant = tenant
        self.interval = interval
        self._before = self._look()
        tenants = {subnet.tenant for subnet in self._before.subnets}
        tenants |= {site.tenant for site in self._before.sites}
        if tenant is not None and tenant not in tenants:
            known = ", ".join(sorted(tenants)) or "none"
            raise ConfigurationError([Problem("tenant", f"there is no {tenant}; there are: {known}")])

    def next(self) -> Rates:
        """Look again."""
        from gateway.operating.rates import Rates, between

        after = self._look()
        rates, self._before = between(self._before, after), after
        if self._tenant is None:
            return rates
        return Rates(
            rates.seconds,
            [row for row in rates.rows if row.tenant == self._tenant],
            [drop for drop in rates.drops if drop.tenant == self._tenant],
        )

    def __iter__(self) -> Iterator[Rates]:
        while True:
            time.sleep(self.interval)
            yield self.next()

    def _look(self) -> Traffic:
        import msgspec

        from gateway.operating.status import Traffic

        return msgspec.convert(ask(self._file, "traffic"), Traffic)


def _lines(rates: Rates, order: Order) -> Iterator[str]:
    from gateway.operating.rates import ordered

    if not rates.rows:
        yield "this appliance carries packets of no tenant"
        return
    yield f"{'':<28}{'from there':>22}{'to there':>22}"
    for row in ordered(rates.rows, order):
        name, *numbers = _cells(row)
        yield f"{name:<28}" + "".join(f"{number:>11}" for number in numbers)
    for drop in rates.drops:
        whose = f" of {drop.tenant}" if drop.tenant else ""
        yield f"dropped {_number(drop.packets)}/s {drop.reason}{whose}"
    yield ""


def _cells(row: Row) -> tuple[str, str, str, str, str]:
    name = row.tenant if row.kind == "tenant" else f"  {row.name}"
    if row.is_up is False:
        name += " (DOWN)"
    return (
        name,
        f"{_number(row.from_packets)} p/s",
        f"{_number(row.from_bits)}b/s",
        f"{_number(row.to_packets)} p/s",
        f"{_number(row.to_bits)}b/s",
    )


def _number(value: float) -> str:
    for unit in ("", "k", "M"):
        if value < 1000:
            return f"{value:.0f}{unit}" if not unit or value >= 100 else f"{value:.1f}{unit}"
        value /= 1000
    return f"{value:.1f}G"


def _is_dumb() -> bool:
    """Whether the terminal only writes on: over a serial line, or in an editor."""
    return os.environ.get("TERM", "dumb") in {"", "dumb", "unknown"}


def _live(looks: _Looks, order: Order) -> None:
    from rich.live import Live

    orders: dict[str, Order] = {"b": "bits", "p": "packets", "t": "tenant"}
    with _keys() as pressed, Live(screen=True, auto_refresh=False) as live:
        time.sleep(min(looks.interval, _FIRST_LOOK))
        rates, due = looks.next(), time.monotonic() + looks.interval
        while True:
            now = time.monotonic()
            if now >= due:
                rates, due = looks.next(), now + looks.interval
            live.update(_table(rates, order), refresh=True)
            key = pressed(max(0.0, due - time.monotonic()))
            if key in ("q", "Q", "\x03"):
                return
            order = orders.get(key, order)


def _table(rates: Rates, order: Order) -> Any:
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    from gateway.operating.rates import ordered

    table = Table(title=f"sorted by {order}; b p t sort, q quits", title_justify="left", expand=True)
    table.add_column("tenant, subnet or site")
    for heading in ("from there p/s", "b/s", "to there p/s", "b/s"):
        table.add_column(heading, justify="right")
    for row in ordered(rates.rows, order):
        style = "bold" if row.kind == "tenant" else "red" if row.is_up is False else ""
        table.add_row(*_cells(row), style=style)
    drops = [
        Text(f"dropped {_number(drop.packets)}/s {drop.reason} {drop.tenant}", style="yellow")
        for drop in rates.drops
    ]
    return Group(table, *drops)


@contextmanager
def _keys() -> Iterator[Any]:
    """Have keys heard as they are pressed: yields what waits for one, for so many seconds."""
    import termios
    import tty

    if not sys.stdin.isatty():
        yield _nothing
        return
    before = termios.tcgetattr(sys.stdin)
    try:
        tty.setcbreak(sys.stdin)
        yield _key
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)


def _key(seconds: float) -> str:
    ready, _, _ = select.select([sys.stdin], [], [], seconds)
    return os.read(sys.stdin.fileno(), 1).decode(errors="replace") if ready else ""


def _nothing(seconds: float) -> str:
    time.sleep(seconds)
    return ""
