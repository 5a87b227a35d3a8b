"""Formats on the wire: bytes to frozen values and back, without state and without a clock."""
