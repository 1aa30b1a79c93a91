"""What is declared of each setting, and the names that follow from it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from ringfeedd.config.kinds import Kind, Switch

PREFIX: Final = "RINGFEED_"
"""What the variables of the settings begin with."""

_DECLARED: Final = "setting"


class Group(StrEnum):
    """The headings of ``--help``, of the documents and of the example file, in this order."""

    DATA = "data"
    RINGS = "rings"
    DECODING = "decoding"
    WORKERS = "workers"
    DOWNLOADS = "downloads"
    FAILURES = "failures"
    NODES = "several machines"
    PAGE = "status page"
    LOG = "log"
    CACHE = "cache"
    """The last, since its settings stand in tables, which a file has at its end."""


@dataclass(frozen=True)
class Setting:
    """One setting, as it is declared in `ringfeedd.config.settings`.

    Attributes:
        name: the attribute of `Config`.
        key: its name in a file; with a dot within a table, ``cache.memory``.
        kind: which values it may have.
        default: None: `unset` says what then happens.
        help: one line, without a full stop at its end.
        reload: whether a running daemon takes a new value; else after a restart.
        unset: what happens where it is not set.
        example: a value for the example file, where the default shows nothing.
        checked: what is checked besides its kind, and when.
        earlier: its name in earlier versions; the error for it tells the new one.
    """

    group: Group
    kind: Kind
    default: Any
    help: str
    name: str = ""
    key: str = ""
    reload: bool = False
    unset: str = ""
    example: Any = None
    checked: str = ""
    earlier: str = ""

    @property
    def required(self) -> bool:
        """Whether it has no default."""
        return self.default is dataclasses.MISSING

    @property
    def flag(self) -> str:
        """Its flag of `ringfeed serve`."""
        return "--" + self.name.replace("_", "-")

    @property
    def variable(self) -> str:
        """Its environment variable."""
        return PREFIX + self.name.upper()

    @property
    def is_switch(self) -> bool:
        """Whether its flag takes no value."""
        return isinstance(self.kind, Switch)

    def plain_default(self) -> str:
        """Return the default in words."""
        if self.required:
            return "required"
        if self.unset:
            return self.unset
        return (
            f"{self.default:g}"
            if isinstance(self.default, float)
            else str(self.default).lower()
            if self.is_switch
            else str(self.default)
        )


def setting(group: Group, kind: Kind, default: Any = dataclasses.MISSING, **facts: Any) -> Any:  # noqa: ANN401
    """Declare one setting, where a class has an attribute's default.

    Args:
        default: of the kind's type.
        facts: the other attributes of `Setting`.
    """
    return dataclasses.field(default=default, metadata={_DECLARED: Setting(group, kind, default, **facts)})


def declared(config: type) -> dict[str, Setting]:
    """Return the settings of a class by name, in the order of their groups."""
    found = []
    for each in dataclasses.fields(config):
        one: Setting = each.metadata[_DECLARED]
        found.append(dataclasses.replace(one, name=each.name, key=one.key or each.name))
    groups = list(Group)
    return {one.name: one for one in sorted(found, key=lambda one: groups.index(one.group))}
