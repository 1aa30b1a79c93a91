"""The descriptor: one small JSON file by which a ring is found, ``/dev/shm/ringfeed.RING``."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
from dataclasses import dataclass
from typing import Any, Final

from ringfeed.epochs import Epochs
from ringfeed.errors import DaemonNotRunningError, NoAccessError, NotTrustedError, OtherVersionError
from ringfeed.plan import START, Place
from ringfeed.shm import access as trust
from ringfeed.shm import layout, segment
from ringfeed.shm.failures import FailedPairs, read_failed_pairs
from ringfeed.shm.identity import Identity
from ringfeed.shm.layout import Field, Geometry

MOST_BYTES: Final = 1 << 20
"""More than a descriptor can have."""


@dataclass(frozen=True, slots=True)
class ServedCatalog:
    """A listing of the root, and from which epoch on it is what the ring serves.

    Attributes:
        since_epoch: the first epoch of its pairs.
        epoch_length: pairs in each epoch of this ring: the machine's share of the split's, where it is one of several.
        fingerprint: hash of the ids of the whole split, in order; the same on all machines that share it.
    """

    since_epoch: int
    epoch_length: int
    fingerprint: str


@dataclass(frozen=True, slots=True)
class Descriptor:
    """What a ring says of itself.

    Attributes:
        generation: 16 hexadecimal digits, random for each start of the daemon; part of every other name.
        pid: the daemon's, for people; it decides nothing.
        identity: the settings that decide ids, pixels and order, e.g. the root.
        split: ``"train"`` or ``"test"``.
        catalogs: what is served from which epoch on, ascending, the first from epoch 0; a refresh adds one.
        catalog_changes: refreshes since the daemon's start that changed ``catalogs``.
        base: a place from which on the lengths of ``catalogs`` hold; see `Place.counted_from`.
    """

    ring: str
    generation: str
    pid: int
    geometry: Geometry
    identity: Identity
    split: str
    catalogs: tuple[ServedCatalog, ...]
    catalog_changes: int = 0
    base: Place = START
    layout_version: int = layout.LAYOUT_VERSION

    @property
    def control(self) -> str:
        """File name of the control segment."""
        return layout.control_name(self.ring, self.generation)

    @property
    def data(self) -> str:
        """File name of the data segment."""
        return layout.data_name(self.ring, self.generation)

    @property
    def epochs(self) -> Epochs:
        """How long each epoch is."""
        return Epochs(tuple((catalog.since_epoch, catalog.epoch_length) for catalog in self.catalogs))

    def catalog(self, epoch: int) -> ServedCatalog:
        """The catalog that is served in ``epoch``."""
        return next(catalog for catalog in reversed(self.catalogs) if epoch >= catalog.since_epoch)

    @property
    def newest(self) -> ServedCatalog:
        """The catalog that is served from some epoch on for good."""
        return self.catalogs[-1]

    def to_json(self) -> bytes:
        """The descriptor as one line of JSON."""
        facts = dataclasses.asdict(self) | {"identity": self.identity.to_json(), "base": self.base._asdict()}
        return json.dumps(facts, sort_keys=True).encode() + b"\n"

    @classmethod
    def from_json(cls, ring: str, text: bytes) -> Descriptor:
        """Read a descriptor.

        Raises:
            NotTrustedError: it is not one.
        OtherVersionError: it is one of another layout version.
        """
        path = segment.shm_path(layout.descriptor_name(ring))
        try:
            facts: dict[str, Any] = json.loads(text)
            version = facts["layout_version"]
            if version != layout.LAYOUT_VERSION:
                raise OtherVersionError(
                    f"The daemon of ring {ring!r} has layout version {version}, this process has version "
                    f"{layout.LAYOUT_VERSION}; install the same release of ringfeed in both (docs/upgrade.md), and "
                    f"start this process again."
                )
            facts["geometry"] = _read_geometry(facts["geometry"])
            facts["identity"] = Identity.from_json(facts["identity"])
            facts["catalogs"] = tuple(_read_catalog(catalog) for catalog in facts["catalogs"])
            facts["base"] = Place(**{name: _whole(name, number, 0) for name, number in facts["base"].items()})
            descriptor = cls(**facts)
            for name in ("ring", "generation", "split"):
                if not isinstance(facts[name], str):
                    raise TypeError(f"{name} is not a text")
            _whole("pid", descriptor.pid, 0)
            _whole("catalog_changes", descriptor.catalog_changes, 0)
            descriptor.epochs  # noqa: B018  # raises where they are none
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise NotTrustedError(
                f"{trust.describe(path)} is not a ring's descriptor ({error}); remove it if no daemon runs"
            ) from error
        if descriptor.ring != ring or not re.fullmatch(r"[0-9a-f]{16}", descriptor.generation):
            raise NotTrustedError(
                f"{trust.describe(path)} describes another ring, {descriptor.ring!r}; remove it if no daemon runs"
            )
        return descriptor


def named_generation(ring: str, text: bytes) -> str | None:
    """Return the generation that a descriptor, or a list of failed pairs, of this ring and any release names.

    None where the text is neither.
    """
    with contextlib.suppress(ValueError, RecursionError):
        facts = json.loads(text)
        if isinstance(facts, dict) and facts.get("ring") == ring:
            generation = facts.get("generation")
            if isinstance(generation, str) and re.fullmatch(r"[0-9a-f]{16}", generation):
                return generation
    return None


def _read_geometry(facts: dict[str, Any]) -> Geometry:
    """The geometry, where it is one that a daemon can have made: a mapping beyond a segment's end would kill."""
    slots, lanes = _whole("slots", facts["slots"], 1), _whole("lanes", facts["lanes"], 1)
    image, label = (
        Field(
            name,
            _whole("offset", facts[name]["offset"], 0),
            tuple(_whole("row_shape", extent, 1) for extent in facts[name]["row_shape"]),
            facts[name]["dtype"],
        )
        for name in ("image", "label")
    )
    geometry = Geometry(slots, lanes, image, label, mirrored=facts["mirrored"])
    regions = [slots * field.row_bytes for field in (image, label)]
    if (
        lanes > layout.MAX_LANES
        or image.dtype != "uint8"
        or label.dtype not in ("uint8", "uint16")
        or (image.offset, label.offset) != (0, layout.page_ceil(regions[0]))
        or not isinstance(facts["mirrored"], bool)
        or (geometry.mirrored and any(region % layout.PAGE_BYTES for region in regions))
    ):
        raise ValueError("invalid geometry")
    return geometry


