"""Everything that an appliance can be asked, by the command line and by HTTP: one list."""

from __future__ import annotations

from gateway.changes.reload import OwnFile, Reload
from gateway.datapath import DataPath
from gateway.lookout import Lookout
from gateway.membership import Membership
from gateway.operating import moves, overview, status, tracing, trends
from gateway.operating.capture import Captures
from gateway.operating.commands import Commands
from gateway.operating.events import Events
from policies.model import Appliance


def commands_of(
    appliance: Appliance,
    path: DataPath | None,
    reload: Reload,
    happenings: Events,
    source: Membership | OwnFile,
    lookout: Lookout,
) -> Commands:
    """Everything that this appliance can be asked, by the command line and by HTTP."""
    how_it_is = status.commands(
        status.Running(
            appliance=appliance,
            started_at=lookout.reporter.started_at,
            wall_clock=lookout.wall_clock,
            clock=lookout.clock,
            path=path,
            report=lookout.reporter.report,
            last_minute=lookout.last_minute,
            configuration=lambda: reload.configuration,
            lookup=source.in_short if isinstance(source, Membership) else None,
        )
    )

    async def inventory() -> overview.Inventory:
        if path is None and isinstance(source, Membership):
            return await source.inventory()
        return overview.Inventory.of(source.appliance.network, path.held() if path is not None else {})

    shown = overview.Running(
        appliance=appliance, inventory=inventory, status=how_it_is["status"], clock=lookout.clock
    )
    return {
        **how_it_is,
        **overview.commands(shown, lookout.trends),
        **trends.commands(lookout.trends),
        **tracing.commands(path.explain if path is not None else None),
        **Captures(path, lookout.wall_clock).commands(),
        **happenings.commands(),
        **reload.commands(),
        **moves.commands(source.moves if isinstance(source, Membership) else None),
    }
