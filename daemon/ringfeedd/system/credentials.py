"""Secrets that systemd loads for the service (``LoadCredential=``): a Google key file and the status page's token."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from pathlib import Path
from typing import Final

from ringfeedd.system.files import read_regular

GCS_KEY: Final = "gcs-key"
HTTP_TOKEN: Final = "http-token"  # noqa: S105  # its name

ABSENT: Final = b"none"
"""What the unit gives the service in place of a file that does not exist: older systemd has no optional credentials."""


def credential(name: str, environ: Mapping[str, str]) -> Path | None:
    """Return the file of a credential, or None without one.

    Args:
        name: `GCS_KEY` or `HTTP_TOKEN`; that of this config alone (``NAME.own``) comes first.
        environ: names the folder, ``CREDENTIALS_DIRECTORY``.
    """
    folder = environ.get("CREDENTIALS_DIRECTORY")
    for path in (Path(folder, f"{name}.own"), Path(folder, name)) if folder else ():
        try:
            content, _ = read_regular(path, len(ABSENT))
        except OSError:  # not in this unit
            continue
        if content.strip() not in (b"", ABSENT):
            return path
    return None


def use_key(environ: MutableMapping[str, str]) -> None:
    """Have Google's libraries find the key file that systemd loaded, unless the environment names another one."""
    if key := credential(GCS_KEY, environ):
        environ.setdefault("GOOGLE_APPLICATION_CREDENTIALS", str(key))
