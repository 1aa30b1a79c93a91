"""What both transports promise beyond the faults of `test_sources_gcs.py`, against servers of a few lines."""

from __future__ import annotations

import asyncio
import json
import os
import ssl
import sys
from email.utils import formatdate
from time import time

import pytest
from transports import NO_PYCURL, TRANSPORTS, localhost_tls

from ringfeedd.errors import StartError
from ringfeedd.storage import SourceError, StoreSettings, open_source
from ringfeedd.storage.base import read
from ringfeedd.storage.gcs import GcsSource
from ringfeedd.storage.transport import proxy
from ringfeedd.storage.transport.choice import open_transport

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ndata"


@pytest.fixture(params=TRANSPORTS)
def transport(request):
    return request.param


@pytest.fixture(autouse=True)
def _no_proxies(monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "no_proxy", "NO_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)


class Server:
    """Answers every request with `answer`; None: never. Keeps what was asked, and counts connections."""

    def __init__(self, answer: bytes | None = OK, tls: ssl.SSLContext | None = None) -> None:
        self.answer, self.tls = answer, tls
        self.connections = 0
        self.heads: list[str] = []

    async def __aenter__(self):
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self.tls)
        host = "https://localhost" if self.tls else "http://127.0.0.1"
        self.url = f"{host}:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_):
        self._server.close()

    async def _serve(self, reader, writer):
        self.connections += 1
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                self.heads.append(head.decode())
                if self.answer is not None:
                    writer.write(self.answer)
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()


def run(story, transport, answer=OK, *, prefix="p/"):
    """`story(server, source)` with a source on ``gs://b/p``."""

    async def main():
        async with Server(answer) as server:
            settings = StoreSettings(concurrency=4, transport=transport)
            source = GcsSource("b", prefix, settings, api_root=server.url, bearer=None)
            try:
                return await story(server, source)
            finally:
                await source.close()

    return asyncio.run(asyncio.wait_for(main(), 30))


def came_of(transport, answer, max_bytes=1000):
    """What comes of a read: its bytes or its error."""

    async def story(_server, source):
        try:
            return await read(source, "x", 0, max_bytes, silent_s=1.0)
        except SourceError as error:
            return error

    return run(story, transport, answer)


def test_connections_are_kept_for_the_next_requests(transport):
    async def story(server, source):
        for _ in range(15):
            await asyncio.gather(*(read(source, "x", 7) for _ in range(4)))
        assert len(server.heads) == 60
        assert server.connections <= 4

    run(story, transport)


def test_a_request_asks_only_for_the_stored_generation(transport):
    """It names the generation and asks for the stored bytes, and for nothing else."""

    async def story(server, source):
        await read(source, "a b/\N{LATIN SMALL LETTER U WITH DIAERESIS}", 7)
        first, *headers = server.heads[0].rstrip().split("\r\n")
        assert first == "GET /storage/v1/b/b/o/p%2Fa%20b%2F%C3%BC?alt=media&generation=7 HTTP/1.1"
        names = {header.partition(":")[0].lower() for header in headers}
        assert "Accept-Encoding: gzip" in headers
        assert not names & {"cookie", "authorization", "range", "expect"}

    run(story, transport)


@pytest.mark.parametrize("name", [".", "..", "..."])
def test_a_name_of_dots_is_not_a_folder(transport, name):
    async def story(server, source):
        await read(source, name, 0)
        assert server.heads[0].startswith(f"GET /storage/v1/b/b/o/{name}?alt=media ")

    run(story, transport, prefix="")


def test_a_servers_cookies_are_not_sent_back(transport):
    async def story(server, source):
        for _ in range(2):
            await read(source, "x", 0)
        assert "cookie" not in "".join(server.heads).lower()

    run(story, transport, OK.replace(b"\r\n\r\n", b"\r\nSet-Cookie: a=b; Path=/\r\n\r\n"))


