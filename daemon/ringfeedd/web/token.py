"""The token that requests have to bring, in a file that is read again when it changes."""

from __future__ import annotations

import logging
import os
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from ringfeedd.errors import ConfigError
from ringfeedd.system.files import read_regular

LEAST_TOKEN_CHARACTERS: Final = 16
MOST_TOKEN_BYTES: Final = 4096

LOOK_EVERY_S: Final = 1.0
"""Shortest time between two looks at the file."""

_LOG: Final = logging.getLogger("ringfeedd.web")


class TokenFile:
    """The token as the file has it now. A file that holds none leaves the token that was read last in force."""

    def __init__(self, path: str, clock: Callable[[], float] = time.monotonic) -> None:
        """Read it.

        Raises:
            ConfigError: see `read_token`.
        """
        self._path, self._clock = path, clock
        self._looked, self._facts = clock(), _facts(path)
        self._token = read_token(path)

    def __call__(self) -> str:
        """The token; what is wrong with a new file is logged once."""
        now = self._clock()
        if now - self._looked < LOOK_EVERY_S:
            return self._token
        self._looked = now
        if (facts := _facts(self._path)) == self._facts:
            return self._token
        self._facts = facts
        try:
            token = read_token(self._path)
        except ConfigError as error:
            _LOG.warning("%s; the token that was read before it stays in force", error)
            return self._token
        if token != self._token:
            self._token = token
            _LOG.info("http_token_file: %s has a new token; sessions of the old one have ended", self._path)
        return self._token


def _facts(path: str) -> tuple[int, ...] | None:
    """What tells a changed file from an unchanged one; None where there is none."""
    try:
        found = Path(path).stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def read_token(path: str) -> str:
    """The token that requests have to bring.

    Raises:
        ConfigError: the file cannot be read, others can read it, or what is in it is not a token.
    """
    file = Path(path)
    try:
        text, facts = read_regular(file, MOST_TOKEN_BYTES)
    except OSError as error:
        raise ConfigError(f"http_token_file: could not read {file}: {error.strerror}") from error
    if facts.st_mode & stat.S_IRWXO or facts.st_uid not in (os.geteuid(), 0):
        raise ConfigError(
            f"http_token_file: {file} is not kept secret (mode {stat.S_IMODE(facts.st_mode):04o}, owner "
            f"{facts.st_uid}); it must be this user's or root's, and closed to others: `chmod o= {file}`"
        )
    token = text.decode("ascii", errors="replace").strip()
    if not LEAST_TOKEN_CHARACTERS <= len(token) < MOST_TOKEN_BYTES or not token.isascii() or not token.isprintable():
        raise ConfigError(
            f"http_token_file: {file} must hold one line of at least {LEAST_TOKEN_CHARACTERS} printable ASCII "
            f"characters; make one with `openssl rand -hex 32`"
        )
    return token
