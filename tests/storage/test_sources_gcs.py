"""The GCS source against a real HTTP server that fails on command."""

import asyncio
import gzip
import json
import os
import socket

import google_crc32c
import jwt
import pytest
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from gcs_fixtures import QUICK
from transports import TRANSPORTS, localhost_tls

from ringfeedd.catalog.listing import build_catalog
from ringfeedd.catalog.templates import KeyTemplates
from ringfeedd.errors import ConfigError, StartError
from ringfeedd.fakegcs import FakeGcs, Fault
from ringfeedd.storage import SourceError, StoreSettings, open_source
from ringfeedd.storage.base import read
from ringfeedd.storage.gcs import GcsSource
from ringfeedd.storage.token import MOST_KEY_BYTES, open_token_provider
from ringfeedd.storage.transport.http_errors import error_from_status

ODD_NAMES = [
    "a/b",
    "a b",
    "100%",
    "%41",
    "%2F",
    "q?x=1",
    "h#1",
    "a+b",
    "a&b=c",
    "ü",
    "日本",
    "\U0001f600",
    "..",
    "x/..",
    "'\"\\",
]
READ_TIMEOUT_S = 0.4


@pytest.fixture(params=TRANSPORTS)
def transport(request):
    """Each transport gives the same guarantees."""
    return request.param


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch):
    for name in ("STORAGE_EMULATOR_HOST", "GOOGLE_APPLICATION_CREDENTIALS", "HTTP_PROXY", "http_proxy"):
        monkeypatch.delenv(name, raising=False)


def run(story, buckets, faults=(), *, transport="gcloud", **options):
    """`story(server, source)` with a source on ``gs://b/p`` that retries without waits."""

    async def main():
        async with FakeGcs(buckets, faults, **options) as server:
            settings = StoreSettings(concurrency=4, read_timeout_s=READ_TIMEOUT_S, transport=transport)
            source = GcsSource("b", "p/", settings, api_root=server.url, bearer=None, backoff=QUICK)
            try:
                return await story(server, source)
            finally:
                await source.close()

    return asyncio.run(asyncio.wait_for(main(), 30))


async def names_of(source, prefix=""):
    return [info.name async for page in source.list_pages(prefix) for info in page]


def test_all_pages_are_followed_within_the_prefix():
    objects = {f"p/{number:04}": b"x" for number in range(57)} | {"q/1": b"", "p": b""}

    async def story(server, source):
        pages = [page async for page in source.list_pages("")]
        assert [len(page) for page in pages] == [10, 10, 10, 10, 10, 7]
        assert [info.name for page in pages for info in page] == [f"{number:04}" for number in range(57)]
        assert await names_of(source, "003") == [f"{number:04}" for number in range(30, 40)]
        assert server.count("list") == 7

    run(story, {"b": objects}, page_objects=10)


def test_names_of_every_kind_round_trip_with_metadata(transport):
    objects = {f"p/{name}": name.encode() * 3 for name in ODD_NAMES}

    async def story(server, source):
        listed = [info async for page in source.list_pages("") for info in page]
        assert {info.name for info in listed} == set(ODD_NAMES) - {"..", "x/.."}, "which are hidden, and can be read"
        assert await read(source, "..", 0) == b"......"
        for info in listed:
            data = await read(source, info.name, info.generation)
            assert data == info.name.encode() * 3
            assert (info.size, info.crc32c) == (len(data), google_crc32c.value(data))
            assert info.generation > 0

    run(story, {"b": objects}, transport=transport)


def test_a_gzipped_object_arrives_as_stored(transport):
    """So it fits its checksum."""
    stored = gzip.compress(b"pixels")

    async def story(server, source):
        assert await read(source, "x", 0) == stored

    run(story, {"b": {"p/x": stored}}, transport=transport)


def test_an_object_replaced_after_the_listing_is_missing(transport):
    """Its new content is not read as the listed pair's."""
    objects = {"p/x": b"old"}

    async def story(server, source):
        (info,) = [info async for page in source.list_pages("") for info in page]
        objects["p/x"] = b"new"
        with pytest.raises(SourceError, match=r"gs://b/p/x cannot be read.*generation") as caught:
            await read(source, "x", info.generation)
        assert (caught.value.cause, caught.value.retryable) == ("missing", False)
        assert await read(source, "x", 0) == b"new"

    run(story, {"b": objects}, transport=transport)


