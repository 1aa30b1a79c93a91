"""What a reload may change in a running daemon, and what waits for a restart. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from ringfeedd.config.kinds import literal
from ringfeedd.config.settings import SETTINGS, Config


@dataclass(frozen=True)
class Changes:
    """The settings that differ between two configurations.

    Attributes:
        now: name -> new value, of those that a running daemon takes.
        later: name -> new value, of those that need a restart.
    """

    now: Mapping[str, Any]
    later: Mapping[str, Any]

    @classmethod
    def between(cls, running: Config, read: Config) -> Changes:
        """Compare the configuration of a running daemon with one that was just read."""
        differing = {name: getattr(read, name) for name in SETTINGS if getattr(read, name) != getattr(running, name)}
        return cls(
            {name: value for name, value in differing.items() if SETTINGS[name].reload},
            {name: value for name, value in differing.items() if not SETTINGS[name].reload},
        )

    def applied(self, running: Config) -> Config:
        """Return the configuration with which the daemon goes on."""
        return replace(running, **self.now)

    def sentence(self) -> str:
        """Return what changes, for the log."""
        parts = []
        if self.now:
            parts.append(f"changed {_listed(self.now)}")
        if self.later:
            parts.append(f"after a restart only: {_listed(self.later)}")
        return "; ".join(parts) or "no setting has changed"


def _listed(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{SETTINGS[name].key} = {literal(value)}" for name, value in values.items())
