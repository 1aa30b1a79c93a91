"""How many cores this process may use, which is fewer than the machine has in a container or a unit with a quota."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Final

CGROUPS: Final = Path("/sys/fs/cgroup")
MEMBERSHIP: Final = Path("/proc/self/cgroup")


def usable_cores(cgroups: Path = CGROUPS, membership: Path = MEMBERSHIP) -> int:
    """Cores of this process's CPU set, or as many as its control groups' quotas are worth where that is fewer.

    Args:
        cgroups: where the control groups' tree (version 2) is mounted.
        membership: which of them is this process's, see cgroups(7).
    """
    cores = len(os.sched_getaffinity(0))
    return max(1, math.ceil(min([cores, *_quotas(cgroups, membership)])))


def _quotas(cgroups: Path, membership: Path) -> list[float]:
    """Cores' worth of CPU that this process's control group may use, and those that hold it."""
    try:
        lines = membership.read_text().splitlines()
    except OSError:
        return []
    path = next((line.removeprefix("0::/") for line in lines if line.startswith("0::/")), None)
    if path is None or ".." in Path(path).parts:
        return []
    group = cgroups / path
    groups = [group, *(parent for parent in group.parents if parent.is_relative_to(cgroups))]
    return [quota for group in groups if (quota := _quota(group / "cpu.max")) is not None]


def _quota(file: Path) -> float | None:
    """``"QUOTA PERIOD"`` in microseconds, or ``"max PERIOD"``."""
    try:
        quota, period = file.read_text().split()
        return int(quota) / int(period)
    except (OSError, ValueError, ZeroDivisionError):
        return None