@pytest.mark.parametrize(
    ("fault", "cause", "retryable"),
    [
        (Fault("status", status=503), "http_503", True),
        (Fault("status", status=429, retry_after_s=7), "http_429", True),
        (Fault("status", status=400), "http_400", False),
        (Fault("status", status=403), "forbidden", False),
        (Fault("status", status=404), "missing", False),
        (Fault("status", status=401), "unauthorized", False),
        (Fault("status", status=204), "status", True),
        (Fault("reset"), "reset", True),
        (Fault("truncate"), "truncated", True),
        (Fault("redirect"), "redirect", True),
        (Fault("moved"), "redirect", True),
        (Fault("stall"), "timeout", True),
        (Fault("silent"), "timeout", True),
    ],
    ids=lambda value: value.kind + str(value.status) if isinstance(value, Fault) else None,
)
def test_each_failed_read_has_a_cause_and_verdict(fault, cause, retryable, transport):
    async def story(server, source):
        with pytest.raises(SourceError, match="gs://b/p/x") as caught:
            await read(source, "x", 0, silent_s=READ_TIMEOUT_S)
        assert (caught.value.cause, caught.value.retryable) == (cause, retryable)
        assert caught.value.retry_after_s == fault.retry_after_s
        # a source does not retry reads; aiohttp alone does so, once, where the connection went away without a byte
        assert server.count("read") == (2 if fault.kind == "reset" and transport == "gcloud" else 1)

    run(story, {"b": {"p/x": b"0123456789" * 100}}, [fault], transport=transport)


@pytest.mark.parametrize("fault", [Fault("cut"), Fault("short"), Fault("html"), Fault("endless")], ids=lambda f: f.kind)
def test_an_undetected_wrong_body_is_bounded_in_size(fault, transport):
    """The caller compares it with the listing."""

    async def story(server, source):
        data = await read(source, "x", 0, 1000)
        assert len(data) != 1000
        assert len(data) <= 1000 + (1 << 17)

    run(story, {"b": {"p/x": b"0123456789" * 100}}, [fault], transport=transport)


def test_more_than_a_hundred_connections_can_be_used(transport):
    """If the concurrency allows it."""

    async def main():
        async with FakeGcs({"b": {"p/x": b"1"}}, [Fault("silent")]) as server:
            settings = StoreSettings(concurrency=130, transport=transport)
            source = GcsSource("b", "p/", settings, api_root=server.url, bearer=None)
            reads = [asyncio.create_task(read(source, "x", 0)) for _ in range(130)]
            while server.busiest < 130:  # noqa: ASYNC110 - the server keeps counts, and no event for each
                await asyncio.sleep(0.01)
            for one in reads:
                one.cancel()
            await asyncio.gather(*reads, return_exceptions=True)
            await source.close()

    asyncio.run(asyncio.wait_for(main(), 30))


def test_a_read_that_is_cancelled_frees_its_connection(transport):
    async def story(server, source):
        stalled = [asyncio.create_task(read(source, "x", 0)) for _ in range(4)]
        while server.count("read") < 4:  # noqa: ASYNC110 - the server keeps counts, and no event for each
            await asyncio.sleep(0)
        for task in stalled:
            task.cancel()
        await asyncio.gather(*stalled, return_exceptions=True)
        server.faults = ()
        return await asyncio.wait_for(read(source, "x", 0), 5)

    assert run(story, {"b": {"p/x": b"1234"}}, [Fault("stall")], transport=transport) == b"1234"


def test_a_temporarily_failing_page_is_tried_again():
    """Nothing of the listing is lost."""

    async def story(server, source):
        assert len(await names_of(source)) == 30
        assert server.count("list") == 3 + 2

    faults = [Fault("status", operation="list", first=2)]
    run(story, {"b": {f"p/{n}": b"" for n in range(30)}}, faults, page_objects=10)


