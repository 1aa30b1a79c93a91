"""The audits: whatever is killed, each job's log is, position by position, that of an undisturbed job."""

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
from audit import BEGINNING, Entry, Row, Run, Undisturbed, judge, reference_digests
from audit_catalogs import catalogs_read, fingerprint
from audited_job import Job, RefusedError
from house import Daemon, photographs, traces, write_objects

from ringfeed.cli.status import ring_status

PAIRS = 67
HEIGHT, WIDTH = 48, 64
FEW_SLOTS = 8

SUPPORT = Path(__file__).parents[1] / "support"


@pytest.fixture(scope="module")
def objects():
    return photographs(PAIRS, prefix="")


@pytest.fixture(scope="module")
def folder(objects, tmp_path_factory):
    return write_objects(tmp_path_factory.mktemp("set"), objects)


@pytest.fixture(scope="module")
def pixels(objects):
    return reference_digests(objects, "", HEIGHT, WIDTH)


@pytest.fixture(scope="module")
def undisturbed(pixels):
    return Undisturbed(list(pixels))


@pytest.fixture
def jobs(ring, tmp_path):
    started = [Job(f"{ring}-train", group, tmp_path) for group in "AB"]
    yield started
    for job in started:
        if job.runs:
            job.kill()


def serve(folder, ring, *arguments):
    shape = ("--size", f"{HEIGHT}x{WIDTH}", "--label-mode", "index", "--slots", "96", "--workers", "1")
    return Daemon(str(folder), *shape, "--linger-blocking-s", "0.3", *arguments, ring=ring)


def test_five_kills_and_resumptions_change_nothing_delivered(folder, ring, jobs, pixels, undisturbed):
    """A job delivers what an undisturbed one does."""
    seed = random.Random(3)
    job, _ = jobs
    with serve(folder, ring):
        for world_size, batch_size in ((1, 8), (2, 12), (3, 8), (2, 8), (1, 12)):
            job.start(world_size, batch_size)
            batches = seed.randrange(1, 5)
            job.order(f"take {batches + 2}")
            job.wait_steps(batches)
            job.kill(seed.sample(range(world_size), world_size))
        job.start(1, 12)
        job.order("until 8")  # beyond what the five may have taken
        job.finish()
    verdict = judge(job.runs, undisturbed, pixels)
    assert verdict.wrongs == []
    assert job.run.end == (8, 0)
    assert verdict.delivered == 8 * PAIRS
    assert any(run.begin[1] > 0 for run in job.runs), "it was resumed in the middle of an epoch"


def wait_attached_anew(ring, *jobs):
    """Wait until exactly the ranks of these jobs read from the daemon that serves now."""
    ranks = {pid for job in jobs for pid in job.pids}
    jobs[0].wait(lambda: {lane.pid for lane in ring_status(f"{ring}-train").consumers} == ranks, 30.0)


@pytest.fixture
def daemons(folder, ring):
    """A daemon, and its successors; `serve_again` kills the last one."""

    class Daemons(list):
        def serve_again(self):
            if self:
                self[-1].process.kill()
                self[-1].process.wait()
            self.append(serve(folder, ring, "--slots", FEW_SLOTS).start())
            self[-1].output.wait_for("ready")

    served = Daemons()
    served.serve_again()
    yield served
    served[-1].kill()


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_ten_daemon_kills_lose_and_repeat_nothing(ring, daemons, jobs, pixels, undisturbed):
    """Under two groups of two ranks."""
    seed = random.Random(11)
    for job in jobs:
        job.start(2, 1)
    for job in jobs:
        job.wait_attached()
    for _ in range(10):
        for job in jobs:  # what is left of this is taken while the daemon is away, or from its successor
            steps = seed.randrange(2, 4)
            job.order(f"take {steps}")
            job.wait_steps(job.run.steps + seed.randrange(1, steps))
        daemons.serve_again()
        for job in jobs:
            job.order(f"take {FEW_SLOTS // 2 + 1}")  # more than was left in the former ring
        wait_attached_anew(ring, *jobs)
    for job in jobs:
        assert job.run.end < (3, 0), "all kills fell into the three epochs"
        job.order("until 3")
    for job in jobs:
        job.finish()
    assert daemons[-1].stop() == 0
    assert traces(ring) == []
    for job in jobs:
        assert judge(job.runs, undisturbed, pixels).wrongs == []
        assert job.run.end == (3, 0)
        assert len(job.runs) == 1, "the same processes, all the time"


