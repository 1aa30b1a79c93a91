"""The store: nginx on this machine, which answers as Google's JSON API does, and by plain paths, from static files.

A real static server, so that what a loader costs is not mixed with what a Python server costs. No loader
pays for its CPU.
"""

from __future__ import annotations

import http.client
import os
import shutil
import socket
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from ringfeedd.demo.children import Child
from ringfeedd.errors import StartError

HOST: Final = "127.0.0.1"
BUCKET: Final = "bench"
START_TIMEOUT_S: Final = 10.0

ECHO_MODULES: Final = (
    Path("/usr/lib/nginx/modules/ngx_http_echo_module.so"),
    Path("/usr/lib64/nginx/modules/ngx_http_echo_module.so"),
)
"""Where distributions put the module that lets an answer wait, without a thread and without a proxy in between."""


def configuration(
    folder: Path,
    work: Path,
    *,
    port: int,
    delay_ms: float,
    echo: Path | None,
    root: bool,
    one_pair: bool = False,
    tls: Path | None = None,
    http2: bool = False,
) -> str:
    """The text of nginx's configuration.

    An object is found as ``/BUCKET/NAME``, ``/storage/v1/b/BUCKET/o/NAME`` and ``/download/...`` (the name's slashes
    encoded or not); the listing's pages by their token. nginx matches paths decoded, and ``NAME`` here is plain ASCII.

    Args:
        folder: the workload's.
        work: for nginx's own files.
        delay_ms: how long every object's answer waits first; needs ``echo``.
        root: it is started by root: the folder may be open to root alone.
        one_pair: whatever is asked for is ``one.jpg`` or ``one.png``.
        tls: a folder with ``cert`` and ``key``, for HTTPS; None for HTTP.
        http2: for those who ask for it, with HTTPS.
    """
    secure = f"ssl_certificate {tls}/cert; ssl_certificate_key {tls}/key; ssl_session_cache shared:s:4m;" if tls else ""
    secure += " ssl_protocols TLSv1.2 TLSv1.3;" if tls else ""  # old nginx leaves 1.3 out, which buckets have
    secure += " http2_max_requests 1000000000; http2_max_concurrent_streams 512;" if http2 else ""
    read = (
        f"echo_sleep {delay_ms / 1000:.3f}; echo_exec /objects/$name;" if delay_ms else "rewrite ^ /objects/$name last;"
    )
    objects = f"location /objects/ {{ internal; alias {folder}/; }}"
    if one_pair:
        objects = f"location ~ ^/objects/.*\\.(?<kind>jpg|png)$ {{ internal; alias {folder}/one.$kind; }}"
    return f"""
{f"load_module {echo};" if echo else ""}
{"user root;" if root else ""}
daemon off;
worker_processes auto;
pid {work}/nginx.pid;
error_log {work}/error.log error;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    client_body_temp_path {work}/body;
    proxy_temp_path {work}/proxy;
    fastcgi_temp_path {work}/fastcgi;
    uwsgi_temp_path {work}/uwsgi;
    scgi_temp_path {work}/scgi;
    sendfile on;
    tcp_nodelay on;
    keepalive_timeout 600s;
    keepalive_requests 1000000000;
    open_file_cache max=8192 inactive=600s;
    open_file_cache_valid 600s;
    default_type application/octet-stream;
    types {{ application/json json; image/jpeg jpg; image/png png; }}
    map "$arg_prefix|$arg_pageToken" $page {{
        default none;
        "~^images[^|]*\\|$" images-0;
        "~^labels[^|]*\\|$" labels-0;
        "~\\|(?<token>[a-z]+-[0-9]+)$" $token;
    }}
    server {{
        listen {HOST}:{port} backlog=1024{" ssl" if tls else ""}{" http2" if http2 else ""};
        {secure}
        location = /storage/v1/b/{BUCKET}/o {{ alias {folder}/listing/$page.json; }}
        location ~ ^/(?:download/)?storage/v1/b/{BUCKET}/o/(?<name>.+)$ {{ {read} }}
        location ~ ^/{BUCKET}/(?<name>.+)$ {{ {read} }}
        {objects}
    }}
}}
"""


class Store:
    """nginx over one workload's folder, from start to stop; a context manager.

    Attributes:
        url: where it answers, without a trailing slash.
    """

    def __init__(
        self,
        folder: Path,
        *,
        delay_ms: float = 0.0,
        one_pair: bool = False,
        tls: Path | None = None,
        http2: bool = False,
    ) -> None:
        """Start it, and wait until it answers.

        Args:
            folder: the workload's.
            delay_ms: added to every object's answer, not to listings.
            one_pair: answer every object with the folder's ``one.jpg`` or ``one.png``.
            tls: a folder with ``cert`` and ``key`` of the host localhost, for HTTPS.
            http2: for those who ask for it, with HTTPS.

        Raises:
            StartError: there is no nginx, or not the module that a delay needs.
            DemoError: it did not start.
        """
        nginx = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
        if nginx is None:
            raise StartError(
                "the benchmark's store is nginx, which is not installed; on Debian: apt-get install nginx-light"
            )
        echo = next((path for path in ECHO_MODULES if path.is_file()), None)
        if delay_ms and echo is None:
            raise StartError(
                "a store with added latency needs nginx's echo module, which is not installed; on Debian: "
                "apt-get install libnginx-mod-http-echo"
            )
        self._work = Path(tempfile.mkdtemp(prefix="ringfeed-bench-nginx-"))
        port = free_port()
        self._answer = 200 if tls is None else 400  # nginx says so to plain HTTP on a port for HTTPS
        self.url = f"http://{HOST}:{port}" if tls is None else f"https://localhost:{port}"
        config = self._work / "nginx.conf"
        config.write_text(
            configuration(
                folder,
                self._work,
                port=port,
                delay_ms=delay_ms,
                echo=echo,
                root=os.geteuid() == 0,
                one_pair=one_pair,
                tls=tls,
                http2=http2,
            )
        )
        command = [nginx, "-p", str(self._work), "-c", str(config), "-e", str(self._work / "error.log")]
        self._child = Child("the store (nginx)", command, log=self._work / "output.log")
        try:
            self._wait_until_it_answers(port)
        except BaseException:
            self.stop()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """End it, and remove its files."""
        self._child.stop()
        shutil.rmtree(self._work, ignore_errors=True)

    def _wait_until_it_answers(self, port: int) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        while True:
            try:
                connection = http.client.HTTPConnection(HOST, port, timeout=START_TIMEOUT_S)
                connection.request("GET", f"/storage/v1/b/{BUCKET}/o?prefix=images%2F")
                status = connection.getresponse().status
                connection.close()
            except OSError:
                status = 0
            if status == self._answer:
                return
            if self._child.exit_code is not None or time.monotonic() > deadline:
                raise StartError(f"nginx does not answer at {self.url} (HTTP {status}):{self._child.tail()}")
            time.sleep(0.02)


def free_port() -> int:
    """Return a port that was free a moment ago."""
    with socket.create_server((HOST, 0)) as probe:
        port: int = probe.getsockname()[1]
        return port
