"""What a listing leaves out, by one rule for folders and buckets, and how it is told. Pure."""

from __future__ import annotations

import re
from collections import Counter
from enum import StrEnum
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

NAMED: Final = 5
"""Names of each kind that are kept to be told."""

_KEPT_BY_OTHERS: Final = (
    "__MACOSX",
    "@eaDir",
    "@Recycle",
    "#recycle",
    "#snapshot",
    "$RECYCLE.BIN",
    "System Volume Information",
    "lost+found",
    "Thumbs.db",
    "ehthumbs.db",
    "desktop.ini",
)
"""What file managers and disk servers keep for themselves, in any case of letters."""

_KEPT: Final = frozenset(name.lower() for name in _KEPT_BY_OTHERS)
_ODD: Final = frozenset({"", "."})
"""What begins the last part of a folder marker, or of a hidden file."""

_HIDDEN: Final = re.compile(rf"(?:^|/)(?:\.[^/]*|{'|'.join(map(re.escape, _KEPT_BY_OTHERS))})(?=/|$)", re.IGNORECASE)
"""A part of a name that begins with a dot (``._a.jpg``, ``.DS_Store``, ``.ipynb_checkpoints``), or one of these."""

_MARKER: Final = re.compile(r"/$|_\$folder\$$")
"""The objects by which tools make a bucket look as if it had folders."""


class Kind(StrEnum):
    """What was left out, and so why; the values are words for people."""

    HIDDEN = "hidden files and folders, and those of other programs"
    MARKER = "folder markers"
    UNREADABLE = "files and folders that this user may not read"
    BROKEN = "links that lead nowhere"
    LOOP = "links that lead back to a folder above them"
    SPECIAL = "pipes, sockets and devices"
    OTHER = "objects that fit neither template"


class Skipped:
    """Decides which names one listing leaves out, and counts everything that it leaves out for whatever reason.

    A hidden folder counts once, whatever is in it. What a template's prefix names is never hidden: with
    ``.masks/{id}.png`` the folder ``.masks`` is meant.

    Attributes:
        counts: files, folders and objects by kind.
        names: the first `NAMED` of each kind, printable.
    """

    def __init__(self, given: Iterable[str] = ()) -> None:
        """Count nothing yet.

        Args:
            given: the prefixes that the operator named.
        """
        self._given = tuple(given)
        self.counts: Counter[Kind] = Counter()
        self.names: dict[Kind, list[str]] = {}
        self._folders: set[str] = set()
        self._folder, self._folder_hides = "", False

    def __repr__(self) -> str:
        return f"Skipped({', '.join(f'{kind.name.lower()} {count}' for kind, count in self.counts.items())})"

    def takes(self, name: str) -> bool:
        """Return whether the listing keeps a file or object of this name; count it where it does not."""
        cut = name.rfind("/") + 1
        folder, last = name[:cut], name[cut:]
        if folder != self._folder:  # names of one folder come one after the other
            self._folder, self._folder_hides = folder, self._hidden(folder) is not None
        if not self._folder_hides and last[:1] not in _ODD and last.lower() not in _KEPT and not last.endswith("$"):
            return True
        if (hidden := self._hidden(name)) is not None:
            self._count_hidden(hidden)
            return False
        if _MARKER.search(name):
            self.add(Kind.MARKER, name)
            return False
        return True

    def enters(self, folder: str) -> bool:
        """Return whether the listing looks into a folder, which is named without a slash at its end."""
        inside = f"{folder}/"
        if any(prefix.startswith(inside) for prefix in self._given):
            return True
        if (hidden := self._hidden(inside)) is not None:
            self._count_hidden(hidden)
        return hidden is None

    def add(self, kind: Kind, name: str) -> None:
        """Count one file, folder or object that was left out."""
        self.counts[kind] += 1
        names = self.names.setdefault(kind, [])
        if len(names) < NAMED:
            names.append(name.encode(errors="backslashreplace").decode()[:200])

    def update(self, other: Skipped) -> None:
        """Add what another listing left out."""
        self.counts.update(other.counts)
        for kind, names in other.names.items():
            self.names[kind] = sorted([*self.names.get(kind, ()), *names])[:NAMED]

    def _hidden(self, name: str) -> str | None:
        """The hidden file or folder that holds `name`, or is it; None where there is none."""
        if _HIDDEN.search(name) is None:
            return None
        given = max((len(prefix) for prefix in self._given if name.startswith(prefix)), default=0)
        for part in _HIDDEN.finditer(name):
            begin = part.start() + part[0].startswith("/")
            if begin >= given:
                return name[: part.end() + 1]
        return None

    def _count_hidden(self, hidden: str) -> None:
        if not hidden.endswith("/"):
            self.add(Kind.HIDDEN, hidden)
        elif hidden not in self._folders:
            self._folders.add(hidden)
            self.add(Kind.HIDDEN, hidden)
