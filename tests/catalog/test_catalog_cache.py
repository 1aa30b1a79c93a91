"""Cached listings: what is read is what was saved, and living trainers read on in a bucket that has grown since."""

import asyncio
import os
import random
import secrets
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from growing import epoch_of, names, pictures
from house import Daemon, wait_until, write_folder

import ringfeed
from ringfeed.cli.status import ring_status
from ringfeedd.catalog.cache import KEPT, KEPT_S, CatalogCache, default_folder
from ringfeedd.catalog.cache_use import IN_USE_S
from ringfeedd.catalog.listing import build_catalog
from ringfeedd.catalog.templates import KeyTemplates
from ringfeedd.config import Config, resolve
from ringfeedd.recovery.catalogs import find_promised, make_revisions
from ringfeedd.storage.local import LocalSource

PAIRS, MORE = 20, 12


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("set"), PAIRS)


def listing(folder):
    return asyncio.run(build_catalog(LocalSource(folder, concurrency=4), KeyTemplates.parse()))


def cache_in(path, root="r"):
    return CatalogCache(path, root=root, emulator=None, templates=KeyTemplates.parse())


def test_a_listing_comes_back_as_it_was_saved(folder, tmp_path):
    catalog = listing(folder)
    cache_in(tmp_path / "cache").save(catalog)
    (again,) = cache_in(tmp_path / "cache")
    assert again.fingerprint == catalog.fingerprint
    assert [again.pair(i) for i in range(PAIRS)] == [catalog.pair(i) for i in range(PAIRS)]
    for name, split in catalog.split(0.3).items():
        assert np.array_equal(again.split(0.3)[name].indices, split.indices)
    assert list(cache_in(tmp_path / "cache", root="another")) == []
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "cache").iterdir()} == {0o600}


