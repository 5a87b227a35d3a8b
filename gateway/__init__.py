"""The appliance: the packet's way, the underlay, the host role and the command line."""
