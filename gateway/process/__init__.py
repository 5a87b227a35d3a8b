"""The process and the machine that it runs on: privileges, signals, the service manager, its end."""