def test_an_invalid_file_is_skipped(folder, tmp_path, caplog):
    cache_in(tmp_path).save(listing(folder))
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()
    for broken in (b"", whole[: len(whole) // 2], whole.replace(b"sub/0001", b"sub/9999"), b"x" * len(whole)):
        path.write_bytes(broken)
        assert list(cache_in(tmp_path)) == []
    path.write_bytes(whole)
    assert len(list(cache_in(tmp_path))) == 1
    path.chmod(0o666)
    assert list(cache_in(tmp_path)) == []
    assert "is passed over: it is not a plain file of this user" in caplog.text


def test_the_latest_listings_are_kept_and_no_more(tmp_path):
    fingerprints = []
    for count in range(2, 2 + KEPT + 2):
        catalog = listing(write_folder(tmp_path / f"set{count}", count))
        cache_in(tmp_path / "cache").save(catalog)
        fingerprints.append(catalog.fingerprint)
        for path in (tmp_path / "cache").iterdir():  # a second older each time: the clock's grain is coarse
            os.utime(path, ns=(0, path.stat().st_mtime_ns - 10**9))
    assert [catalog.fingerprint for catalog in cache_in(tmp_path / "cache")] == fingerprints[: -KEPT - 1 : -1]


def test_a_listing_in_use_is_never_evicted(tmp_path):
    """However many listings came after it."""
    catalogs = [listing(write_folder(tmp_path / f"set{count}", count)) for count in range(2, 2 + KEPT + 2)]
    for catalog in catalogs:
        cache_in(tmp_path / "cache").save(catalog)
        cache_in(tmp_path / "cache").keep("train", [catalogs[0]])
        for path in (tmp_path / "cache").iterdir():
            os.utime(path, ns=(0, path.stat().st_mtime_ns - 10**9))
    kept = [catalog.fingerprint for catalog in cache_in(tmp_path / "cache")]
    assert kept == [catalog.fingerprint for catalog in [*catalogs[: -KEPT - 1 : -1], catalogs[0]]]


def test_a_listing_that_another_daemon_serves_is_kept(tmp_path):
    """While it says so, and for a day after, e.g. because it was killed and its trainers wait for the next one."""
    catalogs = [listing(write_folder(tmp_path / f"set{count}", count)) for count in range(2, 2 + KEPT + 2)]
    other, ours = cache_in(tmp_path / "cache", "other"), cache_in(tmp_path / "cache")
    for cache in (other, ours):
        cache.save(catalogs[0])
    other.keep("other-train", [catalogs[0]])
    ours.keep("first-train", [catalogs[0]])
    ours.keep("second-train", catalogs[:1])
    ours.keep("second-train", catalogs[1:2])

    def list_more():
        for path in (tmp_path / "cache").glob("*.catalog"):
            os.utime(path, (0, path.stat().st_mtime - KEPT_S - 1))
        for catalog in catalogs[1:]:
            ours.save(catalog)
        kept = [{catalog.fingerprint for catalog in cache} for cache in (other, ours)]
        return [catalogs[0].fingerprint in fingerprints for fingerprints in kept]

    assert list_more() == [True, True]
    for path in (tmp_path / "cache").glob("*.served"):
        os.utime(path, (0, path.stat().st_mtime - IN_USE_S - 1))
    assert list_more() == [False, False]
    assert list((tmp_path / "cache").glob("*.served")) == []


def test_a_removed_listing_in_use_is_saved_again(folder, tmp_path):
    cache, catalog = cache_in(tmp_path), listing(folder)
    cache.save(catalog)
    next(tmp_path.glob("*.catalog")).unlink()
    cache.keep("train", [catalog])
    assert [kept.fingerprint for kept in cache] == [catalog.fingerprint]


@pytest.mark.parametrize("content", [b"", b"[", b"{}", b"[1, null]", b"\xff", b"[" * 100_000], ids=range(6))
def test_an_unreadable_list_of_uses_costs_nothing(folder, tmp_path, content):
    cache, catalog = cache_in(tmp_path), listing(folder)
    (tmp_path / "0.served").write_bytes(content)
    (tmp_path / "1.served").symlink_to("nowhere")
    os.mkfifo(tmp_path / "2.served")
    cache.keep("train", [catalog])
    assert [kept.fingerprint for kept in cache] == [catalog.fingerprint]


def damaged(good: bytes):
    """The bytes of a listing's file, each time with a header of the archive that means something else."""
    entry = good.index(b"PK\x01\x02")
    for offset, value in ((6, 200), (8, 0x20), (8, 0x40), (8, 0x01), (10, 99), (10, 8)):
        yield good[: entry + offset] + bytes([value]) + good[entry + offset + 1 :]
    yield good.replace(b"hashes.npy", b"hashes.npx")
    yield good.replace(b"meta.npy", b"atem.npy")
    draw = random.Random(3)
    for _ in range(200):
        place = draw.randrange(len(good))
        yield good[:place] + draw.randbytes(1) + good[place + 1 :]


def test_a_damaged_listing_is_passed_over(folder, tmp_path, caplog):
    cache, catalog = cache_in(tmp_path), listing(folder)
    cache.save(catalog)
    (path,) = tmp_path.glob("*.catalog")
    for content in damaged(path.read_bytes()):
        path.write_bytes(content)
        for found in cache:
            assert found.fingerprint == catalog.fingerprint
    assert "is passed over" in caplog.text


def test_a_vanishing_file_costs_no_other_file(folder, tmp_path, monkeypatch):
    catalogs = [listing(write_folder(tmp_path / f"set{count}", count)) for count in range(2, 2 + KEPT + 1)]
    cache = cache_in(tmp_path / "cache")
    for catalog in catalogs[:-1]:
        cache.save(catalog)
    vanishing = cache._path(catalogs[0].fingerprint)
    stat = Path.stat

    def vanish(path, **options):
        if path == vanishing:
            path.unlink(missing_ok=True)
        return stat(path, **options)

    monkeypatch.setattr(Path, "stat", vanish)
    assert [kept.fingerprint for kept in cache] == [catalog.fingerprint for catalog in catalogs[-2:0:-1]]
    cache.save(catalogs[0])
    cache.save(catalogs[-1])
    assert [kept.fingerprint for kept in cache] == [catalog.fingerprint for catalog in catalogs[:0:-1]]


def test_a_draft_is_new_and_follows_no_link(folder, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(secrets, "token_hex", lambda _: "chosen")
    target = tmp_path / "target"
    target.write_text("mine")
    catalog, cache = listing(folder), cache_in(tmp_path / "cache")
    cache.save(catalog)
    (kept,) = (tmp_path / "cache").glob("*.catalog")
    kept.unlink()
    kept.with_suffix(".chosen.draft").symlink_to(target)
    cache.save(catalog)
    assert target.read_text() == "mine"
    assert not kept.exists()
    assert "could not be cached" in caplog.text


def test_an_interrupted_draft_is_removed_later(folder, tmp_path):
    for name, age_s in [("old.1.draft", IN_USE_S + 1), ("new.1.draft", 0)]:
        (tmp_path / name).write_bytes(b"")
        os.utime(tmp_path / name, (0, time.time() - age_s))
    cache_in(tmp_path).save(listing(folder))
    assert [path.name for path in tmp_path.glob("*.draft")] == ["new.1.draft"]


def test_roots_without_listings_are_forgotten_after_a_time(folder, tmp_path):
    for root in ("given up", "in use"):
        cache_in(tmp_path, root).save(listing(folder))
    for path in tmp_path.iterdir():
        os.utime(path, (0, path.stat().st_mtime - KEPT_S - 1))
    cache_in(tmp_path, "in use").save(listing(folder))
    assert len(list(cache_in(tmp_path, "in use"))) == 1
    assert list(cache_in(tmp_path, "given up")) == []


def test_an_unwritable_cache_is_only_reported(folder, tmp_path, caplog):
    (tmp_path / "file").write_bytes(b"")
    cache_in(tmp_path / "file" / "cache").save(listing(folder))
    assert "the catalog could not be cached" in caplog.text
    assert list(cache_in(tmp_path / "file" / "cache")) == []
    assert list(cache_in(None)) == []


def test_the_folder_is_systemds_or_the_users():
    assert str(default_folder({"CACHE_DIRECTORY": "/var/cache/ringfeed:/x", "XDG_CACHE_HOME": "/y"})) == (
        "/var/cache/ringfeed"
    )
    assert str(default_folder({"XDG_CACHE_HOME": "/y"})) == "/y/ringfeed"


def serve(folder, ring, cache, *arguments):
    common = ("--size", "24x32", "--slots", "16", "--workers", "1", "--concurrency", "4", "--catalog-cache", cache)
    return Daemon(str(folder), *common, *arguments, ring=ring)


def grow(folder, tmp_path):
    """More pairs, without touching those that are there."""
    more = write_folder(tmp_path / "more", PAIRS + MORE)
    for part in ("images", "labels"):
        for path in pictures(more, part):
            target = folder / path.relative_to(more)
            if not target.exists():
                path.rename(target)


def refreshed_from(ring):
    """Refresh; the epoch with which the new pairs come in."""
    command = [sys.executable, "-m", "ringfeedd", "refresh", f"{ring}-train"]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return int(said.rpartition("from epoch ")[2].split()[0])


def test_a_killed_daemons_successor_serves_the_new_pairs(tmp_path, ring):
    """A daemon is killed after the bucket has grown; no reader is disconnected."""
    folder = write_folder(tmp_path / "set", PAIRS)
    old = names(folder)
    daemon = serve(folder, ring, tmp_path / "cache")
    with daemon, ringfeed.attach(f"{ring}-train", batch_size=4, group="g", drop_last=False) as reader:
        batches = iter(reader)
        seen = list(next(batches).ids)
        wait_until(lambda: list((tmp_path / "cache").glob("*.catalog")))
        grow(folder, tmp_path)
        daemon.process.kill()
        daemon.process.wait()
        daemon.start()
        daemon.output.wait_for(f"begins with the {PAIRS} pairs of an earlier listing")
        daemon.output.wait_for("ready")
        seen += [pair_id for batch in batches for pair_id in batch.ids]
        assert sorted(seen) == old
        wait_until(lambda: "instead of" in ring_status(f"{ring}-train").refresh)
        while len(seen) == PAIRS:
            seen = epoch_of(reader)
        assert sorted(seen) == names(folder)


def test_a_kill_amid_a_refresh_keeps_both_catalogs(tmp_path, ring):
    """Between a refresh and its epoch: the next daemon serves the old catalog, then the new one."""
    folder = write_folder(tmp_path / "set", PAIRS)
    old = names(folder)
    daemon = serve(folder, ring, tmp_path / "cache")
    with daemon, ringfeed.attach(f"{ring}-train", batch_size=4, group="g", drop_last=False) as reader:
        batches = iter(reader)
        seen = list(next(batches).ids)
        wait_until(lambda: list((tmp_path / "cache").glob("*.catalog")))
        grow(folder, tmp_path)
        begins = refreshed_from(ring)
        wait_until(lambda: len(list((tmp_path / "cache").glob("*.catalog"))) == 2)
        daemon.process.kill()
        daemon.process.wait()
        daemon.start().output.wait_for("ready")
        seen += [pair_id for batch in batches for pair_id in batch.ids]
        assert sorted(seen) == old
        while (epoch := reader.epoch) <= begins:
            assert sorted(epoch_of(reader)) == (names(folder) if epoch >= begins else old)


def test_a_waiting_reader_keeps_the_previous_catalog(tmp_path):
    """A reader that waits at a catalog's first epoch still needs the one before it."""
    catalogs = [listing(write_folder(tmp_path / f"set{count}", count)) for count in (PAIRS, PAIRS + MORE)]
    config = Config(root="r", test_ratio=0.0)
    nodes = resolve(config).nodes
    old, new = (make_revisions(catalog, config, nodes)["train"] for catalog in catalogs)
    descriptor = SimpleNamespace(newest=new.served(1), catalog=lambda epoch: (new if epoch else old).served(0))
    for at, first, later in [((0, 4), old, {"train": 1}), ((1, 0), old, {"train": 1}), ((1, 4), new, {})]:
        former = SimpleNamespace(descriptor=descriptor, places=[SimpleNamespace(at=at)])
        start = find_promised({"train": [former]}, catalogs, config, nodes)
        assert start.revisions["train"].split.fingerprint == first.split.fingerprint
        assert {split: epoch for split, (epoch, _) in start.later.items()} == later


def test_a_busy_reader_survives_two_killed_daemons(tmp_path, ring):
    """Also if the second of them had promised more epochs."""
    folder = write_folder(tmp_path / "set", PAIRS)
    old = names(folder)
    daemon = serve(folder, ring, tmp_path / "cache")
    with (
        daemon,
        ringfeed.attach(f"{ring}-train", batch_size=2, group="busy", drop_last=False) as busy,
        ringfeed.attach(f"{ring}-train", batch_size=2, group="quick", drop_last=False) as quick,
    ):
        batches, others = iter(busy), iter(quick)
        seen = list(next(batches).ids)
        theirs = list(next(others).ids)

        def serve_again():
            daemon.process.kill()
            daemon.process.wait()
            daemon.start().output.wait_for("ready")

        wait_until(lambda: list((tmp_path / "cache").glob("*.catalog")))
        serve_again()
        theirs += [pair_id for _ in range(8) for pair_id in next(others).ids]  # as far as the busy one lets it
        assert len(ring_status(f"{ring}-train").consumers) == 1, "the busy one is still in its first step"
        grow(folder, tmp_path)
        begins = refreshed_from(ring)
        serve_again()
        seen += [pair_id for batch in batches for pair_id in batch.ids]
        theirs += [pair_id for batch in others for pair_id in batch.ids]
        assert sorted(seen) == sorted(theirs) == old
        while (epoch := busy.epoch) <= begins:
            expected = names(folder) if epoch >= begins else old
            assert [sorted(ids) for ids in epoch_of(busy, quick)] == [expected, expected]


def test_a_start_uses_the_latest_listing_at_once(tmp_path, ring):
    """It makes a new one in the background."""
    folder = write_folder(tmp_path / "set", PAIRS)
    with serve(folder, ring, tmp_path / "cache"):
        wait_until(lambda: list((tmp_path / "cache").glob("*.catalog")))
    grow(folder, tmp_path)
    with serve(folder, ring, tmp_path / "cache", "--catalog", "cached") as daemon:
        assert any(line.startswith(f"begins with the {PAIRS} pairs") for line in daemon.output.lines)
        wait_until(lambda: ring_status(f"{ring}-train").epoch_length == PAIRS + MORE)
