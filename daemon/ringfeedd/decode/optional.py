"""The packages of the extra ``fast``: used where they are installed, missed nowhere."""

from __future__ import annotations

import importlib
from types import ModuleType


def optional(name: str) -> ModuleType | None:
    """The module of that name, None where it is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError:
        return None