@pytest.mark.slow
def test_a_rank_busy_during_two_restarts_continues(ring, daemons, jobs, pixels, undisturbed):
    """At its next pair."""
    busy, quick = jobs
    for job in jobs:
        job.start(1, 2)
    for job in jobs:
        job.wait_attached()
    for job in jobs:
        job.order("take 1")
        job.wait_steps(1)
    daemons.serve_again()
    quick.order("take 40")
    wait_attached_anew(ring, quick)
    daemons.serve_again()
    wait_attached_anew(ring, quick)
    # it is waiting for the busy one now, or has gone far beyond what that one may still find in its first ring
    quick.wait(lambda: quick.run.steps > 20 or ring_status(f"{ring}-train").consumers[0].waiting_s > 2, 30.0)
    busy.order(f"take {FEW_SLOTS}")
    busy.wait_steps(1 + FEW_SLOTS)
    for job in (busy, quick):
        job.order("until 2")
    for job in (busy, quick):
        job.finish()
    assert daemons[-1].stop() == 0
    for job in jobs:
        assert judge(job.runs, undisturbed, pixels).wrongs == []


def test_a_job_behind_another_groups_place_is_told(folder, ring, jobs):
    ahead, behind = jobs
    with serve(folder, ring):
        ahead.start(1, 8)
        ahead.order("take 6")
        ahead.wait_steps(6)
        behind.start(1, 8)
        with pytest.raises(RefusedError, match=r"lies behind ring .* wait=True"):
            behind.wait_attached()


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_short_soak_ends_well():
    command = [sys.executable, str(Path(__file__).with_name("soak.py")), "--minutes", "0.3", "--seed", "5", "--hostile"]
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join([str(SUPPORT), os.environ.get("PYTHONPATH", "")])}
    soak = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environ)
    try:
        said, _ = soak.communicate(timeout=200)
    except subprocess.TimeoutExpired:
        soak.terminate()  # it stops whatever it has started
        said, _ = soak.communicate(timeout=30)
    assert soak.returncode == 0, said
    assert "all invariants hold" in said


# The audit itself can fail.


def logged(*runs):
    """Runs of one rank each, as (place after, rows) of each of its batches."""
    made = []
    for number, entries in enumerate(runs):
        run = Run(1, 2, made[-1].end if number else BEGINNING)
        run.ranks[0] = [Entry(rows, {"epoch": place[0], "position": place[1]}) for place, rows in entries]
        made.append(run)
    return made


def rows(source, *places, **changes):
    return [Row(source.id(p), *p, valid=True, digest=changes.get("digest", f"of {source.id(p)}")) for p in places]


@pytest.fixture
def four():
    return Undisturbed(["a", "b", "c", "d"])


DIGESTS = {name: f"of {name}" for name in "abcd"}


def test_the_audit_accepts_a_job_rolled_back(four):
    """The job was interrupted."""
    before = [((0, 2), rows(four, (0, 0), (0, 1)))]
    after = [((1, 0), rows(four, (0, 2), (0, 3)))]
    verdict = judge(logged(before, after), four, DIGESTS)
    assert (verdict.wrongs, verdict.delivered, verdict.rolled_back) == ([], 4, 0)


@pytest.mark.parametrize(
    ("batches", "wrong"),
    [
        (lambda s: [((0, 2), rows(s, (0, 0)))], "lost"),
        (lambda s: [((0, 2), rows(s, (0, 0), (0, 1), (0, 1)))], "repeated"),
        (lambda s: [((0, 2), [*rows(s, (0, 0)), Row("z", 0, 1, valid=True, digest="of z")])], "wrong_pair"),
        (lambda s: [((0, 2), rows(s, (0, 0), (0, 1), digest="other"))], "wrong_pixels"),
        (lambda s: [((0, 2), rows(s, (0, 1), (0, 0)))], "out_of_order"),
    ],
)
def test_the_audit_finds_what_is_wrong(four, batches, wrong):
    verdict = judge(logged(batches(four)), four, DIGESTS)
    assert getattr(verdict, wrong)


