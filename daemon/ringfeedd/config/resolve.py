"""What one machine makes of a `Config`: resolved once, when the daemon starts."""

from __future__ import annotations

import dataclasses
import grp
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from ringfeed.shm.identity import SETTINGS as DECIDING
from ringfeed.shm.identity import Identity
from ringfeedd.cache.opening import CacheSettings
from ringfeedd.catalog.cache import CatalogCache, default_folder
from ringfeedd.catalog.templates import KeyTemplates
from ringfeedd.config.listen import OFF, Listen
from ringfeedd.config.settings import (
    DEFAULT_STORE_WAIT_S,
    DOWNLOADS_A_WORKER,
    MOST_DOWNLOADS,
    MOST_DOWNLOADS_A_WORKER,
    SETTINGS,
    Config,
)
from ringfeedd.config.values import parse_pixels, ring_names
from ringfeedd.decode.spec import DecodeSpec
from ringfeedd.errors import ConfigError
from ringfeedd.fetch.policy import FetchPolicy
from ringfeedd.nodes import AUTO, Nodes, choose_nodes
from ringfeedd.shm.memory import Access
from ringfeedd.storage.gcs import emulator_address
from ringfeedd.storage.roots import GCS_SCHEME
from ringfeedd.storage.settings import StoreSettings
from ringfeedd.system.cpu import usable_cores

Part = TypeVar("Part", StoreSettings, DecodeSpec, FetchPolicy)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The settings of a daemon on its machine.

    Attributes:
        config: as given.
        nodes: which machine this is among those that share every epoch.
        workers: worker processes.
        downloads: objects that all workers together download at a time.
        most_downloads: the same where they wait for the store.
        ring_names: by split.
        pixels: height and width of a slot; None: from a sample of the pairs.
        store_wait_s: time for which a start waits for the store, seconds.
        listen: the address of the status page; None: no page.
        cache_folder: of listings; None: none are kept.
    """

    config: Config
    nodes: Nodes
    workers: int
    downloads: int
    most_downloads: int
    templates: KeyTemplates
    ring_names: Mapping[str, str]
    pixels: tuple[int, int] | None
    store_wait_s: float
    listen: Listen | None
    policy: FetchPolicy
    cache_folder: Path | None

    def store(self, connections: int) -> StoreSettings:
        """Return how the root is listed and sampled with so many connections."""
        return _part(StoreSettings, self.config, concurrency=connections)

    def spec(self, height: int, width: int) -> DecodeSpec:
        """Return how pairs are decoded into slots of that size, in pixels."""
        return _part(DecodeSpec, self.config, height=height, width=width)

    def cache(self) -> CatalogCache:
        """Return the cached listings of the root."""
        config = self.config
        return CatalogCache(self.cache_folder, root=config.root, emulator=config.emulator, templates=self.templates)

    def kept(self) -> CacheSettings:
        """Return what is kept from one epoch to the next."""
        config = self.config
        memory, size = config.cache_memory, config.cache_disk_size
        return CacheSettings(
            memory=0 if memory == OFF else None if memory == AUTO else int(memory),
            disk=None if config.cache_disk is None else Path(config.cache_disk),
            disk_size=None if size == AUTO else int(size),
        )

    def identity(self, *, size: str | None = None) -> Identity:
        """Return the settings that decide ids, pixels and order, as they are served.

        Args:
            size: ``HxW`` of the slots, where the settings leave it open.

        Raises:
            DaemonError: the emulator has no address.
        """
        config, nodes, templates = self.config, self.nodes, self.templates
        emulator = config.emulator if config.root.startswith(GCS_SCHEME) else None
        resolved: dict[str, Any] = {
            "emulator": emulator_address(emulator) if emulator else None,
            "images": templates.images.canonical,
            "labels": templates.labels.canonical,
            "size": size or config.size,
            "num_nodes": nodes.num_nodes,
            "node_rank": nodes.node_rank,
        }
        settings = {name: resolved[name] if name in resolved else getattr(config, name) for name in DECIDING}
        plain: dict[str, Any] = {n: str(value) if isinstance(value, str) else value for n, value in settings.items()}
        return Identity(**plain)

    def access(self) -> Access:
        """Return the file modes of the rings.

        Raises:
            ConfigError: there is no such unix group.
        """
        group = self.config.group
        if group is None:
            return Access()
        try:
            return Access(mode=0o660, gid=grp.getgrnam(group).gr_gid)
        except KeyError as error:
            raise ConfigError(f"group = {group!r}: this machine has no such unix group; `groupadd` it") from error


def resolve(config: Config, *, cores: int | None = None, environ: Mapping[str, str] = os.environ) -> Settings:
    """Resolve settings against a machine.

    Args:
        cores: that this process may use; None: as many as it may on this machine.
        environ: its environment variables.

    Raises:
        ConfigError: the settings do not say which of several machines this is, or the templates contradict.
    """
    workers = (cores or usable_cores()) if config.workers == AUTO else config.workers

    def downloads(each: int) -> int:
        return min(each * workers, MOST_DOWNLOADS) if config.concurrency == AUTO else config.concurrency

    folders = {"auto": default_folder(environ), "off": None}
    return Settings(
        config=config,
        nodes=choose_nodes(config.num_nodes, config.node_rank, environ),
        workers=workers,
        downloads=downloads(DOWNLOADS_A_WORKER),
        most_downloads=downloads(MOST_DOWNLOADS_A_WORKER),
        templates=KeyTemplates.parse(config.images, config.labels),
        ring_names=ring_names(config.ring),
        pixels=parse_pixels(config.size),
        store_wait_s=DEFAULT_STORE_WAIT_S if config.store_wait_s is None else config.store_wait_s,
        listen=Listen.parse(config.http),
        policy=_part(FetchPolicy, config),
        cache_folder=folders.get(config.catalog_cache, Path(config.catalog_cache)),
    )


def _part(kind: type[Part], config: Config, **given: Any) -> Part:  # noqa: ANN401
    """Make the settings of one area of those in `Config` that have the same names; ``given`` has the others."""
    names = {each.name for each in dataclasses.fields(kind)} & SETTINGS.keys()
    return kind(**({name: getattr(config, name) for name in names} | given))
