"""Roots, spelled absolutely: one root has one name, wherever it is named from, and two roots never share one."""

from __future__ import annotations

import os
from urllib.parse import unquote

from ringfeedd.errors import ConfigError

GCS_SCHEME = "gs://"
FILE_SCHEME = "file://"


def absolute_root(root: str) -> str:
    """The one name of a root.

    A folder, given as a path or as ``file:///folder``, becomes its real path: ``~`` is the home folder, a relative path
    begins at the current folder, and symbolic links are followed. In ``gs://bucket/prefix`` only slashes at the end are
    dropped: an object's name may hold two in a row.

    Raises:
        ConfigError: it cannot be said in UTF-8, names another machine's folder, or begins at a folder that is gone.
    """
    _refuse_other_bytes(root, root)
    if root.startswith(GCS_SCHEME):
        bucket, _, prefix = root.removeprefix(GCS_SCHEME).partition("/")
        return f"{GCS_SCHEME}{bucket}/{prefix}".rstrip("/") if bucket else root
    path = root
    if root.startswith(FILE_SCHEME):
        host, slash, rest = root.removeprefix(FILE_SCHEME).partition("/")
        if host not in ("", "localhost") or not slash:
            raise ConfigError(f"{root} names a folder on another machine; write file:///FOLDER with three slashes.")
        path = unquote(slash + rest, errors="surrogateescape")
    elif "://" in root:
        return root  # not one that can be read; the source says so
    try:
        real = os.path.realpath(os.path.expanduser(path))  # noqa: PTH111  # pathlib raises where there is no home
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"The folder {root} cannot be looked at: {reason}.") from error
    _refuse_other_bytes(real, root)
    return real


def _refuse_other_bytes(text: str, root: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        shown = root.encode(errors="surrogateescape").decode(errors="backslashreplace")
        raise ConfigError(
            f"The root {shown} is not UTF-8, or lies in a folder whose name is not; rename it."
        ) from error
