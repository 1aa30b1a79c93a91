"""`ringfeed doctor`: every finding has a level and, unless all is well, says what to do; looking changes nothing."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import signal
import socket
import time
import uuid
from types import SimpleNamespace

import pytest
from house import SHM, Daemon, traces, wait_until, wipe, write_folder
from ring_fixtures import served_ring

from ringfeed.cli.report import LaneStatus
from ringfeed.cli.status import ring_status
from ringfeed.health.evidence import Bound, Verdict
from ringfeed.shm.counters import DaemonCounts
from ringfeedd.cli import checks
from ringfeedd.cli.checks import Level
from ringfeedd.cli.doctor import examine
from ringfeedd.cli.main import main
from ringfeedd.cli.store import ask_store
from ringfeedd.fakegcs.faults import parse_fault
from ringfeedd.fakegcs.server import FakeGcs, serve_in_thread
from ringfeedd.fetch.health import StoreHealth
from ringfeedd.storage.transport.proxy import proxy_for

GIB = 1 << 30


@pytest.fixture(scope="module")
def status():
    with served_ring() as served:
        served.service.report(DaemonCounts(workers=2), StoreHealth())
        return ring_status(served.name)


def reader(**change):
    plain = dict.fromkeys(
        ("lane", "pid", "rank", "batches", "taken", "held_pairs", "waited_s", "waiting_s", "missed_pairs"), 0
    )
    return LaneStatus(**plain | {"group": "job", "world_size": 1, "batch_size": 4, "on_lag": "block"} | change)


@pytest.mark.parametrize(
    ("facts", "level"),
    [
        ({"total": 16 * GIB, "free": 8 * GIB, "writable": True}, Level.OK),
        ({"total": 64 << 20, "free": 64 << 20, "writable": True}, Level.WARN),
        ({"total": 16 * GIB, "free": GIB // 8, "writable": True}, Level.WARN),
        ({"total": 16 * GIB, "free": 8 * GIB, "writable": False}, Level.BAD),
        ({"total": 16 * GIB, "free": 8 * GIB, "writable": False, "read_only": True}, Level.BAD),
        ({"total": 16 * GIB, "free": 8 * GIB, "writable": True, "mode": 0o40777}, Level.BAD),
        ({"total": 16 * GIB, "free": 8 * GIB, "writable": True, "mode": 0o41777}, Level.OK),
    ],
)
def test_shared_memory_is_judged_by_size_room_mode(facts, level):
    assert checks.shared_memory(**facts).level is level


@pytest.mark.parametrize(("soft", "level"), [(64, Level.BAD), (256, Level.WARN), (1024, Level.OK), (1 << 20, Level.OK)])
def test_open_files_are_judged_by_a_daemons_needs(soft, level):
    assert checks.open_files(soft, 1 << 20).level is level


@pytest.mark.parametrize(
    ("now", "synchronised", "level"),
    [(1e9, True, Level.OK), (1e9, None, Level.OK), (1e9, False, Level.WARN), (1e9 - 1e6, True, Level.BAD)],
)
def test_a_wrong_or_unsynchronised_clock_is_reported(now, synchronised, level):
    """A clock before the installation is bad."""
    assert checks.clock(now_unix_s=now, newest_file_unix_s=1e9, synchronised=synchronised).level is level


def test_only_relevant_environment_variables_are_reported():
    assert list(checks.environment({"PATH": "/bin"}, credentials_readable=True)) == []
    found = checks.environment(
        {
            "STORAGE_EMULATOR_HOST": "localhost:9023",
            "https_proxy": "http://user:secret@proxy.example:3128",
            "GOOGLE_APPLICATION_CREDENTIALS": "/nowhere",
        },
        credentials_readable=False,
    )
    lines = [check.line() for check in found]
    assert [line.split()[0] for line in lines] == ["warn", "warn", "bad"]
    assert "localhost:9023" in lines[0]
    assert "proxy.example" in lines[1]
    assert "secret" not in "".join(lines)


@pytest.mark.parametrize(
    ("environ", "said"),
    [
        ({"https_proxy": "http://p:1"}, ["every download goes through p"]),
        ({"HTTPS_PROXY": "http://p:1"}, ["every download goes through p"]),
        ({"https_proxy": "", "HTTPS_PROXY": "http://p:1"}, []),
        ({"https_proxy": "http://p:1", "no_proxy": "localhost,.googleapis.com"}, []),
        ({"https_proxy": "http://p:1", "NO_PROXY": "*"}, []),
        ({"https_proxy": "http://p:1", "no_proxy": "example.com"}, ["every download goes through p"]),
        ({"all_proxy": "socks5://p:1"}, ["all_proxy is set, which a daemon does not use"]),
        ({"ALL_PROXY": "socks5://p:1", "https_proxy": "http://q:1"}, ["every download goes through q"]),
        ({"http_proxy": "http://p:1"}, []),
    ],
)
def test_proxies_are_told_as_a_daemon_uses_them(environ, said, monkeypatch):
    found = list(checks.environment(environ, credentials_readable=True))
    assert len(found) == len(said)
    assert all(sentence in check.found for sentence, check in zip(said, found, strict=True))
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    used = proxy_for("https://storage.googleapis.com")
    assert (used is not None) == any("every download" in sentence for sentence in said)


def test_packages_are_reported_with_their_absences_cost():
    found = list(checks.packages(fast={"simplejpeg": None}, torch=None))
    assert [(check.topic, check.level) for check in found] == [("codecs", Level.WARN), ("torch", Level.OK)]
    assert "pip install" in found[0].cure
    found = list(checks.packages(fast={"simplejpeg": "1.9.0"}, torch="2.3.1+cu121"))
    assert [check.level for check in found] == [Level.OK, Level.WARN]
    assert all(check.level is Level.OK for check in checks.packages(fast={}, torch="2.13.0+cpu"))


@pytest.mark.parametrize(
    ("change", "process", "level", "words"),
    [
        ({}, "S", Level.OK, "serves: "),
        ({"state": "dead"}, None, Level.BAD, "died"),
        ({"state": "failed", "reason": "each of the first 20"}, "S", Level.BAD, "was stopped: each of the first 20"),
        ({"heartbeat_age_s": 9.0}, "T", Level.BAD, "kill -CONT 4711"),
        ({"heartbeat_age_s": 9.0}, "D", Level.BAD, "swap"),
        ({"heartbeat_age_s": 9.0}, None, Level.BAD, "its loop has not turned for 9 s"),
        ({"consumers": [reader()], "lanes": 1}, "S", Level.WARN, "all 1 lanes are taken"),
        (
            {"verdict": Verdict(Bound.READER, "bound by a reader: rank 0/1 of group 'job' (pid 7) holds up the ring")},
            "S",
            Level.WARN,
            "(pid 7) holds up the ring",
        ),
        ({"verdict": Verdict(Bound.DECODING, "bound by decoding: 1 worker")}, "S", Level.WARN, "bound by decoding: 1"),
        ({"verdict": Verdict(Bound.NOTHING, "bound by nothing: all is well")}, "S", Level.OK, "all is well"),
        ({"worker_deaths": 2}, "S", Level.WARN, "2 of its worker processes have died"),
        ({"failed_pairs": 3}, "S", Level.WARN, "ringfeed errors"),
    ],
)
def test_a_rings_worst_problem_comes_with_advice(status, change, process, level, words):
    calm = {"heartbeat_age_s": 0.1, "consumers": [], "lanes": 4}
    seen = process and checks.Process(4711, process)
    check = checks.ring(dataclasses.replace(status, **calm | change), seen)
    assert check.level is level
    assert words in check.line()
    assert (check.cure != "") == (level is not Level.OK)
    assert check.verdict is not None
    assert check.verdict.sentence in check.found


def doctor(capsys):
    capsys.readouterr()
    code = main(["doctor", "--json"])
    return code, json.loads(capsys.readouterr().out)


def test_stopped_and_dead_daemons_are_found_unchanged(tmp_path, capsys):
    """A stopped daemon, and the files of a dead one; doctor changes nothing."""
    ring = f"t{uuid.uuid4().hex[:10]}"
    name = f"{ring}-train"

    def finding(topic: str) -> dict[str, str]:
        return next(check for check in doctor(capsys)[1] if check["topic"] == topic)

    with Daemon(str(write_folder(tmp_path, 8)), "--slots", "8", "--workers", "1", ring=ring) as daemon:
        before = traces(ring)
        assert finding(f"ring {name}")["level"] == "ok"
        daemon.process.send_signal(signal.SIGSTOP)
        try:
            wait_until(lambda: finding(f"ring {name}")["level"] == "bad")
            code, _ = doctor(capsys)
            assert code == 1
            assert f"kill -CONT {daemon.process.pid}" in finding(f"ring {name}")["cure"]
        finally:
            daemon.process.send_signal(signal.SIGCONT)
        wait_until(lambda: finding(f"ring {name}")["level"] == "ok")
        assert traces(ring) == before
        daemon.process.kill()
        daemon.process.wait()
        assert "died" in finding(f"ring {name}")["found"]
        assert re.search(rf"{name} \(\d+ files\)", finding("leftovers")["found"])
        assert traces(ring) == before
        wipe(ring)
        assert name not in finding("leftovers")["found"]


def test_a_planted_file_is_a_finding():
    """Under a ring's name; doctor does not crash."""
    ring = f"t{uuid.uuid4().hex[:10]}"
    (SHM / f"ringfeed.{ring}").write_text("junk")
    (SHM / f"ringfeed.{ring}.lock").symlink_to("/etc/passwd")
    try:
        found = {check.topic: check for check in examine(os.environ)}
        assert found[f"ring {ring}"].level is Level.BAD
        assert ring in found["leftovers"].found
    finally:
        wipe(ring)


