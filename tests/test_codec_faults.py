"""Pairs that hurt the process which decodes them: a crash, a hang, a glutton, a bomb. Each costs itself alone."""

from __future__ import annotations

import asyncio
import re
import uuid

import pytest
from decode_reference import encode, photograph, png
from house import Daemon
from hypothesis import given, settings
from hypothesis import strategies as st

import ringfeed
from ringfeedd.decode_gate import DecodeGate

HEIGHT, WIDTH = 48, 64
PAIRS = 16
CRASH, BESIDE_IT, GLUTTON, BOMB = 5, 6, 9, 11
HANG_TIMEOUT_S = 4

MEDDLE = """
import ctypes, resource, time
import numpy as np
from ringfeedd import fast_codecs

resource.setrlimit(resource.RLIMIT_CORE, (0, 0))

def meddle(picture, out):
    '''Does with the process what the image's comment says.'''
    if b"do: wait" in picture.data:
        time.sleep(0.6)
    if b"do: crash" in picture.data:
        time.sleep(0.3)  # so that another decode goes on in the other thread
        ctypes.string_at(0)
    if b"do: hang" in picture.data:
        time.sleep(3600)
    if b"do: hold" in picture.data:
        ctypes.PyDLL(None).sleep(3600)  # with the interpreter held: the worker's loop stands still
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
    """One worker of two threads, in which a codec does what a comment says; stopped, it is asked what it said."""
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
    return dict(re.findall(r"the pair '(\d\d)' could not be had: (.*)", log))


def test_a_crash_a_glutton_and_a_bomb_cost_themselves_and_nothing_beside_them(serve) -> None:
    comments = {CRASH: b"do: crash", BESIDE_IT: b"do: wait", GLUTTON: b"do: eat", BOMB: b""}
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


@pytest.mark.parametrize("how", ["hang", pytest.param("hold", marks=pytest.mark.slow)])
def test_a_decode_that_hangs_costs_its_worker_and_itself(serve, how) -> None:
    rows, log = serve({CRASH: f"do: {how}".encode()}, timeout_s=HANG_TIMEOUT_S)
    assert [wanted for wanted, _, valid in rows if not valid] == [f"{CRASH:02d}"]
    assert len(rows) == PAIRS
    assert "each time a worker process died" in reasons(log)[f"{CRASH:02d}"]
    what = "has been decoding pair" if how == "hang" else "has not turned its loop"
    assert log.count("it is killed") == log.count(f"for {HANG_TIMEOUT_S} s; it is killed") == 2
    assert what in log


@given(
    wishes=st.lists(st.tuples(st.booleans(), st.integers(0, 3), st.booleans()), min_size=1, max_size=12),
)
@settings(max_examples=100, deadline=None)
def test_one_that_goes_alone_has_nobody_beside_it_and_everybody_gets_in(wishes) -> None:
    async def run() -> None:
        gate = DecodeGate()
        inside: set[int] = set()
        lonely: set[int] = set()

        async def one(number: int, alone: bool, turns: int) -> None:
            await gate.enter(alone=alone)
            try:
                inside.add(number)
                if alone:
                    lonely.add(number)
                for _ in range(turns + 1):
                    assert not lonely or len(inside) == 1, repr(gate)
                    await asyncio.sleep(0)
            finally:
                inside.discard(number)
                lonely.discard(number)
                gate.leave()

        tasks = [asyncio.create_task(one(number, alone, turns)) for number, (alone, turns, _) in enumerate(wishes)]
        await asyncio.sleep(0)
        for number, (_, _, cancelled) in enumerate(wishes):
            if cancelled and number not in inside:
                tasks[number].cancel()
        results = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 10)
        assert all(result is None or isinstance(result, asyncio.CancelledError) for result in results), results
        assert repr(gate) == "DecodeGate(0 inside, 0 wait)"

    asyncio.run(run())
