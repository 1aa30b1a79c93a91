"""Pairs that hurt the process which decodes them: a crash, a hang, a glutton, a bomb. Each costs itself alone."""

from __future__ import annotations

import re
import uuid

import pytest
from decode_reference import encode, photograph, png
from house import Daemon

import ringfeed

HEIGHT, WIDTH = 48, 64
PAIRS = 16
CRASH, GLUTTON, BOMB = 5, 9, 11
HANG_TIMEOUT_S = 4

MEDDLE = """
import ctypes, resource
import numpy as np
from ringfeedd.decode import codecs as fast_codecs

resource.setrlimit(resource.RLIMIT_CORE, (0, 0))

def meddle(picture, out):
    '''Does with the process what the image's comment says.'''
    if b"do: crash" in picture.data:
        ctypes.string_at(0)
    if b"do: hang" in picture.data:
        ctypes.PyDLL(None).sleep(3600)  # with the interpreter held, as codecs do
    if b"do: eat" in picture.data:
        eaten = []
        while True:
            eaten.append(np.empty(1 << 28, np.uint8))  # never touched, so nothing but the limit ends it
    return False

fast_codecs.FOR_IMAGES = (meddle, *fast_codecs.FOR_IMAGES)
"""


def write_root(root, comments):
    for name in ("images", "labels"):
        (root / name).mkdir(parents=True)
    for number in range(PAIRS):
        picture = photograph("china").crop((number, number, number + WIDTH, number + HEIGHT))
        comment = comments.get(number, b"nothing")
        (root / "images" / f"{number:02d}.jpg").write_bytes(encode(picture, "JPEG", comment=comment))
        (root / "labels" / f"{number:02d}.png").write_bytes(encode(picture.quantize(8), "PNG"))
    return root


def read_one_epoch(ring):
    """(id that was wanted, id that came, whether it is the wanted one) by position."""
    with ringfeed.attach(f"{ring}-train", batch_size=4) as reader:
        return [
            (f"{position:02d}", found, valid)
            for batch in reader
            for position, found, valid in zip(batch.positions.tolist(), batch.ids, batch.valid.tolist(), strict=True)
        ]


@pytest.fixture
def serve(tmp_path, monkeypatch):
    """One worker, in which a codec does what a comment says; stopped, it is asked what it said."""
    (tmp_path / "path").mkdir()
    (tmp_path / "path" / "sitecustomize.py").write_text(MEDDLE)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "path"), prepend=":")

    def run(comments, *, timeout_s=60):
        ring = f"t{uuid.uuid4().hex[:10]}"
        root = write_root(tmp_path / "root", comments)
        if BOMB in comments:
            (root / "images" / f"{BOMB:02d}.jpg").write_bytes(png(60_000, 60_000, 1, 0, bytes(2_000_000)))
        arguments = ("--size", f"{HEIGHT}x{WIDTH}", "--label-mode", "index", "--order", "sequential", "--workers", "1")
        arguments += ("--worker-timeout-s", timeout_s, "--max-pixels", 1_000_000, "--max-failed", "0.5", "--slots", 32)
        with Daemon(str(root), *arguments, ring=ring) as daemon:
            rows = read_one_epoch(ring)
        return rows, daemon.output.rest()

    return run


def reasons(log):
    return dict(re.findall(r"pair '(\d\d)' failed to load: (.*)", log))


def test_crashing_gluttonous_and_exploding_files_cost_only_themselves(serve) -> None:
    """A crash, a file that takes much memory, and a bomb fail no other pair."""
    comments = {CRASH: b"do: crash", GLUTTON: b"do: eat", BOMB: b""}
    rows, log = serve(comments)
    assert [wanted for wanted, _, _ in rows] == [f"{number:02d}" for number in range(PAIRS)]
    lost = {f"{number:02d}" for number in (CRASH, GLUTTON, BOMB)}
    assert {wanted for wanted, _, valid in rows if not valid} == lost
    assert all(found == wanted for wanted, found, valid in rows if valid)
    assert not {found for _, found, _ in rows} & lost
    told = reasons(log)
    assert told.keys() == lost
    assert "each time a worker process died" in told[f"{CRASH:02d}"]
    assert "there was no memory for it: a worker may use" in told[f"{GLUTTON:02d}"]
    assert "60000x60000 pixels, which is more than max_pixels = 1000000" in told[f"{BOMB:02d}"]
    # The glutton and the bomb cost no process. The crash costs two, though the ring is two epochs long.
    assert log.count("died with signal 11") == 2


def test_a_hanging_decode_costs_its_worker_and_itself(serve) -> None:
    rows, log = serve({CRASH: b"do: hang"}, timeout_s=HANG_TIMEOUT_S)
    assert [wanted for wanted, _, valid in rows if not valid] == [f"{CRASH:02d}"]
    assert len(rows) == PAIRS
    assert "each time a worker process died" in reasons(log)[f"{CRASH:02d}"]
    assert log.count("it is killed") == 2
    assert len(re.findall(rf"has been decoding pair \d+ for {HANG_TIMEOUT_S} s; it is killed", log)) == 2
