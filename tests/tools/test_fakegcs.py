"""The fake server itself: what the other tests take for granted."""

import base64
import http.client
import json
import os
import re
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from urllib.parse import quote, urlencode

import google_crc32c
import pytest

from ringfeedd.fakegcs import FakeGcs, Fault, serve_in_thread
from ringfeedd.fakegcs.faults import KINDS, faults_of, parse_fault


def get(url, **query):
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(f"{url}?{urlencode(query)}" if query else url, timeout=10) as response:
        return response.read()


def test_both_api_addresses_give_media_one_gives_metadata():
    with serve_in_thread(FakeGcs({"b": {"a/ü %2F#?": b"content"}})) as server:
        name = quote("a/ü %2F#?", safe="")
        assert get(f"{server.url}/storage/v1/b/b/o/{name}", alt="media") == b"content"
        assert get(f"{server.url}/download/storage/v1/b/b/o/{name}") == b"content"
        described = json.loads(get(f"{server.url}/storage/v1/b/b/o/{name}"))
        assert (described["name"], described["size"]) == ("a/ü %2F#?", "7")
        checksum = int.from_bytes(base64.b64decode(described["crc32c"]), "big")
        assert checksum == google_crc32c.value(b"content")
        key = "b/a/ü %2F#?"
        assert server.requests == {("read", key): 2, ("metadata", key): 1}
        assert json.loads(get(f"{server.url}/_requests")) == {f"metadata {key}": 1, f"read {key}": 2}


def test_a_listing_comes_in_ordered_pages():
    """With only the fields that were asked for."""
    objects = dict.fromkeys(["é", "z", "a/b", "a-b", "a", "😀", "￮"], b"")
    with serve_in_thread(FakeGcs({"b": objects})) as server:
        url, names, token = f"{server.url}/storage/v1/b/b/o", [], {}
        while True:
            page = json.loads(get(url, maxResults=2, fields="items(name,size),nextPageToken", **token))
            assert all(set(item) == {"name", "size"} for item in page["items"])
            names += [item["name"] for item in page["items"]]
            if "nextPageToken" not in page:
                break
            token = {"pageToken": page["nextPageToken"]}
        assert names == sorted(objects, key=str.encode)
        assert json.loads(get(url, prefix="nothing")) == {}


@pytest.mark.parametrize("path", ["/storage/v1/b/none/o", "/storage/v1/b/b/o/none", "/storage/v1/b/../o/x", "/other"])
def test_a_missing_object_is_404_as_the_api(path, tmp_path):
    """In the API's words."""
    (tmp_path / "b").mkdir()
    for buckets in ({"b": {}}, tmp_path):
        with serve_in_thread(FakeGcs(buckets)) as server, pytest.raises(urllib.error.HTTPError) as caught:
            get(server.url + path)
        assert caught.value.code == 404
        if path.startswith("/storage/v1/b/none"):
            assert json.loads(caught.value.read())["error"]["code"] == 404


def test_only_the_folder_on_disk_is_served(tmp_path):
    (tmp_path / "secret").write_bytes(b"s")
    (tmp_path / "data" / "b" / "x").mkdir(parents=True)
    (tmp_path / "data" / "b" / "x" / "1").write_bytes(b"one")
    with serve_in_thread(FakeGcs(tmp_path / "data")) as server:
        (item,) = json.loads(get(f"{server.url}/storage/v1/b/b/o"))["items"]
        assert item["name"] == "x/1"
        assert get(f"{server.url}/storage/v1/b/b/o/x%2F1", alt="media", generation=item["generation"]) == b"one"
        for name in ("..%2F..%2Fsecret", "..%2F" * 2 + "secret", "x"):
            with pytest.raises(urllib.error.HTTPError):
                get(f"{server.url}/storage/v1/b/b/o/{name}", alt="media")


def test_faults_depend_on_seed_name_and_number():
    """They come about as often as asked."""
    fault = Fault("status", 0.2, names="images/*")
    hits = [fault.applies("read", f"images/{n}", k, seed=1) for n in range(100) for k in range(20)]
    assert hits == [fault.applies("read", f"images/{n}", k, seed=1) for n in range(100) for k in range(20)]
    assert 300 < sum(hits) < 500
    assert not any(fault.applies("read", f"labels/{n}", 0, seed=1) for n in range(100))
    assert not any(fault.applies("list", f"images/{n}", 0, seed=1) for n in range(100))
    assert hits != [fault.applies("read", f"images/{n}", k, seed=2) for n in range(100) for k in range(20)]
    first = Fault("reset", first=2)
    assert [first.applies("read", "x", number, 0) for number in range(4)] == [True, True, False, False]


def test_faults_are_written_on_a_command_line():
    assert parse_fault("503:0.1") == Fault("status", 0.1, status=503)
    assert parse_fault("flip") == Fault("flip")
    assert parse_fault("stall:1:images/7:8.jpg") == Fault("stall", 1.0, "images/7:8.jpg")
    assert parse_fault("429+2:0.05") == Fault("status", 0.05, status=429, retry_after_s=2.0)
    assert parse_fault("latency+0.2") == Fault("latency", delay_s=0.2)
    assert parse_fault("any/503") == Fault("status", operation="any")
    assert parse_fault("list/html:0.5:images/") == Fault("html", 0.5, "images/", operation="list")
    for text in ("odd", "flip:2", "flip:x", "", "odd/flip", "429+soon", "images/7.jpg"):
        with pytest.raises(ValueError, match=r"is no|does not lie"):
            parse_fault(text)


