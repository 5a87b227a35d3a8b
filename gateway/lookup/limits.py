"""How much the HTTP interface takes and says at once: those who serve it and its clients keep to the same."""

from __future__ import annotations

MOST_RESOLVED = 1000
MOST_LISTED = 1000
"""Records or leases of a page."""
MOST_HINTS = 1000
MOST_RETURNED = 1000
"""Provider addresses returned in one request."""
LARGEST_NUMBER = (1 << 63) - 1
"""Of epochs, revisions and the sizes of pools."""
