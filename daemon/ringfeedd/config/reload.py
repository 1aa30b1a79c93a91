"""A reload: what of a configuration that was read again a running daemon takes, and what waits for a restart. Pure."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from ringfeedd.config.checks import conflicts
from ringfeedd.config.kinds import literal
from ringfeedd.config.settings import SETTINGS, Config
from ringfeedd.errors import ConfigError


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


def check_applied(changes: Changes, config: Config) -> None:
    """Check what a running daemon takes against the settings that need a restart, which stay as they are.

    Args:
        config: with which the daemon would go on.

    Raises:
        ConfigError: the two contradict.
    """
    if faults := [
        sentence for _, sentence in conflicts({name: getattr(config, name) for name in SETTINGS}, os.environ)
    ]:
        what_waits = ", ".join(changes.later)
        raise ConfigError(
            *faults, f"with the settings that need a restart ({what_waits}) as they are, the others contradict"
        )
