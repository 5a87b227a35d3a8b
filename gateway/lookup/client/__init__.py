"""The lookup service's client: for asyncio, for the command line, and for nodes that follow."""

from gateway.lookup.client.client import LookupClient

__all__ = ["LookupClient"]
