"""The configuration read once more, and which of its changes a running appliance can take."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator

import msgspec
import trio

from gateway.operating.commands import Asker, Command, Commands, Nothing
from policies.errors import ConfigurationError, Problem
from policies.model import Appliance, Tenant

# A tenant's sites, and what may name them.
_TAKEN = ("sites", "routes", "access")
_TAKEN_WORDS = "sites, routes and access rules"


class Reload:
    """Takes a changed configuration over, whole or not at all."""

    def __init__(
        self,
        running: Appliance,
        reread: Callable[[], Appliance],
        take: Callable[[Appliance], Awaitable[None]],
        *,
        takes_part: bool = False,
    ) -> None:
        """`takes_part` in the lookup service: then all of the network can be taken, and other VM ports."""
        self._running = running
        self._reread = reread
        self._take = take
        self._takes_part = takes_part
        self._one_at_a_time = trio.Lock()

    def commands(self) -> Commands:
        """What can be asked of it."""

        async def answer(_asker: Asker, _wanted: Nothing) -> str:
            return await self.reload()

        return {"reload": Command(answer, for_operators=True)}

    async def reload(self) -> str:
        """Read the configuration, and take what has changed. If it raises ConfigurationError, nothing has."""
        async with self._one_at_a_time:
            wanted = await trio.to_thread.run_sync(self._reread)
            check_reloadable(self._running, wanted, takes_part=self._takes_part)
            await self._take(wanted)
            self._running = wanted
        return "reloaded"


def check_reloadable(running: Appliance, wanted: Appliance, *, takes_part: bool = False) -> None:
    """Refuse what would need a restart. Raises ConfigurationError with all of it.

    Tenants' sites, routes and access rules may change, and for who takes part in the lookup service all
    of the network, the host's VM ports, and the tokens and certificates that are known.
    """
    if takes_part:
        can_be = "the network, the host's ports and who may ask"
        problems = list(_node_problems(_for_good(running), _for_good(wanted), can_be))
    else:
        problems = [*_node_problems(running, wanted), *_network_problems(running, wanted)]
    if problems:
        raise ConfigurationError(problems)


def _node_problems(running: Appliance, wanted: Appliance, can_be: str = _TAKEN_WORDS) -> Iterator[Problem]:
    for key in Appliance.__struct_fields__:
        if key != "network" and getattr(running, key) != getattr(wanted, key):
            yield _restart(key, can_be)


def _for_good(appliance: Appliance) -> Appliance:
    """What who takes part in the lookup service cannot change while it runs."""
    host, lookup = appliance.host, appliance.lookup
    return msgspec.structs.replace(
        appliance,
        host=host and msgspec.structs.replace(host, ports=()),
        lookup=lookup and msgspec.structs.replace(lookup, credentials=()),
    )


def _network_problems(running: Appliance, wanted: Appliance) -> Iterator[Problem]:
    for key in ("hosts", "gateways"):
        if getattr(running.network, key) != getattr(wanted.network, key):
            yield _restart(f"provider_{key.removesuffix('s')}")
    before = {tenant.name: tenant for tenant in running.network.tenants}
    after = {tenant.name: tenant for tenant in wanted.network.tenants}
    for name in sorted(before.keys() ^ after.keys()):
        yield _restart(f"tenant[{name}]")
    for name in sorted(before.keys() & after.keys()):
        for key in Tenant.__struct_fields__:
            if key not in _TAKEN and getattr(before[name], key) != getattr(after[name], key):
                yield _restart(f"tenant[{name}].{key}")


def _restart(path: str, can_be: str = _TAKEN_WORDS) -> Problem:
    return Problem(path, f"has changed, which needs a restart; {can_be} can be reloaded")
