"""What has to be done for the service to be there, or gone. Decides from facts and files, and changes nothing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from . import files
from .host import USER, Host
from .steps import InstallError, Step


def plan_install(host: Host, executable: Path, group: str, names: Sequence[str], *, start: bool) -> list[Step]:
    """Return what is missing for the services to be there; nothing that is there already.

    Args:
        group: the unix group that may attach to the rings.
        names: of the configs to serve.
        start: also enable the services at boot, and start them.

    Raises:
        InstallError: there is no such group, or a unit of another author stands in the way.
    """
    live = host.prefix is None
    if live and group not in host.groups and group != USER:
        raise InstallError(f"there is no group {group}; create it first: groupadd --system {group}")
    sysusers = host.path(files.SYSUSERS)
    steps = _written(sysusers, files.sysusers_text())
    if live and not host.has_user:
        steps.append(Step(("systemd-sysusers", str(sysusers))))
    for name in names:
        config = host.path(files.config_path(name))
        if not config.exists():
            steps.append(Step(path=config, content=files.config_text(name, group)))
    units = []
    for unit in (files.UNIT, files.TEMPLATE):
        path = host.path(files.UNITS / unit)
        _refuse_foreign(path)
        units += _written(path, files.unit_text(executable, group, host, instances=unit == files.TEMPLATE))
    steps += units
    if units and live:
        steps.append(Step(("systemctl", "daemon-reload")))
    if start and live:
        steps.append(Step(("systemctl", "enable", "--now", *map(files.service_of, names))))
    return steps


def plan_uninstall(host: Host, names: Sequence[str], *, purge: bool) -> list[Step]:
    """Return what takes away the services of some configs, or everything; configs and user go only with a purge.

    Args:
        names: of the configs whose services go; none: all, with the units and the user.
        purge: also remove the configs, and with everything the user.

    Raises:
        InstallError: a unit is another author's.
    """
    live = host.prefix is None
    units = [host.path(files.UNITS / unit) for unit in (files.UNIT, files.TEMPLATE)]
    for unit in units:
        _refuse_foreign(unit)
    there = [unit for unit in units if unit.exists()]
    steps = []
    if names:
        if there and live:
            steps.append(Step(("systemctl", "disable", "--now", *map(files.service_of, names))))
        configs = [host.path(files.config_path(name)) for name in names]
        return [*steps, *(Step(path=config) for config in configs if purge and config.exists())]
    if there and live:
        instances = map(files.service_of, host.instances)
        steps.append(Step(("systemctl", "disable", "--now", files.UNIT, *instances)))
        steps.append(Step(("systemctl", "stop", files.service_of("*"))))
    steps += [Step(path=unit) for unit in there]
    if there and live:
        steps.append(Step(("systemctl", "daemon-reload")))
    return [*steps, *_purged(host)] if purge else steps


def _purged(host: Host) -> list[Step]:
    """Return what removes the configs that an install made and the user; an operator's own files stay."""
    folder, sysusers = host.path(files.CONFIGS), host.path(files.SYSUSERS)
    steps = []
    if folder.is_dir():
        configs = sorted(folder.glob("*.toml"))
        steps = [Step(path=config) for config in configs]
        if set(folder.iterdir()) <= set(configs):
            steps.append(Step(path=folder))
    if sysusers.exists():
        steps.append(Step(path=sysusers))
    if host.prefix is None and host.user_is_ours:
        steps.append(Step(("userdel", USER)))
    return steps


def _written(path: Path, text: str) -> list[Step]:
    """Return the step that writes the file, unless it says the same already."""
    if path.exists() and path.read_text(encoding="utf-8", errors="replace") == text:
        return []
    return [Step(path=path, content=text)]


def _refuse_foreign(unit: Path) -> None:
    """Stop before a unit of the same name by another author is changed or removed."""
    if unit.exists() and not any(mark in unit.read_text(encoding="utf-8", errors="replace") for mark in files.MARKS):
        raise InstallError(f"{unit} was not written by `ringfeed install-service`; move it away first")
