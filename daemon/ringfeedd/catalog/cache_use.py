"""Which cached listings are in use: each daemon keeps a small list next to them of those that it serves.

The list outlives its daemon, since trainers may wait for the next one, which must find what they were promised.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import time
from collections.abc import Collection
from pathlib import Path
from typing import Final

from ringfeedd.system.files import create, read_regular

IN_USE_S: Final = 86400.0
"""For which a daemon's list counts after it was written last: longer than trainers wait, or a machine sleeps."""

_SUFFIX: Final = ".served"
_MOST_BYTES: Final = 1 << 20


def mark(folder: Path, ring: str, names: Collection[str]) -> None:
    """Write which listings the daemon of a ring of this machine serves, in the place of what it wrote before.

    Raises:
        OSError: the folder cannot be written.
    """
    who = hashlib.blake2b(json.dumps([platform.node(), os.geteuid(), ring]).encode(), digest_size=12).hexdigest()
    draft = folder / f"{who}.{os.getpid()}.draft"
    draft.unlink(missing_ok=True)
    with create(draft) as file:
        file.write(json.dumps(sorted(names)).encode())
    draft.replace(folder / f"{who}{_SUFFIX}")


def in_use(folder: Path) -> set[str]:
    """The names of the listings that daemons serve, or served lately. Lists that are out of date are removed."""
    names: set[str] = set()
    for path in folder.glob(f"*{_SUFFIX}"):
        with contextlib.suppress(OSError, ValueError, RecursionError):
            facts = path.lstat()
            if time.time() - facts.st_mtime > IN_USE_S:
                path.unlink(missing_ok=True)
                continue
            text, _ = read_regular(path, _MOST_BYTES)
            if len(text) <= _MOST_BYTES:
                listed = json.loads(text)
                names |= {name for name in listed if isinstance(name, str)} if isinstance(listed, list) else set()
    return names
