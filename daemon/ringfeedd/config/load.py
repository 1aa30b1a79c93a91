"""From flags, variables, a file and defaults to a `Config`: every error at once, and where each value comes from."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from ringfeedd.config.checks import conflicts
from ringfeedd.config.declaration import PREFIX, Setting
from ringfeedd.config.kinds import MustBeError, literal
from ringfeedd.config.settings import BY_KEY, RENAMED, SETTINGS, Config
from ringfeedd.config.toml_file import TomlFile
from ringfeedd.errors import ConfigError

CONFIG_VARIABLE: Final = f"{PREFIX}CONFIG"
"""The file, where no ``--config`` names one."""

_OTHER_VARIABLES: Final = (CONFIG_VARIABLE, f"{PREFIX}TRUSTED_USERS")
_TESTS: Final = tuple(f"{PREFIX}{word}" for word in ("FUZZ_", "TEST_", "BENCH_", "SOAK_"))

# What Kubernetes and Docker links put into every container next to a service that is called ringfeed.
_SERVICE: Final = re.compile(
    rf"{PREFIX}(?:\w+_)?(?:SERVICE_HOST|SERVICE_PORT(?:_\w+)?|PORT(?:_\d+_(?:TCP|UDP|SCTP)\w*)?)"
)

NO_ROOT: Final = (
    "no root is given; say what to serve: `ringfeed serve gs://bucket/prefix`, or root = in --config, or RINGFEED_ROOT"
)


@dataclass(frozen=True, order=True)
class Origin:
    """Where a value comes from.

    Attributes:
        rank: sources in the order in which their errors are shown.
        line: of the file; 0 elsewhere.
        where: ``default``, ``ringfeed.toml:3``, ``RINGFEED_SLOTS``, ``--slots``, or a program's name.
    """

    rank: int
    line: int
    where: str


DEFAULT: Final = Origin(0, 0, "default")


@dataclass(frozen=True)
class Loaded:
    """Settings, and where they come from.

    Attributes:
        origins: by the names of `Config`; what is missing has its default.
        warnings: sentences on what was passed over.
    """

    config: Config
    origins: Mapping[str, Origin]
    warnings: tuple[str, ...] = ()

    def origin(self, name: str) -> str:
        """Return where a setting's value comes from."""
        return self.origins.get(name, DEFAULT).where


@dataclass
class _Reading:
    """What was read so far."""

    values: dict[str, Any] = field(default_factory=dict)
    origins: dict[str, Origin] = field(default_factory=dict)
    errors: list[tuple[Origin, str]] = field(default_factory=list)
    invalid: set[str] = field(default_factory=set)

    def take(self, one: Setting, value: object, origin: Origin, spelled: str, *, from_text: bool) -> None:
        """Read one value, which wins over those that were read before.

        Args:
            spelled: name and value as they were given, for an error.
        """
        self.invalid.discard(one.name)
        self.origins[one.name] = origin
        try:
            self.values[one.name] = one.kind.read(value, from_text=from_text)
        except MustBeError as error:
            self.errors.append((origin, f"{spelled}: {error}"))
        except (ValueError, ConfigError) as error:
            self.errors.append((origin, str(error)))
        else:
            return
        self.invalid.add(one.name)

    def take_variables(self, environ: Mapping[str, str]) -> None:
        """Read the environment; an empty variable is as good as none."""
        for one in SETTINGS.values():
            if text := environ.get(one.variable, ""):
                self.take(one, text, Origin(2, 0, one.variable), f"{one.variable}={_short(text)}", from_text=True)


def load(
    path: Path | None,
    flags: Mapping[str, Any],
    environ: Mapping[str, str] | None = None,
    *,
    defaults: Mapping[str, Any] | None = None,
) -> Loaded:
    """Read all settings: flags win over variables, those over the file, that over defaults.

    Args:
        path: a TOML file.
        flags: by the names of `Config`; a text may stand for a number.
        environ: the variables; None: those of this process.
        defaults: what holds where no source says otherwise, instead of the table's defaults.

    Raises:
        ConfigError: with one sentence for each fault of all sources.
    """
    environ = os.environ if environ is None else environ
    reading = _Reading()
    for name, value in (defaults or {}).items():
        reading.take(SETTINGS[name], value, Origin(0, 0, "the service"), f"{name} = {literal(value)}", from_text=False)
    if path is not None:
        _read_file(reading, path)
    reading.take_variables(environ)
    for name, value in flags.items():
        one = SETTINGS[name]
        shown = f"{value:g}" if isinstance(value, float) else str(value)
        reading.take(one, value, Origin(3, 0, one.flag), f"{one.flag} {_short(shown)}", from_text=True)
    return Loaded(_config(reading, environ), reading.origins, tuple(unknown_variables(environ)))


