"""Where the pairs come from: a GCS bucket or a local folder, behind one protocol."""

from __future__ import annotations

from pathlib import Path

from ringfeedd.errors import ConfigError, StartError
from ringfeedd.storage.base import MAX_OBJECT_BYTES, PAGE_OBJECTS, ObjectInfo, Source, SourceError
from ringfeedd.storage.gcs import open_gcs
from ringfeedd.storage.local import LocalSource
from ringfeedd.storage.pages import MAX_OBJECTS
from ringfeedd.storage.roots import GCS_SCHEME, absolute_root
from ringfeedd.storage.settings import LISTING_WAIT_S, StoreSettings
from ringfeedd.storage.skipped import Kind, Skipped
from ringfeedd.storage.transport.base import DEFAULT_TRANSPORT, TransportName
from ringfeedd.storage.transport.choice import transport_module

__all__ = [
    "DEFAULT_TRANSPORT",
    "GCS_SCHEME",
    "LISTING_WAIT_S",
    "MAX_OBJECTS",
    "MAX_OBJECT_BYTES",
    "PAGE_OBJECTS",
    "Kind",
    "ObjectInfo",
    "Skipped",
    "Source",
    "SourceError",
    "StoreSettings",
    "TransportName",
    "modules_for",
    "open_source",
]


async def open_source(root: str, settings: StoreSettings) -> Source:
    """The source for `root`: ``gs://bucket/prefix``, ``file:///folder`` or a path to a folder.

    Sends no request but the one for a token: a bucket that does not exist shows in the first listing. To be called
    inside the event loop that will use the source, and closed there.

    Args:
        root: what to read from. After ``gs://bucket/``, everything is the prefix as it is: nothing is unquoted.
        settings: how it is asked.

    Raises:
        StartError: no such folder, no such kind of root, no usable credentials, no package for the transport, or an
            emulator set in the environment that the user did not ask for.
        ConfigError: see `absolute_root`.
    """
    if settings.concurrency < 1:
        raise StartError(f"The concurrency is {settings.concurrency}, and nothing can be read so; set it to 1 or more.")
    if root.startswith(GCS_SCHEME):
        return await open_gcs(root, settings)
    folder = absolute_root(root)
    if "://" in folder:
        raise ConfigError(f"{root} is no root that Ringfeed can read; give gs://BUCKET/PREFIX or a folder.")
    return _open_folder(Path(folder), settings.concurrency)


def modules_for(root: str, *, emulator: str | None, transport: TransportName = DEFAULT_TRANSPORT) -> list[str]:
    """The modules that `open_source` will import for it, and a process may import before there is a loop."""
    if not root.startswith(GCS_SCHEME):
        return []
    return [transport_module(transport), *([] if emulator else [f"{__name__}.token"])]


def _open_folder(folder: Path, concurrency: int) -> LocalSource:
    try:
        found, is_folder = folder.exists(), folder.is_dir()
    except OSError as error:  # a path with a NUL, a name too long, a folder above it that may not be entered
        raise StartError(f"The folder {folder} cannot be looked at: {error.strerror or error}.") from error
    if not found:
        raise StartError(f"There is no folder {folder}; give an existing folder or gs://BUCKET/PREFIX.")
    if not is_folder:
        raise StartError(f"{folder} is a file, not a folder; give the folder above the images and labels.")
    return LocalSource(folder, concurrency=concurrency)
