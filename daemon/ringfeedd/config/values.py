"""What the value of a setting may be. Each ``checked_`` function returns it as it is kept.

Or it raises ValueError or ConfigError, which say what is wrong with it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Final

from ringfeed.shm.descriptor import check_ring_name
from ringfeedd.nodes import AUTO
from ringfeedd.storage.roots import absolute_root

SPLITS: Final = ("train", "test")


def parse_pixels(size: str) -> tuple[int, int] | None:
    """Return the height and width that ``HxW`` gives, pixels; None for ``auto``.

    Raises:
        ValueError: it is neither.
    """
    if size == AUTO:
        return None
    match = re.fullmatch(r"([1-9][0-9]{0,4})x([1-9][0-9]{0,4})", size)
    if match is None:
        raise ValueError(f'size {size!r} is not HEIGHTxWIDTH in pixels, e.g. "224x224", nor "auto"')
    return int(match[1]), int(match[2])


def ring_names(ring: str | None) -> dict[str, str]:
    """Return the names of a daemon's rings by split."""
    return {split: f"{ring}-{split}" if ring else split for split in SPLITS}


def checked_root(root: str) -> str:
    """Return a root as absolute as it can be."""
    if not root:
        raise ValueError("root is empty; give gs://bucket/prefix or a folder")
    return absolute_root(root)


def checked_ring(ring: str) -> str:
    """Return a name from which names for all rings can be made."""
    check_ring_name(ring)
    for name in ring_names(ring).values():
        check_ring_name(name)
    return ring


def readable(parse: Callable[[str], object]) -> Callable[[str], str]:
    """Return a check that takes each text which ``parse`` reads, as it is written."""

    def checked(text: str) -> str:
        parse(text)
        return text

    return checked


def checked_folder(folder: str) -> str:
    """Return a folder as an absolute path."""
    if not folder:
        raise ValueError("cache.disk.dir is empty; name a folder on a local disk")
    return os.path.abspath(Path(folder).expanduser())  # noqa: PTH100  # a link may be moved


def checked_project(project: str) -> str:
    """Return a project's ID."""
    if not re.fullmatch("[A-Za-z0-9][A-Za-z0-9.:-]{0,99}", project):
        raise ValueError(f"user_project {project!r} cannot be a project's ID; use letters, digits, '.', ':' and '-'")
    return project
