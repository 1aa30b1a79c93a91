"""The daemon's settings: one frozen struct, read from a TOML file and from flags; flags win."""

from __future__ import annotations

import grp
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from ringfeed.shm.descriptor import check_ring_name
from ringfeed.shm.identity import SETTINGS, Identity
from ringfeed.shm.layout import MAX_LANES, MAX_UINT64
from ringfeedd.catalog.cache import CatalogCache, default_folder
from ringfeedd.catalog.templates import DEFAULT_IMAGES, DEFAULT_LABELS, KeyTemplates
from ringfeedd.decode.spec import DEFAULT_MAX_PIXELS, Fit, LabelMode
from ringfeedd.errors import ConfigError
from ringfeedd.fetch.policy import FetchPolicy
from ringfeedd.nodes import AUTO, MAX_NODES, Nodes, choose_nodes
from ringfeedd.order import Mode
from ringfeedd.ring.failures import OnError
from ringfeedd.ring.groups import DEFAULT_LINGER_BLOCKING_S, DEFAULT_LINGER_S
from ringfeedd.setting_errors import setting_error
from ringfeedd.shm.memory import Access
from ringfeedd.storage import MAX_OBJECTS, PlaneName
from ringfeedd.storage.gcs import emulator_address
from ringfeedd.storage.roots import GCS_SCHEME, absolute_root
from ringfeedd.system.cpu import usable_cores
from ringfeedd.web.access import OFF, Listen

Fraction = Annotated[float, Meta(ge=0.0, le=1.0)]
Seconds = Annotated[float, Meta(ge=0.0, le=86400.0)]

_FETCH = FetchPolicy()

MOST_CONFIG_BYTES = 1 << 20

DOWNLOADS_A_WORKER, MOST_DOWNLOADS_A_WORKER, MOST_DOWNLOADS = 128, 512, 4096

