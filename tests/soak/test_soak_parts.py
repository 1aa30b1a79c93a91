"""The soak's invariants can fail, its looks see what grows, and its store does what it is told."""

import os
from contextlib import ExitStack
from pathlib import Path

import pytest
import soak_usage
from audit import reference_digests
from audit_catalogs import CatalogsRead
from house import photographs
from soak_bucket import BUCKET, PREFIX, Bucket
from soak_table import BOUND_S, Ending, catalogs, invariants
from soak_usage import Growth, Shared, Usage
from soak_weather import ALWAYS, FAULTS, OUTAGES, SILENT, Weather


def held(invariants_of):
    return {row.name: row.holds for row in invariants_of}


NOTHING = Usage(0, 0, 0.0)


def found(*, grown=NOTHING, ending=None, longest_s=1.0, left=()):
    """The invariants of a soak in which one process of each kind grew so much."""

    class Grown(Growth):
        def most(self, kind):
            return grown

        def lives(self, kind):
            return 1

    return held(invariants({}, Grown(), ending, longest_s=longest_s, left=left))


def test_the_bucket_grows_by_whole_pairs_in_between(tmp_path):
    objects = photographs(20)
    ids = list(reference_digests(objects, PREFIX, 8, 8))
    bucket = Bucket(tmp_path / "buckets", objects, ids, 5, seed=1)
    root = tmp_path / "buckets" / BUCKET / PREFIX
    while bucket.grow() is not None:
        present = sorted(bucket.catalogs[-1])
        for part in ("images", "labels"):
            found = (path.relative_to(root / part) for path in (root / part).rglob("*") if path.is_file())
            assert sorted(str(path.with_suffix("")) for path in found) == present
    assert [len(catalog) for catalog in bucket.catalogs] == list(range(15, 21))
    assert sorted(bucket.catalogs[-1]) == sorted(ids)
    added = set(ids) - set(bucket.catalogs[0])
    assert any(pair_id < max(bucket.catalogs[0]) for pair_id in added), "it moves the others"


@pytest.mark.parametrize(
    ("last", "wrongs", "holds"),
    [(1, [], [True, True]), (0, [], [True, False]), (1, ["epoch 3 ..."], [False, True])],
)
def test_mixed_or_missing_catalogs_are_found(last, wrongs, holds):
    terms = [CatalogsRead(["a", "ab"], {0: 0, 1: 1}, []), CatalogsRead(["a", "ab"], {0: 0, 1: last}, wrongs)]
    assert list(held(catalogs(terms)).values()) == holds


SAME = Shared(65, 4, 1 << 20)


def test_a_soak_without_growth_or_waits_passes():
    assert all(found(ending=Ending(SAME, SAME, 1)).values())


@pytest.mark.parametrize(
    "what",
    [
        {"grown": Usage(100, 0, 0.0)},
        {"grown": Usage(0, 20, 0.0)},
        {"grown": Usage(0, 0, 100.0)},
        {"longest_s": BOUND_S + 1},
        {"left": ["ringfeed.x.lock"]},
        {"ending": Ending(SAME, Shared(66, 4, 1 << 20), 1)},
        {"ending": Ending(SAME, Shared(65, 5, 1 << 20), 1)},
        {"ending": Ending(SAME, Shared(65, 4, 2 << 20), 1)},
        {"ending": Ending(SAME, SAME, 2)},
    ],
)
def test_growth_at_the_end_is_found(what):
    assert not all(found(**what).values())


def test_a_soak_without_long_processes_is_not_flat():
    assert not any(
        holds for name, holds in held(invariants({}, Growth(), None, longest_s=0, left=())).items() if "grow" in name
    )


def test_growth_counts_from_the_warm_state(monkeypatch):
    monkeypatch.setattr(soak_usage, "WARM_S", 0.0)
    growth, pid = Growth(), os.getpid()
    growth.look("daemon", pid)
    with ExitStack() as files:
        for _ in range(7):
            files.enter_context(Path("/dev/null").open())
        growth.look("daemon", pid)
        assert growth.most("daemon").fds == 7
        assert growth.lives("daemon") == 1
        assert growth.lives("worker") == 0
    growth.look("daemon", pid)
    assert growth.most("daemon").fds == 0


@pytest.mark.parametrize("kind", [*FAULTS, *OUTAGES])
def test_each_weather_comes_and_goes(kind, sky):
    def read():
        try:
            return [sky.store.ask("/storage/v1/b/b/o") for _ in range(3)]
        except (OSError, ValueError, RecursionError):
            return None

    well = read()
    assert well
    sky.begin(kind)
    assert sky.outage == (kind in OUTAGES)
    if not sky.outage:
        assert len(sky.store.ask("/_faults")) > len(ALWAYS.split())
        assert read() == well, "a daemon can be started under it"
    elif kind != SILENT:  # whose silence would have to be waited for
        assert read() != well
    sky.end()
    assert read() == well
    assert len(sky.store.ask("/_faults")) == len(ALWAYS.split())


@pytest.fixture(scope="module")
def sky(tmp_path_factory):
    root = tmp_path_factory.mktemp("buckets")
    (root / "b").mkdir()
    (root / "b" / "one").write_bytes(b"1")
    weather = Weather(root, 0)
    weather.store.start()
    yield weather
    weather.store.kill()
