"""A small GCS server for tests, demonstrations and trials: the JSON API's reading half, with counted requests.

It does not emulate all of Google's service: nothing can be written, and there are no permissions. It is here because a
client's promises can only be tried against a server that fails on command, see `Fault`.
"""

from __future__ import annotations

from .faults import Fault
from .server import FakeGcs, serve_in_thread

__all__ = ["FakeGcs", "Fault", "serve_in_thread"]
