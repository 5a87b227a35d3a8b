"""Open vSwitch as a host's data path: its flows, its commands, and the driver that keeps both right."""