BUCKET = {"b": {"set/images/1.jpg": b"x" * 70_000, "set/labels/1.png": b"y" * 100}}


@pytest.mark.parametrize(
    ("fault", "root", "level", "said"),
    [
        ("", "gs://b/set", Level.OK, r"answers: a page of its listing took .*s, an object of \d+ kB .*s"),
        ("", "gs://b/nothing", Level.WARN, "there is no object in it"),
        ("", "gs://c", Level.BAD, "cannot be read: There is no bucket c"),
        ("any/429", "gs://b/set", Level.WARN, "limits the rate: .*429"),
        ("read/503", "gs://b/set", Level.BAD, "cannot be read: .*503"),
        ("any/403", "gs://b/set", Level.BAD, "cannot be read: .*403"),
    ],
)
def test_a_bucket_is_asked_for_page_and_object(fault, root, level, said):
    faults = [parse_fault(fault)] if fault else []
    with serve_in_thread(FakeGcs(BUCKET, faults)) as server:
        check = ask_store(root, server.url)
    assert (check.level, check.topic) == (level, f"store {root}")
    assert re.search(said, check.found)
    assert bool(check.cure) == (level is not Level.OK)


def test_doctor_uses_proxies_as_a_daemon_does(monkeypatch):
    """Not for what lies on this machine."""
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.setenv("no_proxy", "")
    with serve_in_thread(FakeGcs(BUCKET)) as server:
        assert ask_store("gs://b/set", server.url).level is Level.OK


