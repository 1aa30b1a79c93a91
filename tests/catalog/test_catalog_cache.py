"""Cached listings: what is read is what was saved, and living trainers read on in a bucket that has grown since."""

import asyncio
import os
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


def test_a_file_that_cannot_be_believed_is_passed_over(folder, tmp_path, caplog):
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
    assert "is passed over: it is no plain file of this user" in caplog.text


def test_the_latest_listings_are_kept_and_no_more(tmp_path):
    fingerprints = []
    for count in range(2, 2 + KEPT + 2):
        catalog = listing(write_folder(tmp_path / f"set{count}", count))
        cache_in(tmp_path / "cache").save(catalog)
        fingerprints.append(catalog.fingerprint)
        for path in (tmp_path / "cache").iterdir():  # a second older each time: the clock's grain is coarse
            os.utime(path, ns=(0, path.stat().st_mtime_ns - 10**9))
    assert [catalog.fingerprint for catalog in cache_in(tmp_path / "cache")] == fingerprints[: -KEPT - 1 : -1]


def test_a_listing_that_trainers_read_is_kept_however_many_came_after_it(tmp_path):
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


def test_a_listing_in_use_that_was_removed_is_saved_again(folder, tmp_path):
    cache, catalog = cache_in(tmp_path), listing(folder)
    cache.save(catalog)
    next(tmp_path.glob("*.catalog")).unlink()
    cache.keep("train", [catalog])
    assert [kept.fingerprint for kept in cache] == [catalog.fingerprint]


@pytest.mark.parametrize("content", [b"", b"[", b"{}", b"[1, null]", b"\xff"])
def test_a_list_of_what_is_in_use_that_cannot_be_read_costs_nothing(folder, tmp_path, content):
    cache, catalog = cache_in(tmp_path), listing(folder)
    (tmp_path / "0.served").write_bytes(content)
    (tmp_path / "1.served").symlink_to("nowhere")
    cache.keep("train", [catalog])
    assert [kept.fingerprint for kept in cache] == [catalog.fingerprint]


def test_files_that_vanish_while_they_are_looked_at_cost_no_other(folder, tmp_path, monkeypatch):
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


def test_a_draft_is_a_new_file_and_no_link_is_followed(folder, tmp_path, monkeypatch, caplog):
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


def test_a_draft_that_was_cut_off_is_removed_in_time(folder, tmp_path):
    for name, age_s in [("old.1.draft", IN_USE_S + 1), ("new.1.draft", 0)]:
        (tmp_path / name).write_bytes(b"")
        os.utime(tmp_path / name, (0, time.time() - age_s))
    cache_in(tmp_path).save(listing(folder))
    assert [path.name for path in tmp_path.glob("*.draft")] == ["new.1.draft"]


def test_roots_that_nobody_lists_any_more_are_forgotten_in_time(folder, tmp_path):
    for root in ("given up", "in use"):
        cache_in(tmp_path, root).save(listing(folder))
    for path in tmp_path.iterdir():
        os.utime(path, (0, path.stat().st_mtime - KEPT_S - 1))
    cache_in(tmp_path, "in use").save(listing(folder))
    assert len(list(cache_in(tmp_path, "in use"))) == 1
    assert list(cache_in(tmp_path, "given up")) == []


def test_a_cache_that_cannot_be_written_is_said_and_nothing_else(folder, tmp_path, caplog):
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


def test_a_daemon_killed_after_the_bucket_has_grown_loses_nobody_and_lets_the_new_pairs_in(tmp_path, ring):
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


def test_a_daemon_killed_between_a_refresh_and_its_epoch_serves_both_catalogs_on(tmp_path, ring):
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


def test_a_reader_that_waits_at_a_catalogs_first_epoch_is_promised_the_one_before_it_too(tmp_path):
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


def test_a_reader_that_is_busy_while_two_daemons_die_goes_on_though_the_second_had_promised_more(tmp_path, ring):
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


def test_a_start_with_the_latest_listing_needs_no_new_one_and_makes_it_beside(tmp_path, ring):
    folder = write_folder(tmp_path / "set", PAIRS)
    with serve(folder, ring, tmp_path / "cache"):
        wait_until(lambda: list((tmp_path / "cache").glob("*.catalog")))
    grow(folder, tmp_path)
    with serve(folder, ring, tmp_path / "cache", "--catalog", "cached") as daemon:
        assert any(line.startswith(f"begins with the {PAIRS} pairs") for line in daemon.output.lines)
        wait_until(lambda: ring_status(f"{ring}-train").epoch_length == PAIRS + MORE)