@pytest.mark.parametrize("kind", ["html", "reset", "status", "redirect", "moved", "silent"])
def test_a_listing_that_never_comes_is_an_error(kind):
    """It is not taken for an empty bucket."""

    async def story(server, source):
        with pytest.raises(SourceError, match="gs://b/p cannot be listed"):
            await names_of(source)
        assert server.count("list") == (6 if kind == "reset" else 3)  # aiohttp tries twice after a reset

    run(story, {"b": {"p/x": b""}}, [Fault(kind, operation="list")])


# -- what a user does wrong: one sentence


def sentence_of(root, error=StartError, **options):
    async def main():
        source = await open_source(root, StoreSettings(concurrency=4, **options))
        try:
            await build_catalog(source, KeyTemplates.parse())
        finally:
            await source.close()

    with pytest.raises(error) as caught:
        asyncio.run(asyncio.wait_for(main(), 30))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def with_server(use, **options):
    async def main():
        async with FakeGcs({"b-1": {"p/x.txt": b""}}, **options) as server:
            return await asyncio.to_thread(use, server)

    return asyncio.run(main())


def test_a_bucket_that_does_not_exist_is_named():
    text = with_server(lambda server: sentence_of("gs://nowhere/p", emulator=server.url))
    assert text.startswith("There is no bucket nowhere at http://127.0.0.1")


REFUSALS = {
    "Storage Object Viewer": (
        403,
        "forbidden",
        "a@b.iam.gserviceaccount.com does not have storage.objects.list access to the Google Cloud Storage bucket.",
    ),
    "Service Usage Consumer": (403, "forbidden", "a@b.com does not have serviceusage.services.use access."),
    "--user-project": (400, "required", "Bucket is a requester pays bucket but no user project provided."),
    "VPC Service Controls": (403, "x", "Request is prohibited by organization's policy. vpcServiceControlsUniqueId: x"),
    "billing account": (403, "accountDisabled", "The billing account for the owning project is disabled in state x."),
    "access scopes": (403, "insufficientPermissions", "Insufficient Permission"),
    "": (403, "forbidden", "This failure was asked for."),
}
EVERY_ADVICE = [advice for advice in REFUSALS if advice]


@pytest.mark.parametrize("advice", REFUSALS)
def test_a_refusal_names_the_remedy_for_its_reason(advice):
    status, reason, message = REFUSALS[advice]
    body = json.dumps({"error": {"code": status, "message": message, "errors": [{"reason": reason}]}})
    error = error_from_status(status, {}, body, "gs://b cannot be listed")
    assert [one for one in EVERY_ADVICE if one in str(error)] == [advice] * bool(advice)
    assert message in str(error)
    assert error.final


@pytest.mark.parametrize("body", ["", "<html>storage.cloud.example</html>", "{", "\ud800", "[" * 10**5])
def test_a_refusal_without_a_reason_gets_no_advice(body):
    assert str(error_from_status(403, {}, body, "x")) == "x: access is forbidden (403)."


def test_a_bucket_without_access_is_a_sentence():
    faults = [Fault("status", operation="list", status=403)]
    text = with_server(lambda server: sentence_of("gs://b-1/p", emulator=server.url), faults=faults)
    assert "forbidden (403)" in text
    assert "Storage Object Viewer" not in text


def test_a_requester_pays_bucket_bills_the_named_project(transport):
    async def story(server, source):
        server.requester_pays = frozenset({"b"})
        settings = StoreSettings(
            concurrency=2, emulator=server.url, transport=transport, user_project="example.com:pays"
        )
        billed = await open_source("gs://b/p", settings)
        try:
            assert await names_of(billed) == ["x"]
            assert await read(billed, "x", 0) == b"1"
        finally:
            await billed.close()
        with pytest.raises(SourceError, match="--user-project"):
            await names_of(source)
        with pytest.raises(SourceError, match="--user-project") as caught:
            await read(source, "x", 0)
        assert caught.value.final

    run(story, {"b": {"p/x": b"1"}}, transport=transport)


def test_an_emulator_that_cannot_be_reached_is_named():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: connections are refused
        address = f"http://127.0.0.1:{taken.getsockname()[1]}"
        text = sentence_of("gs://b-1/p", emulator=address)
    assert address in text
    assert "cannot be reached" in text


