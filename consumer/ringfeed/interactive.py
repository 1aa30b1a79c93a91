"""Whether a person types at a prompt, or runs cells, and what readers do by default there.

Names in an interactive session live until they are used again, and between two cells nothing runs. So batches are
copies, and others do not wait for a session that pauses.
"""

from __future__ import annotations

import multiprocessing
import sys

from ringfeed.log import warn

_NOT_TYPED = ("<string>", "<stdin>", "<frozen ")
"""What begins the names of code without a file that may be a job's: ``python -c``, ``python < train.py``."""

_told = False


def by_default(copy: bool | None, on_lag: str | None, *, alone: bool = True) -> tuple[bool, str]:
    """Return ``copy`` and ``on_lag`` as they were given; where they were not, as suits the caller's kind of session.

    Args:
        alone: no other ranks read in the same group; theirs must not be passed over one by one.
    """
    if (copy is None or on_lag is None) and _interactive():
        _tell()
        lag = on_lag or ("block" if copy is False or not alone else "yield")
        return (True if copy is None else copy), lag
    return bool(copy), on_lag or "block"


def _interactive() -> bool:
    if multiprocessing.parent_process() is not None:  # a process that a session started
        return False
    ipython = sys.modules.get("IPython")
    if ipython is not None and ipython.get_ipython() is not None:
        return True
    return hasattr(sys, "ps1") or bool(sys.flags.interactive) or _typed()


def _typed() -> bool:
    """Whether the code that called Ringfeed has no file, as that of consoles and notebooks of any kind."""
    frame = sys._getframe(1)  # noqa: SLF001
    while frame.f_globals.get("__name__", "").partition(".")[0] == "ringfeed" and frame.f_back is not None:
        frame = frame.f_back
    name = frame.f_code.co_filename
    return name.startswith("<") and not name.startswith(_NOT_TYPED)


def _tell() -> None:
    global _told  # noqa: PLW0603  # once a process
    if not _told:
        _told = True
        warn(
            "This is an interactive session: batches are copies (copy=True), and other jobs do not wait for it while "
            'it pauses (on_lag="yield"). Pass copy=False for batches in place, on_lag="block" to be waited for.'
        )
