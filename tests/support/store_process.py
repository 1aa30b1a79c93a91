"""The fault server as a process of its own, always on the same port: for tests that take the whole store away."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

from house import Output

ASK_TIMEOUT_S = 30.0


class StoreProcess:
    """``python -m ringfeedd.fakegcs`` over a folder; `url` stays the same over its deaths.

    Attributes:
        process: the latest; set by `start`.
    """

    def __init__(self, folder: Path, *arguments: str) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        self.process: subprocess.Popen[str] | None = None
        self._command = [sys.executable, "-m", "ringfeedd.fakegcs", str(folder), "--port", str(port), *arguments]

    def start(self) -> None:
        """Serve; comes back when it listens."""
        self.process = subprocess.Popen(self._command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        Output(self.process).wait_for("fake GCS on")

    def ask(self, path: str, method: str = "GET", body: bytes | None = None):
        """What one of its own pages answers, as plain data."""
        request = urllib.request.Request(self.url + path, body, method=method)
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(request, timeout=ASK_TIMEOUT_S) as response:
            return json.loads(response.read())

    def requests(self) -> int:
        """How many came since it was started."""
        return sum(self.ask("/_requests").values())

    def pause(self) -> None:
        """It takes connections from now on, and says nothing."""
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """Nobody is on its port any more."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
