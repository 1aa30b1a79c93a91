"""A reload: the configuration is read again, and compared with the one that the daemon runs with."""

from __future__ import annotations

import dataclasses
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

from ringfeedd.config.changes import Changes
from ringfeedd.config.checks import conflicts
from ringfeedd.config.load import Loaded
from ringfeedd.config.settings import Config
from ringfeedd.errors import DaemonError

T = TypeVar("T")

_LOG: Final = logging.getLogger("ringfeedd")


@dataclass(frozen=True)
class Reloaded(Generic[T]):
    """A configuration that was read again and is valid.

    Attributes:
        config: with what a running daemon takes; the rest is as before.
        token: that requests to the status page must send; None: none.
    """

    config: Config
    changes: Changes
    token: T | None


def read_again(read: Callable[[], Loaded], running: Config, read_token: Callable[[str], T]) -> Reloaded[T] | None:
    """Read the configuration again; None, with one line in the log, where it has an error.

    Args:
        read: reads all sources; raises ConfigError.
        running: of the daemon at this moment.
        read_token: reads the file of the status page's token; raises ConfigError.
    """
    try:
        loaded = read()
        changes = Changes.between(running, loaded.config)
        config = changes.applied(running)
        if faults := [sentence for _, sentence in conflicts(_plain(config), os.environ)]:
            what_waits = ", ".join(changes.later)
            faults.append(f"with the settings that need a restart ({what_waits}) as they are, the others contradict")
            raise DaemonError(*faults)
        token = read_token(config.http_token_file) if config.http_token_file else None
    except DaemonError as error:
        _LOG.error(
            "reload: the configuration has errors, and all settings stay as they are: %s", "; ".join(error.sentences)
        )
        return None
    for warning in loaded.warnings:
        _LOG.warning("reload: %s", warning)
    return Reloaded(config, changes, token)


def _plain(config: Config) -> dict[str, Any]:
    return {each.name: getattr(config, each.name) for each in dataclasses.fields(config)}
