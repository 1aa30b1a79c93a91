"""The table of settings for people: help, the example file, the page of documentation, `ringfeed config show`."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping
from typing import Any, Final

from ringfeedd.config.declaration import Group, Setting
from ringfeedd.config.kinds import Duration, Rate, Size, literal
from ringfeedd.config.load import Loaded
from ringfeedd.config.settings import SETTINGS

_WIDTH: Final = 120

EXAMPLE_HEAD: Final = """\
# Ringfeed's settings: the flags of `ringfeed serve`, with underscores. An unknown setting is an error.
# A line that begins with a number sign shows a default, or an example where the default is "not set".
# Durations may have units ("30s", "2 min"), sizes too ("8 GiB").
# Check this file:  ringfeed config check {file}
# After a change:   systemctl reload {unit}; the log names what needs a restart.
"""

PAGE_HEAD: Final = """\
# Settings

<!-- Made by `ringfeed config reference > docs/settings.md`; a test compares it. -->

The names below are the keys of the TOML file. The flags of `ringfeed serve` are the same with hyphens (`--linger-s`),
the environment variables begin with `RINGFEED_` (`RINGFEED_LINGER_S`), and `get_async_dataloaders` takes them as
arguments. A flag wins over the variable, the variable over the file, and the file over the default. An empty variable
is not set.

- `ringfeed config check FILE` checks a file and shows all errors at once, each with its line.
- `ringfeed config show --config FILE` shows every value and where it comes from.
- `ringfeed config example` prints a commented file.
- `RINGFEED_CONFIG` names the file if `--config` does not.

Durations are seconds, or texts with units: `"30s"`, `"2 min"`, `"1h 30min"`. Sizes are bytes, or texts with units:
`"8 GiB"`, `"500 MB"`.

SIGHUP or `systemctl reload ringfeed` reads the file again and lists the root again. A running daemon takes the settings
that are marked *reload*. The log names those that need a restart. If anything is wrong, the daemon keeps all its
settings, and the log has one line with all errors.
"""


def by_group() -> Iterator[tuple[Group, list[Setting]]]:
    """Yield each group and its settings."""
    for group in Group:
        if found := [one for one in SETTINGS.values() if one.group is group]:
            yield group, found


def flag_help(one: Setting) -> str:
    """Return the text of a flag in ``serve --help``."""
    end = "" if one.is_switch or one.required else f" (default: {one.plain_default()})"
    return f"{one.help}{end}".replace("%", "%%")


def example(given: Mapping[str, Any] | None = None, *, file: str = "FILE", unit: str = "ringfeed") -> str:
    """Return a commented file of all settings.

    Args:
        given: values by name that the file sets; the others are comments.
        file, unit: where the file will lie, and which service reads it.
    """
    given = {"root": SETTINGS["root"].example} if given is None else given
    lines = [EXAMPLE_HEAD.format(file=file, unit=unit)]
    tables: dict[str, list[Setting]] = {}
    for group, settings in by_group():
        if any("." not in one.key for one in settings):
            lines.append(f"\n## {group.capitalize()}\n")
        for one in settings:
            if table := one.key.rpartition(".")[0]:
                tables.setdefault(table, []).append(one)
            else:
                lines += _example_of(one, given)
    for table, settings in tables.items():  # last: a key below a table's line belongs to the table
        lines.append(f"\n{'' if any(one.name in given for one in settings) else '# '}[{table}]\n")
        lines += [line for one in settings for line in _example_of(one, given)]
    return "".join(lines)


def _example_of(one: Setting, given: Mapping[str, Any]) -> Iterator[str]:
    default = one.example if one.default is None or one.required else one.default
    about = one.help[0].upper() + one.help[1:]
    if one.default is None:
        about += f"; not set: {one.unset}"
    comment = f"{about}. {_kind(one)}" if _kind(one) else f"{about}."
    yield from (f"# {line}\n" for line in textwrap.wrap(comment, _WIDTH - 2))
    assignment = f"{one.key.rpartition('.')[2]} = {literal(given.get(one.name, default))}"
    yield f"{assignment}\n\n" if one.name in given else f"# {assignment}\n\n"


def _kind(one: Setting) -> str:
    match one.kind:
        case Duration():
            return f"Seconds, {one.kind.bounds}."
        case Size() | Rate():
            return ""
        case kind if kind.named.startswith("one of "):
            return f"One of {kind.named.removeprefix('one of ')}."
        case kind:
            return f"{kind.bounds[0].upper()}{kind.bounds[1:]}." if kind.bounds else ""


def reference() -> str:
    """Return the page of documentation, ``docs/settings.md``."""
    lines = [PAGE_HEAD]
    for group, settings in by_group():
        lines.append(
            f"\n## {group.capitalize()}\n\n| setting | values | default | a change needs | |\n|---|---|---|---|---|\n"
        )
        lines += map(_row, settings)
    return "".join(lines)


def _row(one: Setting) -> str:
    values = f"{one.kind.named}, {one.kind.bounds}" if one.kind.bounds else one.kind.named
    default = "required" if one.required else one.unset or f"`{literal(one.default)}`"
    change = "*reload*" if one.reload else "restart"
    about = f"{one.help[0].upper()}{one.help[1:]}."
    if one.checked:
        about += f" Checked: {one.checked}."
    about = about.replace("{id}", "`{id}`")
    return f"| `{one.key}` | {values} | {default} | {change} | {about} |\n"


def show(loaded: Loaded) -> list[str]:
    """Return a line for each setting: its value as in a file, and where it comes from."""
    values = {one.key: _value(loaded, one) for one in SETTINGS.values()}
    key_width = max(map(len, values))
    value_width = min(40, max(map(len, values.values())))
    lines: list[str] = []
    for group, settings in by_group():
        lines.append(f"# {group}")
        lines += [
            f"{one.key:<{key_width}} = {values[one.key]:<{value_width}}  # {loaded.origin(one.name)}"
            for one in settings
        ]
    return lines


def _value(loaded: Loaded, one: Setting) -> str:
    value = getattr(loaded.config, one.name)
    return f"not set ({one.unset})" if value is None else literal(value)


def as_json(loaded: Loaded) -> dict[str, dict[str, Any]]:
    """Return each setting's value and origin, by its name in a file."""
    return {
        one.key: {"value": getattr(loaded.config, one.name), "origin": loaded.origin(one.name)}
        for one in SETTINGS.values()
    }
