"""One change to the machine, as it is printed and as it is carried out."""

from __future__ import annotations

import shlex
import subprocess
from dataclasses import dataclass
from pathlib import Path

from ringfeedd.errors import DaemonError
from ringfeedd.system.files import create


class InstallError(DaemonError):
    """The service cannot be installed or removed like this; the message says why, and what to do."""


@dataclass(frozen=True, slots=True)
class Step:
    """One change: a command to run, a file to write (`content`), or a path to remove (neither)."""

    command: tuple[str, ...] = ()
    path: Path | None = None
    content: str | None = None

    def __str__(self) -> str:
        if self.command:
            return f"run     {shlex.join(self.command)}"
        return f"{'remove ' if self.content is None else 'write  '} {self.path}"

    def shown(self) -> str:
        """Return the step and what it would write, for a dry run."""
        lines = [str(self), *(f"  | {line}".rstrip() for line in (self.content or "").splitlines())]
        return "\n".join(lines)


def carry_out(step: Step) -> None:
    """Do one step; a file appears completely or not at all.

    Raises:
        InstallError: the command failed.
        OSError: the file system refused.
    """
    if step.command:
        _run(step.command)
    elif step.path is not None and step.content is None:
        if step.path.is_dir():
            step.path.rmdir()
        else:
            step.path.unlink()
    elif step.path is not None and step.content is not None:
        _write(step.path, step.content)


def _run(command: tuple[str, ...]) -> None:
    try:
        code = subprocess.run(command, check=False, stdin=subprocess.DEVNULL).returncode
    except FileNotFoundError as error:
        raise InstallError(f"`{command[0]}` is not installed here; nothing more was done") from error
    if code != 0:
        raise InstallError(f"`{shlex.join(command)}` failed with exit code {code}; nothing more was done")


def _write(path: Path, content: str) -> None:
    for parent in reversed(path.parents):
        if not parent.exists():
            parent.mkdir(mode=0o755)
            parent.chmod(0o755)  # whatever root's umask is
    draft = path.with_name(f".{path.name}.new")
    draft.unlink(missing_ok=True)
    with create(draft) as file:
        file.write(content.encode())
    draft.chmod(0o644)
    draft.replace(path)
