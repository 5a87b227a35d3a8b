"""Whether a cluster's history is still the one that we know: revisions mean nothing in another.

A cluster that was made anew, or restored from a backup, answers as if nothing had
happened. Its revisions are those of other changes. So nothing is read from it or
written to it until whoever follows the history has been told to begin anew.
"""

from __future__ import annotations

from gateway.lookup.etcd_wire import KeyValue


class OtherHistory(Exception):
    """What is there now is not what was there before. The message says how that shows."""


class Lineage:
    """The cluster that has answered, and how far its history has been seen."""

    def __init__(self) -> None:
        self.cluster = 0
        self.revision = 0
        self.era = 0
        """How often another history has been begun."""
        self.latest: KeyValue | None = None
        """The last change that was told."""

    def check(self, cluster: int, revision: int, at_least: int) -> None:
        """Take note of a linearizable answer to a question that was asked when `at_least` was known.

        Raises OtherHistory.
        """
        if self.cluster not in (0, cluster):
            raise OtherHistory(f"it is of the cluster {cluster:x}, not of {self.cluster:x}")
        if revision < at_least:
            raise OtherHistory(f"it is at revision {revision}, after having been at {at_least}")
        self.cluster = cluster
        self.revision = max(self.revision, revision)

    def forget(self) -> None:
        """Begin with whatever answers next."""
        self.cluster = 0
        self.revision = 0
        self.era += 1
        self.latest = None
