"""A proxy in the environment is for the way out: what lies on this machine, or next to it, is reached without it."""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Final

DIRECT: Final = ("localhost", "127.0.0.1", "::1", "169.254.169.254", "metadata.google.internal", "metadata")
"""This machine, and Google's metadata server, which gives tokens to its virtual machines and to no proxy."""

_METADATA_VARIABLES: Final = ("GCE_METADATA_HOST", "GCE_METADATA_IP")


def spare_local_hosts(environ: MutableMapping[str, str]) -> None:
    """Add the hosts that are never reached through a proxy to ``no_proxy``; what stands there stays.

    Worker processes inherit it.
    """
    given = environ.get("no_proxy") or environ.get("NO_PROXY") or ""
    if given.strip() == "*":
        return
    named = (environ.get(name, "").partition(":")[0] for name in _METADATA_VARIABLES)
    hosts = [host.strip() for host in given.split(",")] + [*DIRECT, *named]
    environ["no_proxy"] = ",".join(dict.fromkeys(filter(None, hosts)))