@pytest.mark.parametrize("write", ["{}", "{}/", "{}/storage/v1/", " {} "])
def test_the_emulators_address_may_be_written_freely(write):
    """With or without a scheme or a slash."""

    def use(server):
        bare = [server.url, server.url.removeprefix("http://")]
        return [sentence_of("gs://b-1/p/", emulator=write.format(url)) for url in bare]

    for text in with_server(use):
        assert text.startswith("No pairs under gs://b-1/p: found 1 objects like")


@pytest.mark.parametrize("emulator", ["", "http://", "ftp://x:1", "http://h:99999", "http://[1"])
def test_an_address_that_is_none_is_refused(emulator):
    assert "no emulator's address" in sentence_of("gs://b-1/p", emulator=emulator)


def test_an_emulator_of_the_environment_alone_is_refused(monkeypatch):
    """STORAGE_EMULATOR_HOST must have been asked for."""
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", "http://127.0.0.1:1")
    text = sentence_of("gs://b-1/p", emulator=None)
    assert "STORAGE_EMULATOR_HOST" in text
    assert "--emulator http://127.0.0.1:1" in text


def test_a_requested_emulator_wins_over_the_environment(monkeypatch):
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", "http://127.0.0.1:1")
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", "/nowhere.json")  # an emulator needs none
    text = with_server(lambda server: sentence_of("gs://b-1/p", emulator=server.url))
    assert text.startswith("No pairs")


@pytest.mark.parametrize("root", ["gs://", "gs:///p", "gs://UPPER/p", "gs://a b/p", "s3://b/p", "http://b/p"])
def test_an_invalid_root_is_a_settings_error(root):
    text = sentence_of(root, error=ConfigError, emulator="http://127.0.0.1:1")
    assert root.removesuffix("/p").split("/")[-1] in text


# -- credentials


@pytest.fixture
def credentials(tmp_path, monkeypatch):
    """Writes gcloud's default credentials, whose tokens come from the fake server."""

    def write(server):
        path = tmp_path / "credentials.json"
        secret = {"client_id": "i", "client_secret": "s", "refresh_token": "r", "token_uri": f"{server.url}/token"}
        path.write_text(json.dumps({"type": "authorized_user", **secret}))
        monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(path))

    return write


def run_with_credentials(story, credentials, transport):
    async def main():
        async with FakeGcs({"b": {"p/x": b"data"}}) as server:
            server.tokens = ["t1"]
            credentials(server)
            bearer = await open_token_provider()
            settings = StoreSettings(concurrency=4, transport=transport)
            source = GcsSource("b", "p/", settings, api_root=server.url, bearer=bearer, backoff=QUICK)
            try:
                return await story(server, source)
            finally:
                await source.close()

    return asyncio.run(asyncio.wait_for(main(), 30))


def test_listing_and_reads_share_one_token(credentials, transport):
    async def story(server, source):
        assert await names_of(source) == ["x"]
        assert set(await asyncio.gather(*(read(source, "x", 0) for _ in range(20)))) == {b"data"}
        assert server.count("token") == 1

    run_with_credentials(story, credentials, transport)


def test_a_refused_token_is_replaced_once_for_all(credentials, transport):
    async def story(server, source):
        assert await names_of(source) == ["x"]
        server.tokens = ["t2"]  # t1 is revoked, and the client holds it for an hour to come
        assert set(await asyncio.gather(*(read(source, "x", 0) for _ in range(20)))) == {b"data"}
        assert await names_of(source) == ["x"]
        assert server.count("token") == 2

    run_with_credentials(story, credentials, transport)


def test_a_refusal_with_a_fresh_token_is_final(credentials, transport):
    async def story(server, source):
        server.faults = [Fault("status", status=401)]
        with pytest.raises(SourceError) as caught:
            await read(source, "x", 0)
        assert (caught.value.cause, caught.value.retryable) == ("unauthorized", False)
        assert server.count("read") == 2

    run_with_credentials(story, credentials, transport)


def test_cancelling_one_token_wait_fails_no_other(credentials, transport):
    async def story(server, source):
        server.tokens = ["t2"]
        first, *others = [asyncio.create_task(read(source, "x", 0)) for _ in range(4)]
        while source._bearer._refreshing.done():  # noqa: ASYNC110 - that of the first token
            await asyncio.sleep(0)
        first.cancel()
        assert await asyncio.gather(*others) == [b"data"] * 3
        assert first.cancelled()

    run_with_credentials(story, credentials, transport)


