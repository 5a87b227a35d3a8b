"""The packet's way: pure decisions, without sockets and without a clock."""