def _read_catalog(facts: dict[str, Any]) -> ServedCatalog:
    catalog = ServedCatalog(**facts)
    _whole("since_epoch", catalog.since_epoch, 0)
    _whole("epoch_length", catalog.epoch_length, 1)
    if not isinstance(catalog.fingerprint, str):
        raise TypeError("fingerprint is not a text")
    return catalog


def _whole(name: str, value: object, least: int) -> int:
    if type(value) is not int or not least <= value <= layout.MAX_UINT64:
        raise ValueError(f"{name} = {value!r} is not a whole number from {least} up")
    return value


def read_descriptor(ring: str) -> Descriptor:
    """Read the descriptor of a ring.

    Raises:
        ValueError: the ring's name cannot be one.
        DaemonNotRunningError: there is no such file.
        NotTrustedError: it is not trusted.
    """
    check_ring_name(ring)
    try:
        text = segment.read_whole(layout.descriptor_name(ring), MOST_BYTES)
    except FileNotFoundError:
        if (last := _last_list(ring)) is not None and last.stopped:
            raise DaemonNotRunningError(last.why_not_served) from None
        there = ring_names()
        hint = f"the rings served here are {', '.join(there)}" if there else "no ring is served on this machine"
        raise DaemonNotRunningError(
            f"No daemon serves the ring {ring!r}: {hint}. Start one with `ringfeed serve gs://bucket/prefix`."
        ) from None
    except NoAccessError as error:
        raise NotTrustedError(
            f"The ring {ring!r} belongs to another user, or is closed to this one: {error}"
        ) from error
    return Descriptor.from_json(ring, text)


def _last_list(ring: str) -> FailedPairs | None:
    """Return what a ring's last daemon left of its failed pairs; None where that is unknown."""
    with contextlib.suppress(NotTrustedError, OSError):
        return read_failed_pairs(ring)
    return None


def write_descriptor(descriptor: Descriptor, *, mode: int, gid: int) -> os.stat_result:
    """Put the descriptor in its place, whole, by a rename; return the facts of the new file."""
    draft = layout.draft_name(descriptor.ring, descriptor.generation)
    name = layout.descriptor_name(descriptor.ring)
    return segment.replace_file(name, descriptor.to_json(), draft=draft, mode=mode, gid=gid)


def remove_descriptor(ring: str, written: os.stat_result) -> None:
    """Remove the ring's descriptor if it still is the file that `write_descriptor` returned."""
    path = segment.shm_path(layout.descriptor_name(ring))
    if segment.names_inode(path, written.st_dev, written.st_ino):
        path.unlink(missing_ok=True)


def ring_names() -> list[str]:
    """The names of all rings that have a descriptor on this machine, sorted."""
    pattern = re.compile(re.escape(layout.PREFIX) + f"({layout.RING_NAME_PATTERN})")
    return [match[1] for name in segment.names() if (match := pattern.fullmatch(name))]


def check_ring_name(ring: str) -> None:
    """Raise ValueError unless ``ring`` can be a ring's name."""
    if not re.fullmatch(layout.RING_NAME_PATTERN, ring):
        raise ValueError(f"{ring!r} cannot be a ring's name: use 1 to 64 letters, digits, '-' and '_'")
