"""What the end-to-end tests share: a bucket over real HTTP, the daemon and its trainers as real processes."""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from decode_reference import encode, image_bytes, label_bytes, photograph

SHM = Path("/dev/shm")
RINGFEED = [sys.executable, "-m", "ringfeedd"]
HERE = Path(__file__).parent


def photographs(pairs: int, *, prefix: str = "set/", mode: str = "index") -> dict[str, bytes]:
    """Objects of a bucket: crops of real photographs that all differ, with labels of the same shapes."""
    names = ("china", "flower", "coffee", "rocket")
    objects = {}
    for number in range(pairs):
        picture = photograph(names[number % len(names)])
        left, top = 3 * (number % 17), 2 * (number % 13)
        box = (left, top, left + 96 + number % 5, top + 72 + number % 3)
        crop = picture.crop(box)
        pair_id = f"{number:04d} ü" if number % 7 == 0 else f"sub/{number:04d}"
        objects[f"{prefix}images/{pair_id}.jpg"] = encode(crop, "JPEG", quality=88)
        label = crop.quantize(8, dither=0) if mode == "index" else crop
        objects[f"{prefix}labels/{pair_id}.png"] = encode(label, "PNG")
    return objects


def write_objects(root: Path, objects: dict[str, bytes]) -> Path:
    """Objects as files below a folder."""
    for name, data in objects.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return root


def write_folder(root: Path, pairs: int) -> Path:
    """A root on the local disk."""
    return write_objects(root, photographs(pairs, prefix=""))


class Output:
    """The lines that a process prints, as they come."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.lines: list[str] = []
        self._queue: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        threading.Thread(target=self._read, args=(process.stdout,), daemon=True).start()

    def _read(self, stream) -> None:
        for line in stream:
            self._queue.put(line)
        self._queue.put(None)

    def wait_for(self, start: str, timeout_s: float = 60.0) -> str:
        deadline = time.monotonic() + timeout_s
        while True:
            line = self._queue.get(timeout=max(0.01, deadline - time.monotonic()))
            assert line is not None, f"no line {start!r}; it said:\n{''.join(self.lines)}"
            self.lines.append(line)
            if line.startswith(start):
                return line

    def rest(self) -> str:
        while (line := self._queue.get(timeout=60)) is not None:
            self.lines.append(line)
        return "".join(self.lines)


class Daemon:
    """`ringfeed serve` as a process; stopped, and its traces looked for, at the end of the block."""

    def __init__(self, root: str, *arguments: str, ring: str) -> None:
        self.ring = ring
        # one ring with all pairs, unless a test wants two
        self.command = [*RINGFEED, "serve", root, "--ring", ring, "--test-ratio", "0"]
        self.command += ["--catalog-cache", "off", *map(str, arguments)]

    def start(self) -> Daemon:
        self.process = subprocess.Popen(
            self.command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, stdin=subprocess.DEVNULL
        )
        self.output = Output(self.process)
        return self

    def __enter__(self) -> Daemon:
        self.start()
        try:
            self.output.wait_for("ready")
        except BaseException:
            self.kill()
            raise
        return self

    def workers(self) -> list[int]:
        """Pids of the workers that have begun."""
        command = ["pgrep", "-P", str(self.process.pid), "-x", "ringfeed-worker"]
        return [int(pid) for pid in subprocess.run(command, capture_output=True, text=True, check=False).stdout.split()]

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        wipe(self.ring)

    def __exit__(self, kind: object, *_: object) -> None:
        if self.process.poll() is None:
            try:
                code = self.stop()
            except subprocess.TimeoutExpired:
                self.kill()
                raise
            if kind is None:
                assert code == 0, self.output.rest()
                assert traces(self.ring) == []
        wipe(self.ring)


def traces(ring: str) -> list[str]:
    """What lies in /dev/shm under a ring's name."""
    return sorted(path.name for path in SHM.iterdir() if f"ringfeed.{ring}" in path.name)


def wipe(ring: str) -> None:
    for name in traces(ring):
        with contextlib.suppress(FileNotFoundError):
            (SHM / name).unlink()


def trainer(script: str, *arguments: object, **environ: str) -> subprocess.Popen[str]:
    """A Python process with the tests' folder on its path; what it prints can be read."""
    path = os.pathsep.join(filter(None, [str(HERE), os.environ.get("PYTHONPATH")]))
    return subprocess.Popen(
        [sys.executable, "-c", script, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "PYTHONPATH": path, **environ},
    )


def finish(process: subprocess.Popen[str], timeout_s: float = 100.0) -> str:
    """Wait for a trainer; its output. It must have ended well."""
    said, _ = process.communicate(timeout=timeout_s)
    assert process.returncode == 0, said
    return said


def wait_until(condition, timeout_s=60.0, found=""):
    """Wait for another process; fails when it takes too long, and shows what was `found`."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"it did not come to pass {found}"
        time.sleep(0.01)


__all__ = [
    "Daemon",
    "Output",
    "finish",
    "image_bytes",
    "label_bytes",
    "photographs",
    "traces",
    "trainer",
    "wait_until",
    "wipe",
    "write_folder",
    "write_objects",
]


NAMESPACE = ["unshare", "--mount", "sh", "-c", 'mount -t tmpfs -o "$0,mode=1777" tmpfs /dev/shm && exec "$@"']


def with_its_own_shm(options, script, *arguments):
    """Run a Python script where /dev/shm is another one; its output, stderr included."""
    if subprocess.run([*NAMESPACE, "size=64k", "true"], capture_output=True, check=False).returncode:
        pytest.skip("this user may not mount a file system")
    path = os.pathsep.join(filter(None, [str(HERE), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        [*NAMESPACE, options, sys.executable, "-c", script, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=100,
        stdin=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": path},
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout
