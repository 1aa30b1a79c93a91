"""A Debian machine in a container: made by debootstrap, kept in a cache, booted by systemd-nspawn on an overlay."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent.parent
CACHE = Path("/var/cache/ringfeed/try-systemd")
MIRROR = "http://deb.debian.org/debian"
PACKAGES = "systemd,systemd-sysv,dbus,python3,python3-venv,ca-certificates,procps"
VENV = "/opt/ringfeed"
NAME = "ringfeed-trial"
COMMAND_S = 900
"""For one command, e.g. debootstrap with a slow mirror."""

INSIDE_S = 120
"""For one command in the machine, e.g. the start of a service."""

BOOT_S = 60
STOP_S = 30


class TrialError(Exception):
    """Something is not as it should be; the message says what."""


def call(*command: str | Path, timeout_s: float = COMMAND_S) -> str:
    """Run a command to its end and return its output. Raises: TrialError with what it printed."""
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL, timeout=timeout_s
    )
    if done.returncode:
        printed = (done.stdout + done.stderr).strip()[-2000:]
        raise TrialError(f"`{' '.join(map(str, command))}` ended with {done.returncode}: {printed}")
    return done.stdout


def wait_for(what: str, condition: Callable[[], bool], seconds: float) -> float:
    """Wait until a condition holds, and return how long that took, in seconds. Raises: TrialError."""
    began = time.monotonic()
    while not condition():
        if time.monotonic() - began > seconds:
            raise TrialError(f"after {seconds:g} s still not: {what}")
        time.sleep(0.1)
    return time.monotonic() - began


def base(suite: str) -> Path:
    """Return a root with Debian and, in /opt/ringfeed, what the daemon needs from PyPI; make it if there is none."""
    needs = (REPOSITORY / "scripts/locks/daemon.txt").read_text()
    key = hashlib.sha256(f"{suite} {PACKAGES} {VENV} {needs}".encode()).hexdigest()[:16]
    root = CACHE / f"{suite}-{key}"
    if root.is_dir():
        return root
    CACHE.mkdir(parents=True, exist_ok=True)
    for old in CACHE.glob(f"{suite}-*"):
        shutil.rmtree(old)
    print(f"making Debian {suite} in {root}, once", flush=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{suite}-", dir=CACHE))
    try:
        draft.chmod(0o755)
        call("debootstrap", "--variant=minbase", f"--include={PACKAGES}", suite, draft, MIRROR)
        shutil.copy("/etc/resolv.conf", draft / "etc/resolv.conf")
        authorities = Path("/etc/ssl/certs/ca-certificates.crt")
        if authorities.exists():
            shutil.copy(authorities, draft / authorities.relative_to("/"))
        call("chroot", draft, "python3", "-m", "venv", VENV)
        pip = (f"{VENV}/bin/pip", "install", "--quiet", "--disable-pip-version-check", "--no-cache-dir")
        (draft / "root/requirements.txt").write_text(needs)
        call("chroot", draft, *pip, "-r", "/root/requirements.txt")
        draft.rename(root)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return root


class Machine:
    """One run of the machine: its files, and, between `boot` and `power_off`, its processes."""

    def __init__(self, root: Path) -> None:
        """Put an empty layer over `root`, which stays as it is."""
        self._scratch = Path(tempfile.mkdtemp(prefix="ringfeed-try-systemd-"))
        self._scratch.chmod(0o755)
        self.root = self._scratch / "root"
        for name in ("upper", "work", "root"):
            (self._scratch / name).mkdir()
        layers = f"lowerdir={root},upperdir={self._scratch}/upper,workdir={self._scratch}/work"
        call("mount", "-t", "overlay", "overlay", "-o", layers, self.root)
        self._nspawn: subprocess.Popen[bytes] | None = None
        self._init = ""

    def boot(self) -> float:
        """Start the machine, and return after how many seconds all its units had started."""
        began = time.monotonic()
        options = ("--boot", "--register=no", "--keep-unit", "--private-network", "--console=pipe", "--quiet")
        with (self._scratch / "console").open("ab") as console:
            self._nspawn = subprocess.Popen(
                ("systemd-nspawn", f"--directory={self.root}", f"--machine={NAME}", *options),
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
                env={**os.environ, "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1"},  # newer systemd knows no other
            )
        wait_for("the machine's systemd answers", self._answers, BOOT_S)
        wait_for("the machine is up", self._is_up, BOOT_S)
        return time.monotonic() - began

    def _answers(self) -> bool:
        nspawn = self._nspawn
        if nspawn is None or nspawn.poll() is not None:
            raise TrialError(f"the machine ended: {(self._scratch / 'console').read_text(errors='replace')[-2000:]}")
        self._init = Path(f"/proc/{nspawn.pid}/task/{nspawn.pid}/children").read_text().strip()
        return (
            bool(self._init) and (self.root / "run").is_dir() and self._code("test", "-S", "/run/systemd/private") == 0
        )

    def _is_up(self) -> bool:
        done = subprocess.run(
            self._inside("systemctl", "is-system-running"), capture_output=True, text=True, check=False
        )
        return done.stdout.strip() in ("running", "degraded")

    def _inside(self, *command: str | Path) -> tuple[str, ...]:
        return ("nsenter", "--target", self._init, "--all", "--wdns=/", *map(str, command))

    def _code(self, *command: str | Path) -> int:
        return subprocess.run(
            self._inside(*command), check=False, stdin=subprocess.DEVNULL, capture_output=True
        ).returncode

    def run(self, *command: str | Path) -> str:
        """Run a command as root in the machine and return its output. Raises: TrialError."""
        return call(*self._inside(*command), timeout_s=INSIDE_S)

    def code(self, *command: str | Path) -> int:
        """Return a command's exit code."""
        return self._code(*command)

    def start(self, user: str, *command: str | Path) -> subprocess.Popen[str]:
        """Start a command in the machine as a user with all their groups."""
        as_user = ("setpriv", f"--reuid={user}", f"--regid={user}", "--init-groups", "--reset-env", "--")
        return subprocess.Popen(
            self._inside(*as_user, *command),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def power_off(self) -> None:
        """Shut the machine down as an operator does. Raises: TrialError where that takes too long."""
        if self._nspawn is None:
            return
        self._code("systemctl", "poweroff")
        try:
            self._nspawn.wait(STOP_S)
        except subprocess.TimeoutExpired:
            raise TrialError(f"the machine did not power off within {STOP_S} s") from None
        self._nspawn = None

    def remove(self) -> None:
        """End what runs, and remove the machine's files and mounts."""
        if self._nspawn is not None and self._nspawn.poll() is None:
            self._nspawn.send_signal(
                signal.SIGKILL
            )  # its processes are in a pid namespace of their own, and end with it
            self._nspawn.wait()
        deadline = time.monotonic() + STOP_S
        while subprocess.run(("umount", self.root), capture_output=True, check=False).returncode:
            if time.monotonic() > deadline:
                raise TrialError(f"could not unmount {self.root}; it is left there")
            time.sleep(0.2)
        shutil.rmtree(self._scratch)
        for left in (*Path("/sys/fs/cgroup").glob("*/payload"), *Path("/sys/fs/cgroup").glob("*/supervisor")):
            for folder, _, _ in os.walk(left, topdown=False):  # nspawn leaves its control groups, empty
                with contextlib.suppress(OSError):
                    Path(folder).rmdir()
        shutil.rmtree(f"/run/systemd/nspawn/propagate/{NAME}", ignore_errors=True)


def missing() -> list[str]:
    """Return what this machine lacks for a trial."""
    lacks = [] if os.geteuid() == 0 else ["root"]
    return lacks + [tool for tool in ("debootstrap", "systemd-nspawn") if shutil.which(tool) is None]
