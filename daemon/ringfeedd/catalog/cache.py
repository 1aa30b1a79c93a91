"""The catalog cache: the latest listings of a root, on disk.

A daemon that follows a dead one must serve the very ids that the living trainers were promised, though the bucket has
grown since, and before they lose patience: listing ten million pairs takes minutes, reading them from a disk seconds.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import secrets
import stat
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np

from ringfeedd.catalog.cache_use import IN_USE_S, in_use, mark
from ringfeedd.catalog.catalog import COLUMNS, Catalog, Incomplete, ObjectColumns
from ringfeedd.catalog.ids import IdTable
from ringfeedd.catalog.templates import KeyTemplate, KeyTemplates
from ringfeedd.system.files import create

_LOG: Final = logging.getLogger("ringfeedd")

KEPT: Final = 3
"""Listings of one root: that of the trainers that read on, that of a refresh under way, and one to spare."""

KEPT_S: Final = 90 * 86400.0
"""Listings of roots that were not listed for so long are removed: roots come and go, and nothing else removes them."""

_VERSION: Final = 1


def default_folder(environ: Mapping[str, str] = os.environ) -> Path | None:
    """Where catalogs are kept unless it is said: systemd's cache directory, or the user's; None where there is none."""
    if directories := environ.get("CACHE_DIRECTORY"):  # systemd's, of a unit with CacheDirectory=
        return Path(directories.split(":")[0])
    if home := environ.get("XDG_CACHE_HOME"):
        return Path(home, "ringfeed")
    with contextlib.suppress(RuntimeError):
        return Path.home() / ".cache" / "ringfeed"
    return None


class CatalogCache:
    """The listings of one root, the latest first. Nothing here raises: without a cache a daemon only starts slower."""

    def __init__(self, folder: Path | None, *, root: str, emulator: str | None, templates: KeyTemplates) -> None:
        """Look nowhere yet.

        Args:
            folder: None: nothing is kept.
        """
        self._folder = folder
        self._templates = templates
        self._of = [_VERSION, root, emulator, str(templates.images), str(templates.labels)]
        self._key = hashlib.blake2b(json.dumps(self._of).encode(), digest_size=12).hexdigest()

    def __repr__(self) -> str:
        return f"CatalogCache({str(self._folder)!r}, {len(self._files())} listings)"

    def __bool__(self) -> bool:
        """Whether this root was ever listed, as far as is kept."""
        return bool(self._files())

    def __iter__(self) -> Iterator[Catalog]:
        """The valid listings, the latest first; each is read when it is asked for."""
        for path in self._files():
            try:
                yield self._read(path)
            except Exception as error:  # noqa: BLE001  # numpy, zipfile and JSON raise many kinds for damaged bytes
                _LOG.warning("the cached catalog %s is passed over: %s", path, error)

    def keep(self, ring: str, catalogs: Collection[Catalog]) -> None:
        """Say which listings the daemon of a ring serves now; one that was removed is saved again.

        They stay while that is said again and again, and for `IN_USE_S` after, whatever is listed meanwhile, by this
        daemon or by another one: trainers were promised their ids.
        """
        if self._folder is None:
            return
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            mark(self._folder, ring, [self._path(catalog.fingerprint).name for catalog in catalogs])
        except OSError as error:
            _LOG.warning("the catalog could not be cached in %s: %s", self._folder, error.strerror)
            return
        for catalog in catalogs:
            if not self._path(catalog.fingerprint).exists():
                self.save(catalog)

    def save(self, catalog: Catalog) -> None:
        """Keep a listing, and the `KEPT` latest of this root; no root's for longer than `KEPT_S`. See also `keep`."""
        if self._folder is None:
            return
        path = self._path(catalog.fingerprint)
        draft = path.with_suffix(f".{secrets.token_hex(8)}.draft")
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            with create(draft) as file:
                np.savez(file, allow_pickle=False, **self._arrays(catalog))
            draft.replace(path)
            self._clear(self._folder)
        except OSError as error:
            _LOG.warning("the catalog could not be cached in %s: %s", self._folder, error.strerror)
            with contextlib.suppress(OSError):
                draft.unlink(missing_ok=True)

    def _clear(self, folder: Path) -> None:
        """Remove what is no longer needed."""
        now, needed = time.time(), in_use(folder)
        aged = [path for path, listed in _dated(folder.glob("*.catalog")) if now - listed > KEPT_S]
        cut_off = [path for path, begun in _dated(folder.glob("*.draft")) if now - begun > IN_USE_S]
        for path in {*self._files()[KEPT:], *aged, *cut_off}:
            if path.name not in needed:
                path.unlink(missing_ok=True)

    def _path(self, fingerprint: str) -> Path:
        assert self._folder is not None
        return self._folder / f"{self._key}.{fingerprint}.catalog"

    def _files(self) -> list[Path]:
        if self._folder is None:
            return []
        dated = list(_dated(self._folder.glob(f"{self._key}.*.catalog")))
        return [path for path, _ in sorted(dated, key=lambda one: one[1], reverse=True)]

    def _arrays(self, catalog: Catalog) -> dict[str, Any]:
        images, labels = catalog.images, catalog.labels
        meta = {
            "of": self._of,
            "fingerprint": catalog.fingerprint,
            "image_suffixes": images.suffixes,
            "label_suffixes": labels.suffixes,
        }
        arrays = {"meta": np.frombuffer(json.dumps(meta).encode(), np.uint8), "hashes": catalog.hashes}
        arrays["blob"], arrays["offsets"] = catalog.ids.arrays
        for side, columns in (("image", images), ("label", labels)):
            arrays |= {f"{side}_{name}": getattr(columns, name) for name in COLUMNS}
        return arrays

    def _read(self, path: Path) -> Catalog:
        facts = path.lstat()
        if not stat.S_ISREG(facts.st_mode) or facts.st_mode & stat.S_IWOTH or facts.st_uid not in (0, os.geteuid()):
            raise ValueError("it is not a plain file of this user or root, or every user may write into it")
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        meta = json.loads(arrays["meta"].tobytes())
        if meta["of"] != self._of:
            raise ValueError("it is of another root")
        images = _columns(arrays, "image", self._templates.images, meta)
        labels = _columns(arrays, "label", self._templates.labels, meta)
        catalog = Catalog(IdTable(arrays["blob"], arrays["offsets"]), arrays["hashes"], images, labels, Incomplete())
        if catalog.fingerprint != meta["fingerprint"]:
            raise ValueError("its ids are not those that it was written with")
        return catalog


def _dated(paths: Iterable[Path]) -> Iterator[tuple[Path, float]]:
    """Files with the time at which they were written, seconds since 1970; those that are gone by now are left out."""
    for path in paths:
        with contextlib.suppress(OSError):
            yield path, path.stat().st_mtime


def _columns(arrays: dict[str, Any], side: str, template: KeyTemplate, meta: dict[str, Any]) -> ObjectColumns:
    columns = {name: arrays[f"{side}_{name}"] for name in COLUMNS}
    suffixes = tuple(meta[f"{side}_suffixes"])
    if {len(column) for column in columns.values()} != {len(arrays["hashes"])} or np.any(
        columns["suffix"] >= len(suffixes)
    ):
        raise ValueError("its columns do not fit each other")
    return ObjectColumns(template=template, suffixes=suffixes, **columns)
