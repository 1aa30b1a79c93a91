"""`ringfeed bench gpu` on a machine without a GPU: its ways into a device, its trainers, its tables.

Main memory stands for the GPU, or a device that is as late as CUDA may be: it reads memory when it is waited for.
"""

import dataclasses
import itertools
import sys
import weakref
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from test_bench import HERE, SMALL, needs_nginx, session_over, shared

from ringfeedd.bench import gpu as command
from ringfeedd.bench.contenders import Peers, Ringfeed
from ringfeedd.bench.device import MainMemory
from ringfeedd.bench.feeding import ByBuffers, Straight, fed, waits
from ringfeedd.bench.gpu import COPY_ROWS, Loaders, copy_rows, data_loader, gpu, measure, wait_rows
from ringfeedd.bench.gpu_figures import Copied, Waits
from ringfeedd.bench.gpu_trainer import copies
from ringfeedd.bench.handoff import on_a_full_ring
from ringfeedd.bench.results import Spread
from ringfeedd.bench.session import reference_hash
from ringfeedd.bench.store import Store
from ringfeedd.bench.workload import make_workload

BATCH = 4
PAIRS = 24


@dataclasses.dataclass
class Somewhere:
    """In the place of a workload, where none is there before the command makes it."""

    folder: str


@pytest.fixture(scope="module")
def workload(tmp_path_factory):
    return make_workload(tmp_path_factory.mktemp("data"), SMALL, pairs=PAIRS, seed=3)


@pytest.fixture
def rings(monkeypatch):
    """The names of this test's rings: others may be measuring on this machine."""
    names = []
    daemon = Ringfeed.daemon

    def noted(*arguments):
        started = daemon(*arguments)
        names.append(started.name)
        return started

    monkeypatch.setattr(Ringfeed, "daemon", noted)
    return names


def left_of(rings):
    assert rings
    return [file for file in shared() if any(ring in file for ring in rings)]


def batches(count):
    """Of which each byte tells the batch's number."""
    for number in range(1, 1 + count):
        image = torch.full((BATCH, 6, 5, 3), number, dtype=torch.uint8)
        yield image.permute(0, 3, 1, 2), torch.full((BATCH, 6, 5), number, dtype=torch.uint8)


class LateDevice(MainMemory):
    """Reads what is pinned only when an event after its copy is waited for; pageable memory at once."""

    def __init__(self):
        self.late = []
        self.lent = []
        self.waited_for = 0

    def pinned(self, like):
        self.lent.append(torch.empty_like(like))
        return self.lent[-1]

    def copy(self, source):
        if not any(source is lent for lent in self.lent):
            return super().copy(source)
        there = torch.zeros_like(source)
        self.late.append((there, source))
        return there

    def event(self):
        return _Moment(self, len(self.late))

    def synchronize(self):
        self.run(len(self.late))

    def run(self, upto):
        for there, source in self.late[self.waited_for : upto]:
            there.copy_(source)
        self.waited_for = max(self.waited_for, upto)


class _Moment:
    def __init__(self, device, upto):
        self._device = device
        self._upto = upto

    def synchronize(self):
        self._device.run(self._upto)


# Ways in.


@pytest.mark.parametrize("device", [MainMemory, LateDevice])
@pytest.mark.parametrize("way", [Straight, ByBuffers])
def test_every_way_brings_every_byte(device, way):
    """However late the device reads."""
    late = device()
    into = way(late)
    there = [into(batch) for batch in batches(7)]
    late.synchronize()
    for number, (image, label) in enumerate(there, 1):
        assert image.shape == (BATCH, 3, 6, 5)
        assert image.unique().tolist() == label.unique().tolist() == [number]


def test_a_buffer_is_made_once_and_used_again():
    device = LateDevice()
    into = ByBuffers(device)
    for batch in batches(20):
        into(batch)
    assert len(device.lent) == 2 * ByBuffers.TURNS  # an image's and a label's each
    assert [lent.stride() for lent in device.lent[:2]] == [tensor.stride() for tensor in next(batches(1))]


