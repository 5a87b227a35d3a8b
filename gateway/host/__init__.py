"""The host role: an NVE with VM ports."""
