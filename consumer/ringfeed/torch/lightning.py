"""What Lightning does with a loader's length: it asks for it once, and cuts every epoch there."""

from __future__ import annotations

from types import FrameType
from typing import Final

_LIGHTNINGS: Final = ("lightning.", "lightning_fabric.", "pytorch_lightning.")
_BETWEEN: Final = ("torch.", "ringfeed.")


def asks_once(caller: FrameType | None) -> bool:
    """Return True if Lightning asks for a length, directly or by a DataLoader's own."""
    while caller is not None and (module := str(caller.f_globals.get("__name__", ""))).startswith(_BETWEEN):
        caller = caller.f_back
    return caller is not None and module.startswith(_LIGHTNINGS)