def test_a_bucket_that_refuses_connections_is_bad_immediately(capsys):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
        began = time.monotonic()
        assert main(["doctor", "gs://b/set", "--emulator", url]) == 1
    assert time.monotonic() - began < 10
    assert re.search(r"^bad +store gs://b/set +cannot be read: ", capsys.readouterr().out, re.MULTILINE)


@pytest.mark.parametrize(
    ("rows", "spare", "found", "advice"),
    [
        (0, 100 << 20, "is off; 80% would fit into 0.1 GiB", 'Set memory = "1 GiB"'),
        (0, 1 << 40, "is off; 100% would fit into 0.1 GiB", 'Set memory = "1 GiB"'),
        (50, 0, None, ""),
        (
            50,
            100 << 20,
            "50% of the set fit into the memory cache; 100% would fit into 0.1 GiB",
            'Set memory = "1 GiB"',
        ),
        (100, 0, "all 100 pairs fit into the memory cache", ""),
    ],
)
def test_advice_on_the_cache_is_what_would_fit(rows, spare, found, advice):
    ring = SimpleNamespace(
        ring="train",
        daemon_pid=1,
        epoch_length=100,
        num_nodes=1,
        cache_rows=rows,
        cache_row_bytes=1 << 20,
        memory_bytes=16 << 20,
        slots=16,
    )
    said = list(checks.caches([ring], spare))
    assert [check.found for check in said] == ([] if found is None else [found])
    assert all(check.cure.startswith(advice) and check.level is Level.OK for check in said)
