"""`ringfeed cache`: fills a running daemon's tiers, and looks after what lies in a folder."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from house import Daemon, write_folder

from ringfeed.cli.status import ring_status
from ringfeedd.cache.disk import PREFIX
from ringfeedd.cache.segments import segment_path, segments
from ringfeedd.cache.upkeep import disk_caches
from ringfeedd.cli.main import main

PAIRS = 30


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("set"), PAIRS)


def test_a_warm_cache_holds_every_pair(root, ring, tmp_path, capsys):
    folder = tmp_path / "cache"
    flags = ("--size", "24x32", "--slots", "16", "--workers", "1", "--label-mode", "index")
    with Daemon(str(root), *flags, "--cache-memory", "64 MiB", "--cache-disk", folder, ring=ring):
        assert main(["cache", "warm", f"{ring}-train"]) == 0
        status = ring_status(f"{ring}-train")  # reported before the command has ended
        assert (status.cache_rows_filled, status.cache_disk_pairs) == (PAIRS, PAIRS)
        assert f"memory holds {PAIRS}/" in capsys.readouterr().out
        assert main(["cache", "clear", str(folder)]) == 3
        assert "in use by a daemon" in capsys.readouterr().out
    assert main(["cache", "show", str(folder)]) == 0
    assert f"{root}: {PAIRS} pairs" in capsys.readouterr().out
    assert main(["cache", "verify", str(folder)]) == 0
    (part,) = folder.iterdir()
    path = segment_path(str(part), max(segments(str(part))))
    with Path(path).open("r+b") as file:
        file.seek(200)
        file.write(b"\xff\x00\xff")
    assert main(["cache", "verify", str(folder)]) == 1
    assert "1 damaged" in capsys.readouterr().out
    assert main(["cache", "clear", str(folder)]) == 0
    assert list(folder.iterdir()) == []


def test_a_daemon_without_a_cache_cannot_be_warmed(root, ring, capsys):
    with Daemon(str(root), "--size", "24x32", "--slots", "16", "--workers", "1", ring=ring):
        assert main(["cache", "warm", f"{ring}-train"]) == 3
        assert "keeps no pairs" in capsys.readouterr().err


def test_a_missing_folder_is_a_sentence(tmp_path, capsys):
    assert main(["cache", "show", str(tmp_path / "none")]) == 3
    assert "cannot be listed" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["root.json", "index"])
@pytest.mark.parametrize("content", [None, b"[" * 100_000, b"\xff" * 1000, b"[[1]]", b" " * (1 << 20)], ids=range(5))
def test_a_hostile_cache_folder_is_listed(tmp_path, name, content):
    """None is a pipe, for which nothing waits."""
    folder = tmp_path / f"{PREFIX}x"
    folder.mkdir()
    if content is None:
        os.mkfifo(folder / name)
    else:
        (folder / name).write_bytes(content)
    (found,) = disk_caches(tmp_path)
    assert found.pairs == 0
    assert found.bytes == 0
