"""The machine that numbers were taken on."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path

import msgspec

_PACKAGES = ("ringfeed", "numpy", "pillow", "simplejpeg", "deflate", "isal", "aiohttp", "torch")


class Machine(msgspec.Struct, frozen=True):
    """What numbers depend on.

    Attributes:
        steal_percent: of all CPU time since the machine's start that its host gave to others: on a machine of one's own
            it is 0, and above some percent no number is worth much.
        load: processes that wanted a CPU in the minute before, on the mean.
    """

    processor: str
    cores: int
    memory_gb: float
    kernel: str
    python: str
    packages: dict[str, str]
    nginx: str
    steal_percent: float
    load: float

    def __str__(self) -> str:
        packages = ", ".join(f"{name} {version}" for name, version in self.packages.items())
        return (
            f"{self.cores} cores of {self.processor}, {self.memory_gb:.0f} GB, Linux {self.kernel}, "
            f"Python {self.python}; "
            f"{packages}; {self.nginx}. Load before the start {self.load:.1f}; {self.steal_percent:.0f} % of the "
            "machine's time since its start went to other machines on its host."
        )


def this_machine() -> Machine:
    """Look at it."""
    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    times = [int(field) for field in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    return Machine(
        processor=_field("/proc/cpuinfo", "model name") or platform.machine(),
        cores=len(os.sched_getaffinity(0)),
        memory_gb=os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9,
        kernel=platform.release(),
        python=platform.python_version(),
        packages=versions,
        nginx=_nginx(),
        steal_percent=100 * times[7] / sum(times),
        load=os.getloadavg()[0],
    )


def _field(path: str, key: str) -> str:
    for line in Path(path).read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() == key:
            return " ".join(value.split())
    return ""


def _nginx() -> str:
    environ = {**os.environ, "PATH": f"{os.environ.get('PATH', '')}:/usr/sbin"}
    try:
        said = subprocess.run(["nginx", "-v"], capture_output=True, text=True, check=False, env=environ).stderr
    except OSError:
        return "no nginx"
    return said.partition(":")[2].strip() or "nginx"
