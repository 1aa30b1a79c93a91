"""The identity of a ring: the settings that decide which pairs it serves, which pixels they become, and their order."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import MISSING, dataclass, field, fields
from enum import StrEnum
from typing import Any, Final, TypeAlias

from ringfeed.shm.layout import MAX_UINT64

Value: TypeAlias = str | int | float | bool | None


class Decides(StrEnum):
    """What a setting decides."""

    PIXELS = "pixels"
    """Which pixels lie under an id, and whether they come at all."""

    ORDER = "order"
    """Which ids come, and when; a resume state is compared with these too."""

    SHARE = "share"
    """Which part of the order this machine serves."""


_DECIDES: Final = "decides"
_PIXELS: Final = {_DECIDES: Decides.PIXELS}
_ORDER: Final = {_DECIDES: Decides.ORDER}
_SHARE: Final = {_DECIDES: Decides.SHARE}


@dataclass(frozen=True, slots=True)
class Identity:
    """The settings of a daemon that decide ids, pixels or order, as they are served.

    The one table of them: the daemon fills it by these names from its configuration, the descriptor holds it, and
    everything that compares two rings compares this. A setting that a later release adds gets a default here, which is
    left out of the descriptor, so that it means "as before" to every release.

    Attributes:
        root: absolute: ``gs://bucket/prefix`` without a trailing slash, or a folder's real path.
        emulator: scheme and host of the GCS emulator that is read instead of Google's service; None for a folder.
        images, labels: key templates.
        size: ``HxW`` of a slot, pixels.
        max_pixels: a picture with more is not decoded, and another pair takes its place.
        test_ratio: fraction of the pairs that are in the test split.
        num_nodes: machines whose daemons share every epoch, 1 for this one alone.
        node_rank: this machine's number among them, 0 to ``num_nodes`` - 1.
        image_pad, label_pad: values around a padded image and a padded label.
        others: settings of a later release, by name; they are compared, and mean nothing else here.
    """

    root: str = field(metadata=_PIXELS)
    emulator: str | None = field(metadata=_PIXELS)
    images: str = field(metadata=_PIXELS)
    labels: str = field(metadata=_PIXELS)
    fit: str = field(metadata=_PIXELS)
    size: str = field(metadata=_PIXELS)
    label_mode: str = field(metadata=_PIXELS)
    exif_orientation: bool = field(metadata=_PIXELS)
    max_pixels: int = field(metadata=_PIXELS)
    order: str = field(metadata=_ORDER)
    seed: int = field(metadata=_ORDER)
    test_ratio: float = field(metadata=_ORDER)
    num_nodes: int = field(metadata=_SHARE)
    node_rank: int = field(metadata=_SHARE)
    image_pad: int = field(metadata=_PIXELS, default=0)
    label_pad: int = field(metadata=_PIXELS, default=0)
    others: tuple[tuple[str, Value], ...] = ()

    def settings(self) -> dict[str, Value]:
        """All settings by name, those of a later release last."""
        return {name: getattr(self, name) for name in SETTINGS} | dict(self.others)

    def differences(self, other: Identity, names: Iterable[str] | None = None) -> dict[str, tuple[Value, Value]]:
        """The settings in which ``other`` differs, by name: (this one's value, the other's).

        Args:
            names: compare these only; None: all.
        """
        ours, theirs = self.settings(), other.settings()
        compared = dict.fromkeys([*ours, *theirs]) if names is None else names
        return {name: (ours.get(name), theirs.get(name)) for name in compared if ours.get(name) != theirs.get(name)}

    def differences_that_decide(self, other: Identity, what: Decides) -> dict[str, tuple[Value, Value]]:
        """`differences` in the settings that decide ``what``; one of a later release may decide the pixels."""
        return {
            name: values
            for name, values in self.differences(other).items()
            if SETTINGS.get(name, Decides.PIXELS) is what
        }

    def to_json(self) -> dict[str, Value]:
        """The settings as the descriptor holds them."""
        written = self.settings()
        return {name: value for name, value in written.items() if name not in _DEFAULTS or value != _DEFAULTS[name]}

    @classmethod
    def from_json(cls, facts: Mapping[str, Any]) -> Identity:
        """Read the settings of a descriptor.

        Raises:
            ValueError, TypeError: a setting is missing, or its value is not of its type.
        """
        known = {name: facts[name] for name in SETTINGS if name in facts}
        others = tuple(sorted((name, value) for name, value in facts.items() if name not in SETTINGS))
        for name, value in known.items():
            if type(value) not in _TYPES[name]:
                raise TypeError(f"{name} = {value!r} is not of the setting's type")
        for name, value in others:
            if not isinstance(value, str | int | float | None):
                raise TypeError(f"{name} is a setting that no release has")
        identity = cls(**known, others=others)
        if not 0 <= identity.seed <= MAX_UINT64 or not 0 <= identity.node_rank < identity.num_nodes <= MAX_UINT64:
            raise ValueError(f"seed, num_nodes or node_rank is out of its range: {identity}")
        return identity


def spelled(differences: Mapping[str, tuple[Value, Value]], ours: str, theirs: str) -> str:
    """Differences as words: ``size: 24x32 before, 48x64 now`` where ``ours`` is "before" and ``theirs`` "now"."""
    return "; ".join(f"{name}: {mine} {ours}, {its} {theirs}" for name, (mine, its) in differences.items())


SETTINGS: Final[Mapping[str, Decides]] = {
    one.name: one.metadata[_DECIDES] for one in fields(Identity) if _DECIDES in one.metadata
}
"""What each setting decides, by name."""

_KINDS: Final[Mapping[str, tuple[type, ...]]] = {
    "str": (str,),
    "str | None": (str, type(None)),
    "bool": (bool,),
    "int": (int,),
    "float": (float, int),
}
_TYPES: Final = {one.name: _KINDS[str(one.type)] for one in fields(Identity) if one.name in SETTINGS}
_DEFAULTS: Final = {
    one.name: one.default for one in fields(Identity) if one.name in SETTINGS and one.default is not MISSING
}
