"""The daemon behind `get_async_dataloaders`: one that serves what is asked for, or one that is started for it.

A daemon that an operator runs is used where it serves the root with every setting that was given. One that is started
here is named after all settings that decide ids, pixels and order, so that the jobs of one user that ask for the same
share it, and no others do. It ends once no process needs it any more.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ringfeed.daemon import started as started_daemon
from ringfeed.daemon.started import Use
from ringfeed.errors import DaemonNotRunningError, RingfeedError
from ringfeed.shm import layout, segment
from ringfeed.shm.control import open_control
from ringfeed.shm.descriptor import Descriptor, read_descriptor, ring_names
from ringfeed.shm.identity import SETTINGS, Identity, spelled
from ringfeed.shm.layout import DAEMON_LOCK_BYTE, RingState, State

if TYPE_CHECKING:
    from ringfeedd.config import Config

SPLITS: Final = ("train", "test")
PREFIX: Final = "auto-"
OTHERS_START_S: Final = 600.0
"""How long to wait for a daemon that another process is starting, or for one of the same name to end."""

_LOOK_S: Final = 0.05
_STARTED_HERE: Final = re.compile(rf"{PREFIX}[0-9a-f]{{12}}")
_SOURCE: Final = ("root", "emulator")
"""What is served: always compared."""


def serve(root: str, given: Mapping[str, object], usual: Mapping[str, object], use: Use) -> dict[str, Descriptor]:
    """The rings of a daemon that serves a root with the given settings, by split; started where there is none.

    Args:
        root: as `ringfeed serve` takes it; relative to the current folder.
        given: settings by the names of the daemon's configuration; an operator's daemon must serve with all of them
            that decide ids, pixels or order.
        usual: further settings, of a daemon that is started.
        use: lives for as long as what reads the rings here.

    Raises:
        RingfeedError: a setting cannot be one, a daemon serves the root with others, or none could be started.
    """
    wanted = _Wanted.of(root, given, usual)
    deadline = time.monotonic() + OTHERS_START_S
    while True:
        rings = wanted.find()
        if rings is not None and started_daemon.take(wanted.ring, rings, use):
            return rings
        if rings is None and not _is_taken(wanted.ring):
            started_daemon.end_unused()
            if (rings := started_daemon.start(wanted.root, wanted.ring, wanted.flags, wanted.find, use)) is not None:
                return rings
        elif rings is None:
            _refuse_failed(f"{wanted.ring}-{SPLITS[0]}")
        if time.monotonic() > deadline:
            raise RingfeedError(
                f"Another process is starting a daemon for {wanted.root}, and it is not ready yet; try again."
            )
        time.sleep(_LOOK_S)


@dataclass(frozen=True)
class _Wanted:
    """What is asked for.

    Attributes:
        identity: of the daemon that would be started.
        compared: the names of the settings that an operator's daemon must share.
        flags: the command line of the daemon that would be started.
        ring: what its rings' names begin with.
        named: whether the caller has named the rings.
    """

    identity: Identity
    compared: tuple[str, ...]
    flags: tuple[str, ...]
    ring: str
    named: bool

    @classmethod
    def of(cls, root: str, given: Mapping[str, object], usual: Mapping[str, object]) -> _Wanted:
        settings = {name: _plain(value) for name, value in {**usual, **given}.items() if value is not None}
        config, identity = _identify({"root": root, **settings})
        names = {name for name in given if given[name] is not None}
        if names & {"num_nodes", "node_rank"}:
            names |= {"num_nodes", "node_rank"}
        if config.size == "auto":
            names.discard("size")
        compared = tuple(name for name in SETTINGS if name in names or name in _SOURCE)
        ring = settings.pop("ring", None)
        flags: list[str] = []
        for name, value in settings.items():
            flag = f"--{name.replace('_', '-')}"
            flags += [flag] if value is True else [] if value is False else [flag, str(value)]
        own = f"{PREFIX}{_digest(identity)}"
        return cls(identity, compared, tuple(flags), str(ring or own), named=ring is not None)

    @property
    def root(self) -> str:
        """What is to be served, absolute."""
        return self.identity.root

    def find(self) -> dict[str, Descriptor] | None:
        """The rings of a living daemon that serves this; None where there is none.

        Raises:
            RingfeedError: the daemons of this root, or of the rings that were named, serve with other settings.
        """
        daemons = _served()
        if own := daemons.get(self.ring):
            return self._whole(self._insist([own]) if self.named else own)
        if self.named:
            return None
        same_source = [
            rings
            for ring, rings in daemons.items()
            if not _STARTED_HERE.fullmatch(ring) and not self._differences(rings, _SOURCE)
        ]
        return self._whole(self._insist(same_source)) if same_source else None

    def _insist(self, daemons: list[dict[str, Descriptor]]) -> dict[str, Descriptor]:
        """The first that serves with every setting that was given. Raises: RingfeedError: there is none."""
        for rings in daemons:
            if not self._differences(rings, self.compared):
                return rings
        rings = daemons[0]
        names = ", ".join(ring.ring for ring in rings.values())
        told = spelled(self._differences(rings, self.compared), "asked for", "served")
        raise RingfeedError(
            f"A daemon serves {self.root} on this machine (rings {names}) with other settings ({told}); ask for what "
            f'it serves, or pass ring="NAME" with a new name for a daemon of your own.'
        )

    def _differences(self, rings: Mapping[str, Descriptor], names: Iterable[str]) -> dict[str, Any]:
        return self.identity.differences(next(iter(rings.values())).identity, names)

    def _whole(self, rings: dict[str, Descriptor]) -> dict[str, Descriptor]:
        """The rings in the order of the splits. Raises: RingfeedError: the test ring is wanted, and it has no pair."""
        if self.identity.test_ratio and "test" not in rings:
            time.sleep(_LOOK_S)  # they become visible one after the other
            prefix = next(iter(rings.values())).ring.removesuffix(SPLITS[0])
            with contextlib.suppress(DaemonNotRunningError):
                rings = {**rings, "test": read_descriptor(f"{prefix}test")}
        if self.identity.test_ratio and "test" not in rings:
            raise RingfeedError(
                f"test_ratio = {self.identity.test_ratio:g} gives the test split none of the pairs under {self.root}; "
                f"raise it, or pass 0 for no test loader."
            )
        return {split: rings[split] for split in SPLITS if split in rings}


def _served() -> dict[str, dict[str, Descriptor]]:
    """The rings that living daemons serve, by split, by what their names begin with; those that failed are left out."""
    found: defaultdict[str, dict[str, Descriptor]] = defaultdict(dict)
    for name in ring_names():
        with contextlib.suppress(RingfeedError, OSError):
            control = open_control(name)
            state, descriptor = control.word(State.STATE), control.descriptor
            control.close()
            if state in (RingState.STARTING, RingState.SERVING):
                found[name.removesuffix(descriptor.split).removesuffix("-")][descriptor.split] = descriptor
    return found


def _is_taken(ring: str) -> bool:
    """Whether a daemon holds the name, be it one that is not ready yet or one that is about to end."""
    try:
        fd = segment.open_existing(layout.lock_name(f"{ring}-{SPLITS[0]}"), writable=False)
    except (OSError, RingfeedError):
        return False  # a start says why, where it cannot take it
    try:
        return segment.is_locked(fd, DAEMON_LOCK_BYTE)
    finally:
        os.close(fd)


def _refuse_failed(ring: str) -> None:
    """Raise RingfeedError where the daemon that holds the name has stopped the ring for good."""
    with contextlib.suppress(DaemonNotRunningError):
        control = open_control(ring)
        failed = control.word(State.STATE) == RingState.FAILED
        reason = control.gone()
        control.close()
        if failed and reason is not None:
            raise RingfeedError(str(reason))


def _identify(settings: dict[str, Any]) -> tuple[Config, Identity]:
    """The configuration of a daemon, and what it would serve. Raises: RingfeedError: there can be none."""
    from ringfeedd.config import config_of, resolve  # noqa: PLC0415  # as the daemon itself, it is needed only here
    from ringfeedd.errors import DaemonError  # noqa: PLC0415

    try:
        config = config_of(settings, "get_async_dataloaders")
        return config, resolve(config).identity()
    except DaemonError as error:
        raise RingfeedError(str(error)) from error


def _plain(value: object) -> object:
    """A setting as a file would hold it: a NumPy number becomes Python's, a path its text."""
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    return value.item() if hasattr(value, "item") else value


def _digest(identity: Identity) -> str:
    """A word for a daemon of this user and release that serves so; a folder is the one of this mount namespace."""
    where = "" if "://" in identity.root else Path("/proc/self/ns/mnt").stat().st_ino
    facts = repr((sorted(identity.settings().items()), os.geteuid(), where, layout.LAYOUT_VERSION))
    return hashlib.blake2b(facts.encode(), digest_size=6).hexdigest()
