"""The operating interface by HTTP: what a running appliance can be asked, its metrics and the dashboard."""