DEFAULT_STORE_WAIT_S = 600.0
"""With it, starts that fail lie too far apart for systemd to give the service up (StartLimitBurst in the unit)."""


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What one daemon serves, and how. The keys of the TOML file are these names.

    Attributes:
        root: ``gs://bucket/prefix`` or a folder; made absolute, see `absolute_root`.
        ring: rings ``NAME-train`` and ``NAME-test`` instead of ``train`` and ``test``.
        size: ``"HxW"`` of a slot in pixels, or ``"auto"``: what a sample of the pairs and the largest objects have.
        slots: of each ring; None: what half of the free memory holds, at most 512.
        lanes: consumer processes that may be attached to one ring at a time.
        workers: processes that fetch and decode; ``"auto"``: one for each core that the daemon may use.
        concurrency: downloads (objects) under way at a time, in all; ``"auto"``: 128 for each worker, which is what one
            core decodes of while a store is 100 ms away, and up to 512 while it waits for one that is further.
        fit: how a picture comes into a slot; see docs/decoding.md.
        image_pad: the value around an image with ``fit = "pad"``, 0 to 255, in all three channels.
        label_pad: the same around a label, e.g. 255 for a class that the loss ignores; up to 65535 with ``"gray16"``.
        exif_orientation: turn images as their EXIF data asks, and labels that were stored as their images are.
        test_ratio: fraction of the pairs that the test ring gets, by a hash of the id; 0: no test ring.
        max_failed: fraction of pairs that may fail before the ring stops.
        on_error: ``"replace"`` a pair that cannot be had by another draw, or ``"stop"`` the ring at the first.
        max_attempts: for each object, the first included; what fails while the store is down does not count.
        deadline_s: for each object, all attempts together, waits for a store that is down not counted.
        read_timeout_s: silence of the store after which a download is cut and tried again.
        attempt_s: for one attempt at an object, seconds; one more for each MiB. What takes longer is tried again.
        min_bytes_per_s: an attempt that brings less, on the mean of 10 s, is cut and tried again.
        store_wait_s: None: 600 s, but not for a host that does not resolve or refuses, and has never answered. Else
            for how long a start waits for a store that does not answer, until the first pairs are there; then
            it ends with exit code 3. 0: at once, as it does in any case where the root or the account is wrong.
        data_plane: what objects of a bucket are downloaded with: ``"curl"`` (the extra ``fast``), ``"gcloud"``, or
            ``"auto"``: curl where it is installed.
        emulator: address of a GCS emulator to use instead of Google's service.
        user_project: the project that listings and downloads are billed to, for a bucket with requester pays.
        images, labels: key templates.
        max_objects: a bucket's listing of more is refused: a server may send pages without end.
        catalog: ``"list"``: list the root at the start. ``"cached"``: start with the latest cached listing, where one
            is, and list again beside it: new pairs come in with an epoch, as with `ringfeed refresh`.
        catalog_cache: the folder in which listings are kept, ``"auto"`` (systemd's or the user's cache), or ``"off"``.
        group: unix group whose members may attach; None: only this user.
        num_nodes: machines whose daemons share every epoch; ``"auto"``: this and ``node_rank`` from the environment of
            torchrun or SLURM. None: this machine alone.
        node_rank: this machine's number, 0 .. num_nodes - 1; ``"auto"``: from the environment.
        worker_timeout_s: a worker that decodes one pair for longer, or does not turn its loop, is killed and replaced.
        http: ``HOST:PORT`` of the status page and the metrics; ``"off"``: none, since what a ring's files keep from
            other users of this machine, a port does not.
        http_token_file: a file with a token that every request to it has to bring; wanted where ``http`` is not this
            machine's own (loopback).
        linger_s: how long the place of a rank that went is kept.
        linger_blocking_s: the same while another group waits for its slots.
    """

    root: str
    ring: str | None = None
    size: str = "auto"
    slots: Annotated[int, Meta(ge=2, le=1 << 24)] | None = None
    lanes: Annotated[int, Meta(ge=1, le=MAX_LANES)] = 64
    workers: Annotated[int, Meta(ge=1, le=512)] | Literal["auto"] = "auto"
    concurrency: Annotated[int, Meta(ge=1, le=MOST_DOWNLOADS)] | Literal["auto"] = "auto"
    seed: Annotated[int, Meta(ge=0)] = 0
    order: Mode = Mode.SHUFFLE
    test_ratio: Annotated[float, Meta(ge=0.0, lt=1.0)] = 0.1
    fit: Fit = Fit.RESIZE
    label_mode: LabelMode = LabelMode.RGB
    image_pad: Annotated[int, Meta(ge=0, le=255)] = 0
    label_pad: Annotated[int, Meta(ge=0, le=65535)] = 0
    exif_orientation: bool = False
    max_pixels: Annotated[int, Meta(ge=1)] = DEFAULT_MAX_PIXELS
    max_failed: Fraction = 0.01
    on_error: OnError = OnError.REPLACE
    max_attempts: Annotated[int, Meta(ge=1, le=100)] = _FETCH.max_attempts
    deadline_s: Annotated[float, Meta(gt=0.0, le=86400.0)] = _FETCH.deadline_s
    read_timeout_s: Annotated[float, Meta(gt=0.0, le=3600.0)] = _FETCH.read_timeout_s
    attempt_s: Annotated[float, Meta(gt=0.0, le=86400.0)] = _FETCH.attempt_s
    min_bytes_per_s: Annotated[float, Meta(ge=0.0, le=1e9)] = _FETCH.min_bytes_per_s
    store_wait_s: Seconds | None = None
    data_plane: PlaneName = _FETCH.data_plane
    emulator: str | None = None
    user_project: Annotated[str, Meta(pattern="^[A-Za-z0-9][A-Za-z0-9.:-]{0,99}$")] | None = None
    images: str = DEFAULT_IMAGES
    labels: str = DEFAULT_LABELS
    max_objects: Annotated[int, Meta(ge=1)] = MAX_OBJECTS
    catalog: Literal["list", "cached"] = "list"
    catalog_cache: str = "auto"
    group: str | None = None
    num_nodes: Annotated[int, Meta(ge=1, le=MAX_NODES)] | Literal["auto"] | None = None
    node_rank: Annotated[int, Meta(ge=0, lt=MAX_NODES)] | Literal["auto"] | None = None
    worker_timeout_s: Annotated[float, Meta(gt=0.0, le=86400.0)] = 60.0
    http: str = OFF
    http_token_file: str | None = None
    linger_s: Seconds = DEFAULT_LINGER_S
    linger_blocking_s: Seconds = DEFAULT_LINGER_BLOCKING_S

    def __post_init__(self) -> None:
        if self.seed > MAX_UINT64:
            raise ValueError(f"seed {self.seed}: must be at most {MAX_UINT64}")
        if not self.root:
            raise ValueError("root is empty; give gs://bucket/prefix or a folder")
        msgspec.structs.force_setattr(self, "root", absolute_root(self.root))
        if self.ring is not None:
            check_ring_name(self.ring)
        for name in self.ring_names.values():
            check_ring_name(name)
        _parse_size(self.size)
        self._check_pads()
        listen = Listen.parse(self.http)
        if listen is not None and not listen.loopback and self.http_token_file is None:
            raise ValueError(
                f"http {self.http!r} can be reached from other machines; give http_token_file, a file with a token "
                f"that requests must bring, or listen on 127.0.0.1"
            )

    def _check_pads(self) -> None:
        if self.label_mode is not LabelMode.GRAY16 and self.label_pad > 255:
            raise ValueError(f"label_pad {self.label_pad}: must be at most 255 with label_mode = {self.label_mode}")
        for name in ("image_pad", "label_pad"):
            if getattr(self, name) and self.fit is not Fit.PAD:
                raise ValueError(
                    f"{name} {getattr(self, name)}: nothing is padded with fit = {self.fit}; set fit = pad"
                )

    @property
    def ring_names(self) -> dict[str, str]:
        """Ring names by split."""
        prefix = f"{self.ring}-" if self.ring else ""
        return {split: f"{prefix}{split}" for split in ("train", "test")}

    @property
    def pixels(self) -> tuple[int, int] | None:
        """Height and width of a slot; None for ``"auto"``."""
        return _parse_size(self.size)

    @property
    def store_wait(self) -> float:
        """For how long a start waits for the store, in seconds."""
        return DEFAULT_STORE_WAIT_S if self.store_wait_s is None else self.store_wait_s

    @property
    def worker_count(self) -> int:
        """Worker processes."""
        return usable_cores() if self.workers == AUTO else self.workers

    @property
    def downloads(self) -> int:
        """Objects that are downloaded at a time, by all workers together."""
        return self._downloads(DOWNLOADS_A_WORKER)

    @property
    def most_downloads(self) -> int:
        """The same where a worker finds that it waits for the store."""
        return self._downloads(MOST_DOWNLOADS_A_WORKER)

    def _downloads(self, each: int) -> int:
        return min(each * self.worker_count, MOST_DOWNLOADS) if self.concurrency == AUTO else self.concurrency

    @property
    def templates(self) -> KeyTemplates:
        """The key templates. Raises: ConfigError."""
        return KeyTemplates.parse(self.images, self.labels)

    def cache(self) -> CatalogCache:
        """The cached listings of the root."""
        folder = {"auto": default_folder(), "off": None}.get(self.catalog_cache, Path(self.catalog_cache))
        return CatalogCache(folder, root=self.root, emulator=self.emulator, templates=self.templates)

    def nodes(self, environ: Mapping[str, str] = os.environ) -> Nodes:
        """Which machine this is among those that share every epoch.

        Raises:
            ConfigError: the two settings do not say it, or ``"auto"`` finds nothing in the environment.
        """
        return choose_nodes(self.num_nodes, self.node_rank, environ)

    def identity(self, *, size: str | None = None) -> Identity:
        """The settings that decide ids, pixels and order, as they are served.

        Args:
            size: ``HxW`` of the slots, where ``self.size`` left it open.

        Raises:
            DaemonError: see `nodes`; or the emulator has no address.
        """
        nodes, templates = self.nodes(), self.templates
        emulator = self.emulator if self.root.startswith(GCS_SCHEME) else None
        resolved: dict[str, Any] = {
            "emulator": emulator_address(emulator) if emulator else None,
            "images": templates.images.canonical,
            "labels": templates.labels.canonical,
            "size": size or self.size,
            "num_nodes": nodes.num_nodes,
            "node_rank": nodes.node_rank,
        }
        settings = {name: resolved[name] if name in resolved else getattr(self, name) for name in SETTINGS}
        plain: dict[str, Any] = {n: str(value) if isinstance(value, str) else value for n, value in settings.items()}
        return Identity(**plain)

    def fetch_policy(self) -> FetchPolicy:
        """How workers treat the store."""
        return FetchPolicy(
            max_attempts=self.max_attempts,
            deadline_s=self.deadline_s,
            read_timeout_s=self.read_timeout_s,
            attempt_s=self.attempt_s,
            min_bytes_per_s=self.min_bytes_per_s,
            data_plane=self.data_plane,
            user_project=self.user_project,
        )

    def access(self) -> Access:
        """Who may attach.

        Raises:
            ConfigError: there is no such unix group.
        """
        if self.group is None:
            return Access()
        try:
            return Access(mode=0o660, gid=grp.getgrnam(self.group).gr_gid)
        except KeyError as error:
            raise ConfigError(f"group = {self.group!r}: this machine has no such unix group; `groupadd` it") from error


def _parse_size(size: str) -> tuple[int, int] | None:
    if size == "auto":
        return None
    match = re.fullmatch(r"([1-9][0-9]{0,4})x([1-9][0-9]{0,4})", size)
    if match is None:
        raise ValueError(f'size {size!r} is not HEIGHTxWIDTH in pixels, e.g. "224x224", nor "auto"')
    return int(match[1]), int(match[2])


def load_config(path: Path | None, flags: dict[str, Any], *, defaults: Mapping[str, Any] | None = None) -> Config:
    """Read the settings from a TOML file, if there is one, and then from flags.

    Args:
        flags: the values that were given on the command line, by the names of `Config`.
        defaults: what holds where neither says otherwise.

    Raises:
        ConfigError: the file cannot be read, a key is unknown, or a value cannot be meant.
    """
    settings: dict[str, Any] = {}
    if path is not None:
        try:
            with path.open("rb") as file:
                text = file.read(MOST_CONFIG_BYTES + 1)
            if len(text) > MOST_CONFIG_BYTES:
                raise ConfigError(f"{path} is larger than a configuration can be, {MOST_CONFIG_BYTES} bytes.")
            settings = msgspec.toml.decode(text)
        except OSError as error:
            raise ConfigError(f"could not read the configuration {path}: {error.strerror}") from error
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path} is not TOML: {error}") from error
        _convert({"root": "-"} | settings, {}, str(path))  # alone, so that its faults and those of flags are told apart
    settings = {**(defaults or {}), **settings, **flags}
    if isinstance(seed := flags.get("seed"), int) and seed > MAX_UINT64:
        raise ConfigError(f"--seed {seed}: must be at most {MAX_UINT64}")
    if "root" not in settings:
        raise ConfigError(
            "no root is given; say what to serve: `ringfeed serve gs://bucket/prefix`, or root = in --config"
        )
    return _checked(_convert(settings, flags, "the command line"))


def config_of(settings: dict[str, Any], where: str) -> Config:
    """The configuration of a program's settings; a text that is a number is taken for one.

    Args:
        where: what they are called in an error's sentence.

    Raises:
        ConfigError: see `load_config`.
    """
    return _checked(_convert(settings, {}, where, strict=False))


def _checked(config: Config) -> Config:
    config.templates  # noqa: B018  # its sentence belongs here, before anything is started
    config.nodes()  # so does this one, once file and flags are together: one may give the number, the other the rank
    return config


def _convert(settings: dict[str, Any], flags: dict[str, Any], where: str, *, strict: bool = True) -> Config:
    try:
        return msgspec.convert(settings, Config, strict=strict)
    except msgspec.ValidationError as error:
        sentence = setting_error(error, settings, flags, Config)
        raise ConfigError(sentence if sentence.startswith("--") else f"{where}: {sentence}") from error