def test_faults_are_switched_while_it_runs():
    def control(server, method, body=None):
        request = urllib.request.Request(f"{server.url}/_faults", body, method=method)
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=10) as response:
            return [fault["kind"] for fault in json.loads(response.read())]

    with serve_in_thread(FakeGcs({"b": {"x": b"content"}})) as server:
        url = f"{server.url}/storage/v1/b/b/o/x"
        assert control(server, "POST", b"any/503 429+1:0.5") == ["status", "status"]
        for address in (url, f"{url}?alt=media", f"{server.url}/storage/v1/b/b/o"):
            with pytest.raises(urllib.error.HTTPError, match="503"):
                get(address)
        with pytest.raises(urllib.error.HTTPError, match="400") as caught:
            control(server, "POST", b"odd")
        assert b"is not a kind of fault" in caught.value.read()
        assert control(server, "GET") == ["status", "status"]  # as they were
        assert control(server, "DELETE") == []
        assert get(url, alt="media") == b"content"


def test_two_status_faults_never_share_a_request():
    """Of one probability."""
    faults = [Fault("status", 0.2, status=status) for status in (429, 503)]
    hits = [[fault.applies("read", "x", number, 0) for number in range(200)] for fault in faults]
    assert hits[0] != hits[1]
    assert {Fault(kind).kind for kind in KINDS} == set(KINDS)


@pytest.mark.parametrize("kind", ["reset", "reset_body", "truncate", "chunked"])
def test_broken_answers_are_followed_by_good_ones(kind):
    """After as many faults in a row as are allowed."""
    with serve_in_thread(FakeGcs({"b": {"x": bytes(1 << 20)}}, [Fault(kind)], faults_in_a_row=2)) as server:
        url = f"{server.url}/storage/v1/b/b/o/x"
        for _ in range(2):
            for _ in range(2):
                with pytest.raises((OSError, http.client.HTTPException)):
                    get(url, alt="media")
            assert get(url, alt="media") == bytes(1 << 20)


def test_lognormal_waits_have_the_median_named():
    fault = Fault("lognormal", delay_s=0.3)
    waits = sorted(fault.wait_s("x", number, 0) for number in range(2000))
    assert waits == sorted(faults_of([fault], "read", "x", number, 0)[0] for number in range(2000))
    assert 0.27 < waits[1000] < 0.33
    assert 2.4 < waits[1980] < 3.8  # ten times the median
    assert parse_fault("lognormal+0.3") == fault


def test_the_module_serves_a_folder_until_stopped(tmp_path):
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "x").write_bytes(b"content")
    command = [sys.executable, "-m", "ringfeedd.fakegcs", str(tmp_path), "--fault", "404:1:gone*"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            url = re.search(r"http://\S+", process.stdout.readline())[0]
            assert get(f"{url}/storage/v1/b/b/o/x", alt="media") == b"content"
            with pytest.raises(urllib.error.HTTPError):
                get(f"{url}/storage/v1/b/b/o/gone", alt="media")
        finally:
            process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0


def test_a_missing_folder_is_a_usage_error(tmp_path):
    command = [sys.executable, "-m", "ringfeedd.fakegcs", str(tmp_path / "none")]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 2
    assert "there is no folder" in run.stderr


def test_nothing_outside_of_its_folder_is_served(tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_bytes(b"secret")
    bucket = tmp_path / "served" / "b"
    bucket.mkdir(parents=True)
    (bucket / "x").write_bytes(b"x")
    (bucket / "inside").symlink_to("x")
    (bucket / "link").symlink_to(outside / "secret")
    (bucket / "up").symlink_to(outside)
    (bucket / "loop").symlink_to("loop")
    (bucket / os.fsdecode(b"\xff")).write_bytes(b"")
    (tmp_path / "served" / "out").symlink_to(outside)
    secret = str(outside / "secret")
    names = [
        "link",
        "up/secret",
        "../../outside/secret",
        "a/../../../outside/secret",
        secret,
        "/" + secret,
        "loop",
        "\0",
    ]
    with serve_in_thread(FakeGcs(tmp_path / "served")) as server:
        listing = json.loads(get(f"{server.url}/storage/v1/b/b/o"))
        assert [item["name"] for item in listing["items"]] == ["inside", "x"]
        assert get(f"{server.url}/storage/v1/b/b/o/inside", alt="media") == b"x"
        asked = [("b", name) for name in names] + [
            (name, "secret") for name in ("out", "..", ".", str(outside), "../outside", "b/../../outside", "b/up", "\0")
        ]
        for bucket_name, name in asked:
            url = f"{server.url}/storage/v1/b/{quote(bucket_name, safe='')}/o/{quote(name, safe='')}"
            with pytest.raises(urllib.error.HTTPError, match="404"):
                get(url, alt="media")
        for bucket_name in ("out", "..", str(outside), "../outside"):
            with pytest.raises(urllib.error.HTTPError, match="404"):
                get(f"{server.url}/storage/v1/b/{quote(bucket_name, safe='')}/o")
