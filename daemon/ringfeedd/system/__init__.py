"""Thin layers over the operating system: processes, signals, limits, systemd, clocks."""