class Ring:
    """Slots that are written over as soon as nobody holds their batch."""

    WRITTEN_OVER = 255

    def __init__(self):
        self.memory = {}
        self.given_back = 0

    def batches(self, count):
        for number in range(1, 1 + count):
            memory = np.full((BATCH, 6, 5, 3), number, np.uint8)
            leased = memory.transpose(0, 3, 1, 2)
            weakref.finalize(leased, self._write_over, memory)
            image = torch.from_numpy(leased)
            self.memory[image.data_ptr()] = memory
            del leased
            yield (image, torch.zeros(BATCH, 6, 5)), list
            del image

    def _write_over(self, memory):
        memory.fill(self.WRITTEN_OVER)
        self.given_back += 1


class LateFromTheRing(LateDevice):
    """Reads pageable memory late as well, which CUDA does not rule out; it does not keep it."""

    def __init__(self, ring):
        super().__init__()
        self._ring = ring

    def copy(self, source):
        if source.data_ptr() not in self._ring.memory:
            return super().copy(source)
        there = torch.zeros(source.shape, dtype=source.dtype)
        self.late.append((there, torch.from_numpy(self._ring.memory[source.data_ptr()]).permute(0, 3, 1, 2)))
        return there


@pytest.mark.parametrize("way", [Straight, ByBuffers])
def test_slots_return_when_the_device_has_copied_them(way):
    """And not long after."""
    ring = Ring()
    device = LateFromTheRing(ring)
    there = []
    for number, batch in enumerate(fed(ring.batches(8), device, way(device), shown=False), 1):
        there.append(batch.image)
        assert ring.given_back >= number - 2
    assert [image.unique().tolist() for image in there] == [[number] for number in range(1, 9)]


def test_a_fed_devices_report_is_what_it_got():
    device = LateDevice()
    source = ((batch, lambda: ["id"] * BATCH) for batch in batches(3))
    seen = list(fed(source, device, Straight(device), shown=True))
    assert [one.image.shape for one in seen] == [(BATCH, 6, 5, 3)] * 3
    assert [int(one.image[0, 0, 0, 0]) for one in seen] == [1, 2, 3]
    assert seen[0].ids() == ["id"] * BATCH


# Clocks.


def test_an_epochs_first_wait_is_counted_apart(monkeypatch):
    """The start is left out."""
    clock = itertools.count().__next__
    now = [0.0]
    monkeypatch.setattr("ringfeedd.bench.feeding.time.perf_counter", lambda: now[0])

    class Loader:
        """Takes 8 s to begin an epoch, 1 s for a batch, and 4 s to put an epoch away."""

        def __iter__(self):
            clock()
            now[0] += 8
            for batch in batches(3):
                now[0] += 1
                yield batch
            now[0] += 4

    def pause(seconds):
        now[0] += seconds

    device = MainMemory()
    found = waits(Loader(), device, Straight(device), epochs=2, step_s=100.0, pause=pause)
    assert found == Waits(first_ms=[13_000.0] * 2, other_ms=[1000.0] * 4)
    assert clock() == 3


def test_all_copies_are_counted_after_the_first_pass():
    """Every way copies every batch."""
    found = copies(list(batches(3)), MainMemory(), passes=2)
    assert found.batch_bytes == BATCH * 6 * 5 * 4
    assert set(found.wall_ms) == set(found.cpu_us) == set(COPY_ROWS)
    assert {len(values) for values in (*found.wall_ms.values(), *found.cpu_us.values())} == {6}


# Tables.


def test_rows_of_copies_are_medians_of_rounds():
    """Gigabytes a second are the bytes over these medians."""
    runs = [
        Copied("a GPU", 24_000_000, {way: [ms, ms, 99.0] for way in COPY_ROWS}, {way: [7.0] for way in COPY_ROWS})
        for ms in (1.0, 2.0, 4.0)
    ]
    ms, rate, cpu, *_ = rows = copy_rows(runs)
    assert len(rows) == 3 * len(COPY_ROWS)
    assert (ms.unit, ms.value) == ("ms", Spread(2.0, 1.0, 4.0))
    assert (rate.unit, rate.value) == ("GB/s", Spread(12.0, 6.0, 24.0))
    assert (cpu.unit, cpu.value) == ("us", Spread(7.0, 7.0, 7.0))