def test_the_token_is_asked_for_reading_only(tmp_path, monkeypatch):
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    asked = []

    async def token(request):
        assertion = (await request.post())["assertion"]
        asked.append(jwt.decode(assertion, options={"verify_signature": False})["scope"])
        return web.json_response({"access_token": "t", "expires_in": 3600})

    async def main():
        app = web.Application()
        app.router.add_post("/token", token)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        uri = f"http://127.0.0.1:{runner.addresses[0][1]}/token"
        account = {"client_email": "a@b", "private_key": pem, "private_key_id": "k", "token_uri": uri}
        (tmp_path / "key.json").write_text(json.dumps({"type": "service_account", "project_id": "p", **account}))
        monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "key.json"))
        await (await open_token_provider()).close()
        await runner.cleanup()

    asyncio.run(asyncio.wait_for(main(), 30))
    assert asked == ["https://www.googleapis.com/auth/devstorage.read_only"]


def test_a_certificate_that_nobody_signed_is_refused(tmp_path, transport):
    # api_is_dev keeps the library from looking for credentials; in a session of its own it switches the checks off, too
    context = localhost_tls(tmp_path)

    async def main():
        asked = []

        async def listen(reader, writer):
            asked.append(asyncio.current_task())
            return await reader.read()

        server = await asyncio.start_server(listen, "127.0.0.1", 0, ssl=context)
        url = f"https://localhost:{server.sockets[0].getsockname()[1]}"
        settings = StoreSettings(concurrency=4, transport=transport)
        source = GcsSource("b", "p/", settings, api_root=url, bearer=None, backoff=QUICK)
        for attempt in (read(source, "x", 0), names_of(source)):
            with pytest.raises(SourceError, match="certificate"):
                await attempt
        await source.close()
        # libcurl looks at the certificate at the end of the handshake; not a byte of a request, or of a token, follows
        assert not any(await asyncio.gather(*asked))
        server.close()

    asyncio.run(asyncio.wait_for(main(), 30))


@pytest.mark.parametrize(
    ("content", "says"),
    [(None, "there is no such file"), ("{", "cannot be read as JSON"), ('{"type": "odd"}', "cannot be used")],
)
def test_credentials_that_are_none_are_one_sentence(tmp_path, monkeypatch, content, says):
    path = tmp_path / "key.json"
    if content is not None:
        path.write_text(content)
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(path))
    text = sentence_of("gs://b-1/p", emulator=None)
    assert says in text
    assert str(path) in text


@pytest.mark.parametrize(
    "uri", [5, "http://x:99999999/", "http://[::1/", "http://a..b/", f"http://{'a' * 300}/", "http://\ud800/"]
)
def test_a_key_with_an_invalid_token_uri(tmp_path, monkeypatch, uri):
    secret = {"client_id": "i", "client_secret": "s", "refresh_token": "r", "token_uri": uri}
    path = tmp_path / "key.json"
    path.write_text(json.dumps({"type": "authorized_user", **secret}))
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(path))
    assert "is not a token_uri" in sentence_of("gs://b-1/p", emulator=None)


def test_a_key_is_read_from_small_files_only(tmp_path, monkeypatch):
    """The library would wait for a pipe, and read a device without end."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "large").write_bytes(b" " * (MOST_KEY_BYTES + 1))
    for place, says in (("pipe", "not a regular file"), ("large", "larger than a key can be"), ("", "Is a directory")):
        monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / place))
        assert says in sentence_of("gs://b-1/p", emulator=None)
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", "/dev/zero")
    assert "not a regular file" in sentence_of("gs://b-1/p", emulator=None)


def test_a_machine_without_credentials_is_told_at_once(tmp_path, monkeypatch):
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path))
    monkeypatch.setattr("gcloud.aio.auth.token.GCE_ENDPOINT_TOKEN", "http://127.0.0.1:1/token")
    assert sentence_of("gs://b-1/p", emulator=None).startswith("No Google credentials were found")
