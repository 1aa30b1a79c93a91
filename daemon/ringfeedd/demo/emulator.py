"""A real GCS server over HTTP on this machine: gcp-storage-emulator in a process of its own.

Run as a module, it is that process; `Emulator` starts it, and counts its requests from its access log.
"""

from __future__ import annotations

import argparse
import http.client
import logging
import re
import socket
import sys
import time
import urllib.parse
from collections import Counter
from dataclasses import dataclass
from http.server import HTTPServer
from typing import TYPE_CHECKING, Self

from ringfeedd.demo.children import Child
from ringfeedd.demo.errors import DemoError

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

HOST = "127.0.0.1"
START_TIMEOUT_S = 30.0
BACKLOG = 256
"""Connections that may wait for the server. Its own 5 are too few: it answers one request at a time, and one connection
each, so that more than 5 downloads in flight had some of them reset."""

_REQUEST = re.compile(r'"(?P<method>[A-Z]+) (?P<target>\S+) HTTP/[\d.]+" (?P<status>\d{3}) ')
_OBJECT = re.compile(r"^/(?:download/)?storage/v1/b/[^/]+/o/(?P<key>.+)$")


@dataclass(frozen=True)
class Requests:
    """What the server was asked, by its own access log.

    Attributes:
        lists: answered listings.
        uploads: answered uploads.
        downloads: how often each key was downloaded whole or in part, with success.
        refused: answers with a status of 400 and more.
    """

    lists: int
    uploads: int
    downloads: Counter[str]
    refused: int


class Emulator:
    """The server's process, from start to stop; a context manager."""

    def __init__(self, folder: Path, *, bucket: str) -> None:
        """Starts the server, with an empty bucket in its memory, and waits until it answers.

        Args:
            folder: an existing folder, for its log.
            bucket: the bucket's name.

        Raises:
            DemoError: it did not start.
        """
        self._log = folder / "emulator.log"
        port = _free_port()
        self.url = f"http://{HOST}:{port}"
        command = [sys.executable, "-m", __name__, "--port", str(port), "--bucket", bucket]
        self.child = Child("the storage emulator", command, log=self._log)
        try:
            self._wait_until_it_answers(port)
        except BaseException:
            self.child.stop()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.child.stop()

    def requests(self) -> Requests:
        """Every request answered so far."""
        return read_access_log(self._log.read_text(encoding="utf-8", errors="replace"))

    def _wait_until_it_answers(self, port: int) -> None:
        self.child.wait_for_line("All services started", timeout_s=START_TIMEOUT_S)
        deadline = time.monotonic() + START_TIMEOUT_S
        while True:
            try:
                connection = http.client.HTTPConnection(HOST, port, timeout=START_TIMEOUT_S)
                connection.request("GET", "/")
                answered = connection.getresponse().status == http.HTTPStatus.OK
                connection.close()
            except OSError:
                answered = False  # it says that it has started a moment before it listens
            if answered:
                return
            if self.child.exit_code is not None or time.monotonic() > deadline:
                raise DemoError(f"the storage emulator does not answer at {self.url}:{self.child.tail()}")
            time.sleep(0.02)


def read_access_log(text: str) -> Requests:
    """Counts the lines of an access log; lines of any other kind are passed over."""
    lists = uploads = refused = 0
    downloads: Counter[str] = Counter()
    for request in _REQUEST.finditer(text):
        target = urllib.parse.urlsplit(request["target"])
        key = _OBJECT.match(target.path)
        if int(request["status"]) >= http.HTTPStatus.BAD_REQUEST:
            refused += 1
        elif request["method"] == "GET" and key and "media" in urllib.parse.parse_qs(target.query).get("alt", []):
            downloads[urllib.parse.unquote(key["key"])] += 1
        elif request["method"] == "GET" and target.path.endswith("/o"):
            lists += 1
        elif request["method"] == "POST" and target.path.startswith("/upload/"):
            uploads += 1
    return Requests(lists, uploads, downloads, refused)


def _free_port() -> int:
    """A port that was free a moment ago; the emulator cannot be given 0, since it never tells what it got."""
    with socket.create_server((HOST, 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


def _serve() -> int:
    """The server's process."""
    try:
        from gcp_storage_emulator.server import create_server  # noqa: PLC0415 - an extra, for this process alone
    except ImportError as error:
        sys.stderr.write(f"the storage emulator is missing ({error}); install it: pip install 'ringfeed[demo]'\n")
        return 1
    parser = argparse.ArgumentParser(allow_abbrev=False, prog="python -m ringfeedd.demo.emulator")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--bucket", required=True)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    HTTPServer.request_queue_size = BACKLOG
    create_server(HOST, options.port, in_memory=True, default_bucket=options.bucket).run()
    return 0


if __name__ == "__main__":
    sys.exit(_serve())
