"""The one table of settings. A new setting is one declaration in `Config`, and its use.

From it come the flags of `ringfeed serve` and their help, the keys of the TOML file, the variables ``RINGFEED_*``,
``docs/settings.md``, the commented example file, and what `ringfeed config` shows and checks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal, get_args

from ringfeed.shm.layout import MAX_LANES, MAX_UINT64
from ringfeedd.catalog.templates import DEFAULT_IMAGES, DEFAULT_LABELS, KeyTemplate
from ringfeedd.config.declaration import Group, Setting, declared, setting
from ringfeedd.config.kinds import Choice, Duration, Number, Rate, Size, Switch, Text, Whole, WordOr
from ringfeedd.config.listen import OFF, Listen
from ringfeedd.config.values import (
    checked_folder,
    checked_project,
    checked_ring,
    checked_root,
    parse_pixels,
    readable,
)
from ringfeedd.decode.spec import DEFAULT_MAX_PIXELS, Fit, LabelMode
from ringfeedd.fetch.policy import FetchPolicy
from ringfeedd.nodes import AUTO, MAX_NODES
from ringfeedd.order import Mode
from ringfeedd.ring.failures import OnError
from ringfeedd.ring.groups import DEFAULT_LINGER_BLOCKING_S, DEFAULT_LINGER_S
from ringfeedd.storage import MAX_OBJECTS, TransportName

DOWNLOADS_A_WORKER, MOST_DOWNLOADS_A_WORKER, MOST_DOWNLOADS = 128, 512, 4096

DEFAULT_STORE_WAIT_S: Final = 600.0
"""With it, starts that fail lie too far apart for systemd to stop trying (StartLimitBurst in the unit)."""

DAY_S: Final = 86400.0

_FETCH: Final = FetchPolicy()

LogLevel = Literal["debug", "info", "warning", "error"]
LogFormat = Literal["text", "json"]

_NODES: Final = "the two numbers together, when the daemon starts"


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """The settings of one daemon: plain data, as given or by default. `resolve` makes of it what one machine does.

    A value is checked where a file, a variable, a flag or a program gives it (`load`), not here.
    """

    root: str = setting(
        Group.DATA,
        Text("ROOT", checked_root, example='"gs://bucket/prefix" or a folder'),
        help="bucket and prefix, or a folder, with the pairs: gs://bucket/prefix, /folder",
        example="gs://my-bucket/prefix",
        checked="that it exists and can be listed, when the daemon starts",
    )
    images: str = setting(
        Group.DATA,
        Text("TEMPLATE", readable(KeyTemplate.parse), example='"images/{id}.jpg"'),
        DEFAULT_IMAGES,
        help="names of the images below the root; {id} is the same for an image and its label",
        checked="that images and labels differ",
    )
    labels: str = setting(
        Group.DATA,
        Text("TEMPLATE", readable(KeyTemplate.parse), example='"labels/{id}.png"'),
        DEFAULT_LABELS,
        help="names of the labels below the root",
    )
    test_ratio: float = setting(
        Group.DATA,
        Number(least=0.0, below=1.0, metavar="FRACTION"),
        0.1,
        help="fraction of the pairs in the test ring; 0: no test ring",
    )
    order: Mode = setting(Group.DATA, Choice(Mode), Mode.SHUFFLE, help="order of an epoch")
    seed: int = setting(Group.DATA, Whole(0, MAX_UINT64), 0, help="seed of the order")
    max_objects: int = setting(
        Group.DATA,
        Whole(1),
        MAX_OBJECTS,
        help="refuse a listing with more objects",
        reload=True,
    )
    catalog: Literal["list", "cached"] = setting(
        Group.DATA,
        Choice(("list", "cached")),
        "list",
        help="list the root at the start, or start with the latest cached listing and list in the background",
    )
    catalog_cache: str = setting(
        Group.DATA,
        Text("DIR"),
        "auto",
        help="folder for cached listings, auto (of systemd or the user), or off",
    )
    emulator: str | None = setting(
        Group.DATA,
        Text("URL", example='"http://localhost:9023"'),
        None,
        help="address of a GCS emulator to use instead of Google's service",
        unset="none",
        example="http://127.0.0.1:9023",
    )
    user_project: str | None = setting(
        Group.DATA,
        Text("PROJECT", checked_project),
        None,
        help="project that pays for listings and downloads of a requester-pays bucket",
        unset="none",
        example="my-project",
    )

    ring: str | None = setting(
        Group.RINGS,
        Text("NAME", checked_ring),
        None,
        help="serve the rings NAME-train and NAME-test",
        unset="train and test",
        example="NAME",
    )
    size: str = setting(
        Group.RINGS,
        Text("HxW", readable(parse_pixels), example='"224x224" (height x width in pixels) or "auto"'),
        AUTO,
        help="height and width of a slot in pixels, or auto: from a sample of the pairs",
    )
    slots: int | None = setting(
        Group.RINGS,
        Whole(2, 1 << 24),
        None,
        help="slots of each ring",
        unset="half of the free memory, at most 512; up to 4096 where they are small",
        example=512,
        checked="that the memory suffices, when the daemon starts",
    )
    lanes: int = setting(
        Group.RINGS, Whole(1, MAX_LANES), 64, help="processes that can be attached to a ring at the same time"
    )
    group: str | None = setting(
        Group.RINGS,
        Text("NAME"),
        None,
        help="unix group whose members may attach",
        unset="only this user",
        example="ringfeed",
        checked="that the group exists, when the daemon starts",
    )
    linger_s: float = setting(
        Group.RINGS,
        Duration(least=0.0, most=DAY_S),
        DEFAULT_LINGER_S,
        help="time for which the place of an absent rank is kept",
        reload=True,
    )
    linger_blocking_s: float = setting(
        Group.RINGS,
        Duration(least=0.0, most=DAY_S),
        DEFAULT_LINGER_BLOCKING_S,
        help="the same while another group waits for its slots",
        reload=True,
    )

    fit: Fit = setting(Group.DECODING, Choice(Fit), Fit.RESIZE, help="how an image is fitted to a slot")
    label_mode: LabelMode = setting(
        Group.DECODING,
        Choice(LabelMode),
        LabelMode.RGB,
        help="values of the labels: colours, class ids, 16-bit numbers",
    )
    image_pad: int = setting(
        Group.DECODING,
        Whole(0, 255),
        0,
        help="value around an image with fit = pad",
        checked="that fit is pad",
    )
    label_pad: int = setting(
        Group.DECODING,
        Whole(0, 65535),
        0,
        help="value around a label with fit = pad, e.g. 255 for a class that the loss ignores",
        checked="that fit is pad; above 255 only with label_mode = gray16",
    )
    exif_orientation: bool = setting(
        Group.DECODING, Switch(), False, help="turn images by their EXIF orientation, and labels with them"
    )
    max_pixels: int = setting(
        Group.DECODING, Whole(1), DEFAULT_MAX_PIXELS, help="refuse images and labels with more pixels"
    )

    workers: int | Literal["auto"] = setting(
        Group.WORKERS,
        WordOr(AUTO, Whole(1, 512)),
        AUTO,
        help="processes that download and decode; auto: one per core that the daemon may use",
        reload=True,
    )
    concurrency: int | Literal["auto"] = setting(
        Group.WORKERS,
        WordOr(AUTO, Whole(1, MOST_DOWNLOADS)),
        AUTO,
        help=f"concurrent downloads; auto: {DOWNLOADS_A_WORKER} per worker, up to {MOST_DOWNLOADS_A_WORKER} for a "
        "distant store",
        reload=True,
    )
    worker_timeout_s: float = setting(
        Group.WORKERS,
        Duration(above=0.0, most=DAY_S),
        60.0,
        help="time for one decode, after which its worker is killed and replaced",
        reload=True,
    )

    max_attempts: int = setting(
        Group.DOWNLOADS,
        Whole(1, 100),
        _FETCH.max_attempts,
        help="attempts per object; outages of the store do not count",
        reload=True,
    )
    deadline_s: float = setting(
        Group.DOWNLOADS,
        Duration(above=0.0, most=DAY_S),
        _FETCH.deadline_s,
        help="time per object, for all attempts; outages do not count",
        reload=True,
    )
    attempt_s: float = setting(
        Group.DOWNLOADS,
        Duration(above=0.0, most=DAY_S),
        _FETCH.attempt_s,
        help="time per attempt, plus 1 s per MiB",
        reload=True,
    )
    read_timeout_s: float = setting(
        Group.DOWNLOADS,
        Duration(above=0.0, most=3600.0),
        _FETCH.read_timeout_s,
        help="time without data after which a download is cut and retried",
    )
    min_bytes_per_s: float = setting(
        Group.DOWNLOADS,
        Rate(least=0.0, most=1e9),
        _FETCH.min_bytes_per_s,
        help="an attempt that is slower for 10 s is cut and retried",
        reload=True,
    )
    store_wait_s: float | None = setting(
        Group.DOWNLOADS,
        Duration(least=0.0, most=DAY_S),
        None,
        help="time for which a start waits for a store that does not answer; 0: not at all",
        unset="600, but not for a host that has never answered",
        example=600.0,
    )
    transport: TransportName = setting(
        Group.DOWNLOADS,
        Choice(get_args(TransportName)),
        _FETCH.transport,
        help="library that downloads; auto: curl, if the extra 'fast' is installed",
        earlier="data_plane",
    )

    cache_memory: int | Literal["auto", "off"] = setting(
        Group.CACHE,
        WordOr(OFF, WordOr(AUTO, Size())),
        OFF,
        key="cache.memory",
        help="shared memory for decoded pairs, which later epochs copy; auto: what the machine can spare",
        example="32 GiB",
        checked="that there is so much memory, when the daemon starts",
    )
    cache_disk: str | None = setting(
        Group.CACHE,
        Text("DIR", checked_folder),
        None,
        key="cache.disk.dir",
        help="folder on a local disk for downloaded pairs, which later epochs and daemons read",
        unset="none",
        example="/nvme/ringfeed",
    )
    cache_disk_size: int | Literal["auto"] = setting(
        Group.CACHE,
        WordOr(AUTO, Size()),
        AUTO,
        key="cache.disk.size",
        help="disk space for the pairs of one root; auto: 0.9 of what is free",
        example="500 GiB",
    )

    max_failed: float = setting(
        Group.FAILURES,
        Number(least=0.0, most=1.0, metavar="FRACTION"),
        0.01,
        help="fraction of the pairs that may fail before the ring stops",
        reload=True,
    )
    on_error: OnError = setting(
        Group.FAILURES,
        Choice(OnError),
        OnError.REPLACE,
        help="replace a pair that fails to load, or stop the ring at the first",
        reload=True,
    )

    num_nodes: int | Literal["auto"] | None = setting(
        Group.NODES,
        WordOr(AUTO, Whole(1, MAX_NODES)),
        None,
        help="machines that share every epoch, or auto: from torchrun or SLURM",
        unset="this machine alone",
        example=2,
        checked=_NODES,
    )
    node_rank: int | Literal["auto"] | None = setting(
        Group.NODES,
        WordOr(AUTO, Whole(0, MAX_NODES - 1)),
        None,
        help="number of this machine, 0 to num_nodes - 1, or auto",
        unset="this machine alone",
        example=0,
        checked=_NODES,
    )

    http: str = setting(
        Group.PAGE,
        Text("HOST:PORT", readable(Listen.parse)),
        OFF,
        help="address of the status page and the metrics, e.g. 127.0.0.1:9753, or off",
        checked="that the address is free, when the daemon starts",
    )
    http_token_file: str | None = setting(
        Group.PAGE,
        Text("FILE"),
        None,
        help="file with the token that requests must send; required for addresses other than loopback",
        reload=True,
        unset="none",
        example="/etc/ringfeed/http-token",
        checked="that only the daemon's user can read the file, when the daemon starts",
    )

    log_level: LogLevel = setting(
        Group.LOG, Choice(get_args(LogLevel)), "info", help="least level of the lines in the log", reload=True
    )
    log_format: LogFormat = setting(
        Group.LOG, Choice(get_args(LogFormat)), "text", help="lines for people, or a JSON object per line", reload=True
    )


SETTINGS: Final[Mapping[str, Setting]] = declared(Config)
"""All settings by name."""

BY_KEY: Final[Mapping[str, Setting]] = {one.key: one for one in SETTINGS.values()}
"""All settings by their name in a file."""

RENAMED: Final[Mapping[str, Setting]] = {one.earlier: one for one in SETTINGS.values() if one.earlier}
"""Settings by the names that they had in earlier versions."""