def config_of(settings: Mapping[str, Any], where: str, environ: Mapping[str, str] | None = None) -> Config:
    """Return the configuration that a daemon has which a program starts with these settings.

    Args:
        where: what they are called in an error's sentence.
        environ: the variables, which the daemon inherits; None: those of this process.

    Raises:
        ConfigError: see `load`.
    """
    environ = os.environ if environ is None else environ
    reading = _Reading()
    reading.take_variables(environ)
    origin = Origin(3, 0, where)
    for name, value in settings.items():
        if name not in SETTINGS:
            reading.errors.append((origin, f"{where}: unrecognized setting {name}{_did_you_mean(name, SETTINGS)}"))
        else:
            shown = "None" if value is None else literal(value)
            reading.take(SETTINGS[name], value, origin, f"{where}: {name} = {shown}", from_text=True)
    return _config(reading, environ)


def config_path(environ: Mapping[str, str]) -> Path | None:
    """Return the file that ``RINGFEED_CONFIG`` names, or None."""
    return Path(text) if (text := environ.get(CONFIG_VARIABLE, "")) else None


def unknown_variables(environ: Mapping[str, str]) -> list[str]:
    """Return a sentence for each variable ``RINGFEED_*`` that nothing reads."""
    known = [*(one.variable for one in SETTINGS.values()), *_OTHER_VARIABLES]
    return [
        f"the environment variable {name} is not a setting, and is ignored{_did_you_mean(name, known)}"
        for name in sorted(environ)
        if name.startswith(PREFIX)
        and name not in known
        and not name.startswith(_TESTS)
        and not _SERVICE.fullmatch(name)
    ]


def _read_file(reading: _Reading, path: Path) -> None:
    file = TomlFile.read(path)

    def origin(line: int) -> Origin:
        return Origin(1, line, f"{path}:{line}")

    reading.errors += [(origin(fault.line), fault.sentence) for fault in file.faults]
    for key, value in file.values.items():
        at = origin(file.line(key))
        if (one := BY_KEY.get(key)) is not None:
            reading.take(one, value, at, f"{key} = {_short(literal(value))}", from_text=False)
        else:
            reading.errors.append((at, _unknown_key(key, value)))


def _unknown_key(key: str, value: object) -> str:
    table, _, name = key.rpartition(".")
    if any(known.startswith(f"{key}.") for known in BY_KEY):
        if value == {}:
            return f"the table [{key}] is empty"
        return f"{key} is a table: write [{key}], and its settings below"
    if key in {known.name for known in SETTINGS.values()}:  # cache_memory for cache.memory
        return f"unrecognized setting {key}; did you mean {SETTINGS[key].key}?"
    if table in BY_KEY:
        return f"{table} is not a table; write {table} = VALUE"
    if table and name in BY_KEY:
        return f"unrecognized setting {key}; did you mean {name}? Write it above the line [{table}]"
    return f"unrecognized setting {key}{_did_you_mean(key, BY_KEY)}"


def _did_you_mean(word: str, known: Iterable[str]) -> str:
    by_lower = {name.lower(): name for name in known}
    renamed = RENAMED.get(word.removeprefix(PREFIX).lower().replace("-", "_"))
    if renamed is not None:
        return f"; it is now called {renamed.variable if word.startswith(PREFIX) else renamed.key}"
    near = difflib.get_close_matches(word.lower().replace("-", "_"), by_lower, n=1)
    return f"; did you mean {by_lower[near[0]]}?" if near else ""


def _config(reading: _Reading, environ: Mapping[str, str]) -> Config:
    defaults = {one.name: one.default for one in SETTINGS.values() if not one.required}
    valid = {name: value for name, value in (defaults | reading.values).items() if name not in reading.invalid}
    for names, sentence in conflicts(valid, environ):
        reading.errors.append(
            (next((reading.origins[name] for name in names if name in reading.origins), DEFAULT), sentence)
        )
    if "root" not in reading.origins and not any(
        "root" in sentence.partition("=")[0] for _, sentence in reading.errors
    ):
        reading.errors.append((Origin(4, 0, ""), NO_ROOT))
    if reading.errors:
        raise ConfigError(*(_placed(*error) for error in sorted(reading.errors)))
    return Config(**valid)


def _placed(origin: Origin, sentence: str) -> str:
    """Begin a sentence with where it applies, unless it does so itself."""
    where = origin.where
    if not where or where == DEFAULT.where or sentence.startswith(where):
        return sentence
    return f"{where}: {sentence}"


def _short(text: str) -> str:
    return text if len(text) <= 80 else f"{text[:77]}..."