def test_a_long_error_body_is_still_quoted(transport):
    """Also a body that is longer than the object."""
    body = json.dumps({"error": {"message": "no, " * 50 + "thanks"}}).encode()
    error = came_of(transport, b"HTTP/1.1 403 No\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body), 3)
    assert error.cause == "forbidden"
    assert "thanks" in str(error)


def test_a_retry_after_may_be_a_date(transport):
    when = formatdate(time() + 50, usegmt=True).encode()
    answer = b"HTTP/1.1 503 No\r\nRetry-After: %s\r\nContent-Length: 0\r\n\r\n" % when
    assert 40 < came_of(transport, answer).retry_after_s <= 50


@pytest.mark.parametrize("size", [1000, 300_000, 3_000_000])
def test_a_body_of_the_announced_size_is_complete(transport, size):
    """Whatever the pieces in which it arrives."""
    body = bytes(range(250)) * (size // 250)

    async def story(_server, source):
        assert await read(source, "x", 0, size) == body
        assert await read(source, "x", 0) == body
        cut = await read(source, "x", 0, 500)
        assert 500 < len(cut) <= 500 + (1 << 17)
        assert body.startswith(cut)
        assert await read(source, "x", 0, size) == body

    run(story, transport, b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (size, body))


@pytest.mark.parametrize("answer", [b"SSH-2.0-OpenSSH_9\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n"])
def test_what_is_no_http_is_worth_another_attempt(transport, answer):
    error = came_of(transport, answer)
    assert "gs://b/p/x cannot be read" in str(error)
    assert error.retryable


def headers(count: int, size: int) -> bytes:
    fields = b"".join(b"X-%d: %s\r\n" % (number, b"a" * size) for number in range(count))
    return b"HTTP/1.1 200 OK\r\n" + fields + b"Content-Length: 5\r\n\r\nbytes"


def test_headers_of_a_few_kilobytes_are_accepted(transport):
    assert came_of(transport, headers(2, 20_000)) == b"bytes"


@pytest.mark.parametrize("answer", [headers(1, 400_000), headers(5000, 100)])
def test_larger_headers_are_a_sentence_and_no_outage(transport, answer):
    error = came_of(transport, answer)
    assert "the store's answer has headers larger than" in str(error)
    assert (error.cause, error.retryable, error.of_store, error.of_outage) == ("headers", True, False, False)


def test_closing_a_source_fails_what_is_in_flight(transport):
    async def story(server, source):
        reads = [asyncio.create_task(read(source, "x", 0)) for _ in range(4)]
        while len(server.heads) < 4:  # noqa: ASYNC110 - the server keeps counts, and no event for each
            await asyncio.sleep(0)
        await source.close()
        reads.append(asyncio.create_task(read(source, "x", 0)))
        for result in await asyncio.gather(*reads, return_exceptions=True):
            assert isinstance(result, SourceError)

    run(story, transport, None)


def test_the_environments_proxy_is_used_outside_no_proxy(transport, monkeypatch):
    async def story(server, _):
        monkeypatch.setenv("http_proxy", server.url)
        for spared in (False, True):
            monkeypatch.setenv("no_proxy", "nowhere.invalid" if spared else "other.invalid")
            settings = StoreSettings(concurrency=1, transport=transport)
            source = GcsSource("b", "p/", settings, api_root="http://nowhere.invalid", bearer=None)
            if spared:
                with pytest.raises(SourceError) as caught:
                    await read(source, "x", 0)
                assert caught.value.cause == "connect"
            else:
                assert await read(source, "x", 0) == b"data"
            await source.close()
        assert [head.split()[1] for head in server.heads] == ["http://nowhere.invalid/storage/v1/b/b/o/p%2Fx?alt=media"]

    run(story, transport)


def test_the_proxy_depends_on_scheme_and_host(monkeypatch):
    monkeypatch.setenv("https_proxy", "http://proxy:3128")
    monkeypatch.setenv("no_proxy", "localhost,.internal")
    assert proxy.proxy_for("https://www.googleapis.com") == "http://proxy:3128"
    assert proxy.proxy_for("http://www.googleapis.com") is None
    assert proxy.proxy_for("https://gcs.internal:8443") is None


SECURE_READ = """
import asyncio, sys
from ringfeedd.storage.base import read
from ringfeedd.storage.gcs import GcsSource
from ringfeedd.storage.settings import StoreSettings

async def main(url, transport):
    settings = StoreSettings(concurrency=1, transport=transport)
    source = GcsSource("b", "p/", settings, api_root=url, bearer=None)
    try:
        print((await read(source, "x", 0)).decode())
    finally:
        await source.close()

asyncio.run(main(*sys.argv[1:]))
"""


def test_the_certificates_that_the_environment_names_are_trusted(transport, tmp_path):
    tls = localhost_tls(tmp_path)

    async def main():
        async with Server(tls=tls) as server:
            for host, expected in (("localhost", 0), ("127.0.0.1", 1)):  # the name is looked at, too
                child = await asyncio.create_subprocess_exec(
                    *(sys.executable, "-c", SECURE_READ, server.url.replace("localhost", host), transport),
                    env=os.environ | {"SSL_CERT_FILE": str(tmp_path / "cert")},  # read once in a process
                    stdout=asyncio.subprocess.PIPE,
                    stderr=asyncio.subprocess.PIPE,
                )
                out, err = await child.communicate()
                assert child.returncode == expected, err.decode()
                assert out == (b"data\n" if expected == 0 else b"")
            assert len(server.heads) == 1

    asyncio.run(asyncio.wait_for(main(), 30))


@NO_PYCURL
def test_an_endless_tls_handshake_is_no_connection(monkeypatch):
    monkeypatch.setattr("ringfeedd.storage.transport.curl_transfer.CONNECT_TIMEOUT_S", 0.3)

    async def story(server, _):
        url = server.url.replace("http:", "https:")
        settings = StoreSettings(concurrency=1, transport="curl")
        source = GcsSource("b", "p/", settings, api_root=url, bearer=None)
        with pytest.raises(SourceError) as caught:
            await read(source, "x", 0)
        assert (caught.value.cause, caught.value.retryable) == ("connect", True)
        await source.close()

    run(story, "curl", None)


def test_a_stalled_event_loop_cuts_no_read(transport, monkeypatch):
    """Even if it was held up for longer than the time-out."""

    async def story(_server, source):
        first = asyncio.create_task(read(source, "x", 0, silent_s=5.0))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        loop = asyncio.get_running_loop()
        now = loop.time
        monkeypatch.setattr(loop, "time", lambda: now() + 9)  # as after 9 s in which this process stood still
        assert await first == b"data"

    run(story, transport)


@pytest.fixture
def _no_pycurl(monkeypatch):
    for name in [name for name in sys.modules if name.startswith("ringfeedd.storage.transport.curl")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "pycurl", None)


@pytest.mark.usefixtures("_no_pycurl")
def test_a_missing_transport_package_is_one_sentence():
    """With the command that installs it."""

    async def main():
        with pytest.raises(StartError, match=r"pip install 'ringfeed\[fast\]'"):
            settings = StoreSettings(concurrency=1, emulator="http://127.0.0.1:1", transport="curl")
            await open_source("gs://b-1/p", settings)

    asyncio.run(main())


def auto_transport():
    async def opened():
        transport = open_transport("auto", "http://127.0.0.1:1", concurrency=1)
        await transport.close()
        return type(transport).__name__

    return asyncio.run(opened())


@NO_PYCURL
def test_libcurl_is_taken_where_it_is_installed():
    assert auto_transport() == "CurlTransport"


@pytest.mark.usefixtures("_no_pycurl")
def test_aiohttp_is_taken_where_libcurl_is_not_installed():
    assert auto_transport() == "AiohttpTransport"