def test_entries_of_only_some_ranks_are_rolled_back(four):
    run = Run(2, 1, BEGINNING)
    run.ranks[0] = [
        Entry(rows(four, (0, 0)), {"epoch": 0, "position": 2}),
        Entry(rows(four, (0, 2)), {"epoch": 1, "position": 0}),
    ]
    run.ranks[1] = [Entry(rows(four, (0, 1)), {"epoch": 0, "position": 2})]
    verdict = judge([run], four, DIGESTS)
    assert (run.end, verdict.wrongs, verdict.delivered, verdict.rolled_back) == ((0, 2), [], 2, 1)


# So can that of a bucket that grows.

CATALOGS = [["b", "d"], ["b", "d", "c"], ["b", "d", "c", "a"]]


def read(*epochs, **changes):
    """A run of one rank, batch size 1, over epochs of these numbers of catalogs, as it is logged."""
    run = Run(1, 1, BEGINNING)
    source = Undisturbed({epoch: CATALOGS[number] for epoch, number in enumerate(epochs)})
    following = fingerprint(CATALOGS[epochs[0]])
    for epoch, number in enumerate(epochs):
        length = len(CATALOGS[number])
        for position in range(length):
            place = (epoch, position + 1) if position + 1 < length else (epoch + 1, 0)
            named = fingerprint(CATALOGS[number]) if place[1] else following  # as one who has not looked yet
            following = fingerprint(CATALOGS[number])
            state = {"epoch": place[0], "position": place[1], "fingerprint": changes.get(f"epoch_{epoch}", named)}
            run.ranks[0].append(Entry(rows(source, (epoch, position)), state))
    return run


def judged(*runs):
    found = catalogs_read(runs, CATALOGS)
    return found.wrongs, [wrong for run in runs for wrong in judge([run], found.undisturbed(), DIGESTS).wrongs]


def test_the_audit_passes_jobs_over_a_growing_bucket():
    first, second = read(0, 0, 1, 1, 2), read(0, 0, 1)
    assert judged(first, second) == ([], [])
    assert catalogs_read([first], CATALOGS).by_epoch == {0: 0, 1: 0, 2: 1, 3: 1, 4: 2}
    assert judge([first], catalogs_read([first], CATALOGS).undisturbed(), DIGESTS).delivered == 2 + 2 + 3 + 3 + 4


def test_an_epoch_of_two_catalogs_is_found():
    """Within a job and between two."""
    assert "epoch 1 was read from 2 catalogs" in judged(read(0, 0, 1), read(0, 1, 1))[0][0]
    halves = read(0, 2, 2)
    halves.ranks[0][3].state["fingerprint"] = fingerprint(CATALOGS[1])
    assert "epoch 1 was read from 2 catalogs" in judged(halves)[0][0]


def test_an_epoch_of_unknown_ids_is_found():
    """Ids that the bucket never had."""
    assert "epoch 1 is of ids strange that the bucket never had" in judged(read(0, 0, epoch_1="strange"))[0]


def test_an_epoch_of_a_former_catalog_is_found():
    assert judged(read(1, 2, 1))[0] == ["epoch 2 has 3 pairs, and one before it had 4"]


@pytest.mark.parametrize("epochs", [(0, 0, 0, 0), (0, 0, 1, 2), (2, 2, 2, 2)])
@pytest.mark.parametrize("of", range(3))
def test_a_guessed_catalog_hides_no_epochs_other_pairs(epochs, of):
    """All evidence of the epoch is taken away, and its pairs are those of any catalog."""
    run = read(*epochs[:2], of, epochs[3])
    for entry in run.ranks[0]:
        if entry.rows[0].epoch == 2:
            entry.state["position"] = 0
    found = catalogs_read([run], CATALOGS)
    assert 2 not in found.by_epoch
    guessed = found.undisturbed()
    taken = {row.place: row.pair_id for row in run.rows() if row.epoch == 2}
    right = {(2, position): guessed.id((2, position)) for position in range(guessed.epoch_length(2))}
    assert bool(judge([run], guessed, DIGESTS).wrongs) == (taken != right)
