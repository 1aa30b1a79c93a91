"""The singleton lock: one daemon for a ring's name."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from ringfeed.errors import NotTrustedError
from ringfeed.shm import layout, segment
from ringfeed.shm.access import describe, ownership
from ringfeed.shm.descriptor import check_ring_name
from ringfeed.shm.layout import DAEMON_LOCK_BYTE
from ringfeedd.errors import AlreadyRunningError, StartError
from ringfeedd.shm.memory import Access

_LOCK_TRIES: Final = 10
_MODE: Final = 0o600
"""No member of the ring's group can hold it, and so keep the next daemon away."""


def _insist_on_our_own(facts: os.stat_result, path: Path, ring: str) -> None:
    if facts.st_uid != os.geteuid():
        raise StartError(
            f"{path} {ownership(facts)} belongs to another user, who may serve the ring {ring!r}; choose another name "
            f"with --ring, or have that user or root remove it if no daemon of theirs runs"
        )


class SingletonLock:
    """The right to serve a ring's name. Its file is unlinked by its holder only, at a clean stop."""

    def __init__(self, ring: str, access: Access) -> None:
        """Take it.

        Raises:
            AlreadyRunningError: another daemon has it.
            StartError: the file is not ours to lock.
        """
        check_ring_name(ring)
        self.name = layout.lock_name(ring)
        path = segment.shm_path(self.name)
        for _ in range(_LOCK_TRIES):
            try:
                fd = segment.create(self.name, 0, mode=_MODE, gid=access.gid)
            except FileExistsError:
                try:
                    _insist_on_our_own(path.lstat(), path, ring)
                    fd = segment.open_lock(self.name)
                except FileNotFoundError:
                    continue
                except NotTrustedError as error:
                    raise StartError(
                        f"{error}; as long as it is there, no daemon of this user can serve the ring {ring!r}: choose "
                        f"another name with --ring"
                    ) from error
            except OSError as error:
                raise StartError(
                    f"could not create {path}: {error.strerror}; is {describe(path.parent)} mounted and writable?"
                ) from error
            if size := os.fstat(fd).st_size:
                os.close(fd)
                raise StartError(
                    f"{describe(path)} holds {size} bytes, and a daemon's lock file none, so it is left alone; find "
                    f"out who made it and remove it, or choose another name with --ring"
                )
            if not segment.try_lock(fd, DAEMON_LOCK_BYTE):
                os.close(fd)
                raise AlreadyRunningError(
                    f"another daemon serves the ring {ring!r} already (`ringfeed status {ring}` shows it); stop it, or "
                    f"choose another name with --ring"
                )
            # The holder before us may have unlinked the file between our open and our lock.
            if segment.is_still(self.name, fd):
                self._fd = fd
                return
            os.close(fd)
        raise StartError(f"{path} changes hands all the time; is something starting daemons in a loop?")

    def release(self) -> None:
        """Unlink the file, then let the next one in."""
        if self.held:  # else it was removed, and what lies there now is another daemon's
            segment.shm_path(self.name).unlink(missing_ok=True)
        os.close(self._fd)

    @property
    def held(self) -> bool:
        """Whether the lock's file is still where the next daemon looks for it."""
        return segment.is_still(self.name, self._fd)
