"""The lookup service: where each customer address is, and the network's configuration, for every node."""