def test_loaders_without_figures_have_no_rows():
    """A loader that did not run, or has one batch an epoch."""
    rows = wait_rows({"a": [Waits([3.0, 5.0], [1.0])], "gone": [], "b": [Waits([2.0], [])]})
    assert [(row.name, row.value.median) for row in rows] == [
        ("the GPU waits for an epoch's first batch: a", 4.0),
        ("the GPU waits for any other batch: a", 1.0),
        ("the GPU waits for an epoch's first batch: b", 2.0),
    ]


def test_without_a_gpu_the_command_explains_and_stops(monkeypatch):
    monkeypatch.setattr(command, "has_cuda", lambda: False)
    result = gpu(None)
    assert result.rates == result.figures == []
    assert "needs an NVIDIA GPU" in result.notes[0]


def test_claims_name_contenders_that_are_measured(tmp_path):
    session, _ = session_over(Somewhere(str(tmp_path / "w")), tmp_path)
    for peers in (None, Peers(sys.executable, HERE / "scripts" / "bench_peers")):
        loaders = Loaders.of(dataclasses.replace(session, peers=peers), "cpu")
        names = {contender.name for contender in loaders.all()}
        assert {claim.of for claim in loaders.claims()} <= names
        assert {name for claim in loaders.claims() for name in claim.to} <= names


# For real, with main memory for the GPU.


@needs_nginx
def test_a_trainer_copies_ring_batches_by_every_way(workload, tmp_path, rings):
    session, _ = session_over(workload, tmp_path)
    settings = {"measure": "copies", "device": "cpu", "batches": 8, "passes": 1}
    with Store(Path(workload.folder)) as store:
        task = dataclasses.replace(session.task(store, workload), batch_size=BATCH)
        line = on_a_full_ring(session, task, "ringfeedd.bench.gpu_trainer", settings, slots=64)
    found = msgspec.json.decode(line, type=Copied)
    assert found.batch_bytes == BATCH * workload.height * workload.width * 4
    assert found.device.startswith("no GPU")
    assert {len(values) for values in found.wall_ms.values()} == {8}
    assert left_of(rings) == []


@needs_nginx
@pytest.mark.parametrize("place", [1, 2], ids=["straight", "buffers"])
def test_pixels_in_the_device_are_pillows(workload, tmp_path, place):
    session, _ = session_over(workload, tmp_path)
    contender = Loaders.of(session, "cpu").all()[place]
    with Store(Path(workload.folder)) as store:
        task = dataclasses.replace(session.task(store, workload), batch_size=BATCH, check_pairs=12)
        found = contender.check(task, session.log)
    assert len(found) >= 12
    assert found == {pair_id: reference_hash(workload.folder, pair_id) for pair_id in found}


@needs_nginx
@pytest.mark.slow
def test_the_dataloader_feeds_a_device_with_pillows_pixels(workload, tmp_path):
    session, _ = session_over(workload, tmp_path)
    script = data_loader(HERE / "scripts" / "bench_peers", {"measure": "feeding", "device": "cpu", "workers": 1})
    with Store(Path(workload.folder)) as store:
        task = dataclasses.replace(session.task(store, workload), batch_size=BATCH, check_pairs=12)
        found = script.check(task, session.log)
    assert found == {pair_id: reference_hash(workload.folder, pair_id) for pair_id in found}


@needs_nginx
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_it_runs_with_main_memory_as_gpu(tmp_path, rings):
    """And leaves nothing."""
    session, said = session_over(Somewhere(str(tmp_path / "data" / "made")), tmp_path)
    session = dataclasses.replace(session, pairs=64, peers=Peers(sys.executable, HERE / "scripts" / "bench_peers"))
    result = measure(session, "cpu", step_s=0.02)
    assert result.notes == [], said
    assert [row.name for row in result.rates] == [contender.name for contender in Loaders.of(session, "cpu").all()]
    named = [row.name for row in result.figures]
    assert sum(name.startswith("one batch") for name in named) == 9
    assert sum("first batch" in name for name in named) == 3
    assert sum("any other batch" in name for name in named) == 3
    assert "into the memory of no GPU" in result.what
    assert sum("delivers Pillow's pixels" in line for line in said) == len(result.rates)
    assert left_of(rings) == []
