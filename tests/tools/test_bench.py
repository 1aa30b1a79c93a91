"""The benchmark's own promises: what it counts, what it compares, what it leaves behind."""

import contextlib
import dataclasses
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

import msgspec
import pytest
from house import wait_until

from ringfeedd.bench import floor as least_work
from ringfeedd.bench import throughput, trouble
from ringfeedd.bench.arguments import MEASURED
from ringfeedd.bench.claims import Claim, Measure
from ringfeedd.bench.codecs import DECODERS
from ringfeedd.bench.contender import Measured, Task, pixel_hash
from ringfeedd.bench.contenders import PEERS, Ringfeed, Script, floor
from ringfeedd.bench.errors import BenchError
from ringfeedd.bench.listing_pages import Listed, write_listing
from ringfeedd.bench.meter import descendants_of, private_megabytes, tree_cpu
from ringfeedd.bench.results import FigureRow, Rate, RateRow, Result, Spread, combine, rate_rows
from ringfeedd.bench.session import Session, reference_hash
from ringfeedd.bench.store import BUCKET, ECHO_MODULES, Store
from ringfeedd.bench.tables import markdown, rewritten
from ringfeedd.bench.throughput import worker_numbers
from ringfeedd.bench.workload import make_workload
from ringfeedd.demo.photographs import Style
from ringfeedd.fakegcs.faults import LOGNORMAL_SIGMA

HERE = Path(__file__).parents[2]
SMALL = Style(sizes=((96, 64),), jpeg_quality=80, smoothing_px=1.0, map_scale=1)
PAIRS = 24

needs_nginx = pytest.mark.skipif(
    shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin") is None, reason="nginx is not installed"
)


@pytest.fixture(scope="module")
def workload(tmp_path_factory):
    return make_workload(tmp_path_factory.mktemp("data"), SMALL, pairs=PAIRS, seed=3)


def shared():
    return {path.name for path in Path("/dev/shm").iterdir()}


def rate(pairs_per_s, cpu_ms):
    return Rate(pairs_per_s, cpu_ms, {"trainers": cpu_ms})


# What is counted.


def test_process_tree_cpu_counts_living_and_ended_children():
    burn = "import time\nend = time.process_time() + 0.3\nwhile time.process_time() < end: pass\n"
    parent = (
        f"import subprocess, sys\nburn = {burn!r}\n"
        "subprocess.run([sys.executable, '-c', burn])\n"
        "child = subprocess.Popen([sys.executable, '-c', burn + 'print(1, flush=True)\\nsys = input()'],"
        " stdin=subprocess.PIPE, stdout=subprocess.PIPE)\n"
        "child.stdout.readline()\nprint(child.pid, flush=True)\ninput()\nchild.kill()\n"
    )
    process = subprocess.Popen([sys.executable, "-c", parent], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        child = int(process.stdout.readline())
        used = tree_cpu(process.pid)
        assert used.children >= 0.58  # both, less a tick each
        assert used.root < used.children
        assert descendants_of(process.pid) == [child]
        assert private_megabytes(process.pid) > 1
        assert (tree_cpu(process.pid) - used).total < 0.2
    finally:
        process.communicate("\n")


def test_a_missing_process_is_an_error():
    with pytest.raises(ProcessLookupError, match="no process 999999999"):
        tree_cpu(999999999)


def test_a_shared_daemons_cpu_spreads_over_its_trainers():
    # two groups, each got 100 pairs in 2 s, while the daemon used 1 s once
    one = Measured(pairs=100, seconds=2.0, own_cpu_s=0.1, cpu_s={"daemon": 0.2, "daemon.children": 0.8})
    found = combine([one, one])
    assert found.pairs_per_s == 100.0
    assert found.parts_ms == pytest.approx({"trainers": 1.0, "daemon": 1.0, "daemon.children": 4.0})
    assert found.cpu_ms == pytest.approx(6.0)


def test_rows_show_medians_and_compare_with_the_first():
    rows = rate_rows({"a": [rate(10, 1), rate(30, 3), rate(20, 2)], "gone": [], "b": [rate(40, 1)]})
    assert [row.name for row in rows] == ["a", "b"]
    assert rows[0].pairs_per_s == Spread(20, 10, 30)
    assert rows[1].ratio == 2.0


def test_a_claim_divides_within_rounds_by_the_best():
    """By the best of the others."""
    runs = {"we": [rate(20, 1), rate(60, 1)], "p": [rate(10, 4), rate(10, 4)], "q": [rate(5, 2), rate(30, 2)]}
    assert Claim("we", ("p", "q"), "").figure(runs).value == Spread(2.0, 2.0, 2.0)
    assert Claim("we", ("p", "q"), "", Measure.CPU).figure(runs).value == Spread(0.5, 0.5, 0.5)
    assert Claim("we", ("p",), "", share=2).figure(runs).value == Spread(2.0, 1.0, 3.0)
    assert Claim("we", ("nobody",), "").figure(runs) is None


# What is shown.


def test_a_page_gets_new_tables_between_its_markers():
    """Nothing else changes."""
    kept = "<!-- bench: gpu -->\nkept\n<!-- end of bench -->"
    page = f"before\n<!-- bench: solo -->\nold\n<!-- end of bench -->\nbetween\n{kept}"
    found = rewritten(page, {"solo": "a | b \\1", "workers": "no marker"})
    assert "old" not in found
    assert found.startswith("before\n<!-- bench: solo -->\n\na | b \\1\n\n<!-- end of bench -->\nbetween\n")
    assert found.endswith(kept)
    assert rewritten(found, {"solo": "a | b \\1"}) == found


def test_results_survive_json_and_become_tables():
    row = RateRow("we", Spread(1234.5, 1000, 2000), Spread(0.5, 0.4, 0.6), {"trainers": 0.001, "daemon": 0.499}, 1.0, 3)
    result = Result("solo", "What.", [row], [FigureRow("claim", "x", Spread(1.5, 1.25, 2), ">= 1.7")], ["A note."])
    assert msgspec.json.decode(msgspec.json.encode(result), type=Result) == result
    text = markdown(result)
    assert "| we | 1,234 | 1,000 to 2,000 | 1.00 | 0.50 | 0.40 to 0.60 | supervisor 0.50 |" in text
    assert "| claim | 1.50 x | 1.25 to 2.00 x | >= 1.7 |" in text
    assert text.endswith("- A note.")


def test_the_performance_page_has_every_commands_place():
    page = (HERE / "docs" / "performance.md").read_text()
    assert [name for name in MEASURED if f"<!-- bench: {name} -->" not in page] == []
    assert page.count("<!-- end of bench -->") == len(MEASURED)


def test_every_peers_script_is_there():
    assert [
        script for script, _, _ in PEERS.values() if not (HERE / "scripts" / "bench_peers" / script).is_file()
    ] == []


def test_the_serve_command_does_not_load_the_benchmark():
    loaded = "import sys, ringfeedd.cli.main as m; m._parser(); print([n for n in sys.modules if 'bench' in n])"
    said = subprocess.run([sys.executable, "-c", loaded], capture_output=True, text=True, check=True).stdout
    assert said.strip() == "['ringfeedd.bench', 'ringfeedd.bench.arguments']"


# The workload and its store.


def test_a_workload_is_made_once_from_its_manifest(workload):
    """It holds what its manifest says."""
    folder = Path(workload.folder)
    again = make_workload(folder.parent, SMALL, pairs=PAIRS, seed=3)
    assert again == workload
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]
    for pair in workload.pairs:
        assert (folder / "images" / f"{pair.id}.jpg").stat().st_size == pair.image_bytes
        assert (folder / "labels" / f"{pair.id}.png").stat().st_size == pair.label_bytes


@pytest.mark.parametrize("codec", sorted(DECODERS))
def test_both_kinds_of_codecs_give_pillows_pixels(workload, codec):
    np = pytest.importorskip("numpy")
    decode_image, decode_label = DECODERS[codec]
    for pair in workload.pairs:
        image = np.zeros((workload.height, workload.width, 3), np.uint8)
        label = np.zeros((workload.height, workload.width), np.uint8)
        decode_image((Path(workload.folder) / "images" / f"{pair.id}.jpg").read_bytes(), image)
        decode_label((Path(workload.folder) / "labels" / f"{pair.id}.png").read_bytes(), label)
        assert pixel_hash(image, label) == reference_hash(workload.folder, pair.id)


def test_listing_pages_hold_every_object_exactly_once(tmp_path):
    """The last page names no next one."""
    names = [f"images/{number:05d}.jpg" for number in range(2500)]
    assert write_listing(tmp_path, "images/", (Listed(name, 7, 1) for name in names)) == 3
    token, found = "images-0", []
    while token:
        page = json.loads((tmp_path / f"{token}.json").read_bytes())
        found += [item["name"] for item in page["items"]]
        token = page.get("nextPageToken")
    assert found == names


def get(url):
    with urllib.request.urlopen(url, timeout=20) as answer:
        return answer.read()


@needs_nginx
def test_the_store_answers_plain_and_json_api_paths(workload):
    pair = workload.pairs[0]
    name = f"images/{pair.id}.jpg"
    stored = (Path(workload.folder) / name).read_bytes()
    with Store(Path(workload.folder)) as store:
        api = f"{store.url}/storage/v1/b/{BUCKET}/o"
        assert get(f"{store.url}/{BUCKET}/{name}") == stored
        assert get(f"{api}/{urllib.parse.quote(name, safe='')}?alt=media&generation=1") == stored
        assert (
            get(f"{store.url}/download/storage/v1/b/{BUCKET}/o/{urllib.parse.quote(name, safe='')}?alt=media") == stored
        )
        for prefix in ("labels/", "labels%2F"):
            page = json.loads(get(f"{api}?prefix={prefix}&maxResults=1000"))
            assert sorted(item["name"] for item in page["items"]) == sorted(
                f"labels/{p.id}.png" for p in workload.pairs
            )
        with pytest.raises(urllib.error.HTTPError, match="404"):
            get(f"{store.url}/{BUCKET}/images/none.jpg")
    with pytest.raises(urllib.error.URLError):
        get(f"{store.url}/{BUCKET}/{name}")


@needs_nginx
@pytest.mark.skipif(not any(path.is_file() for path in ECHO_MODULES), reason="nginx's echo module is not installed")
def test_a_late_store_delays_objects_and_not_listings(workload):
    with Store(Path(workload.folder), delay_ms=300) as store:
        began = time.monotonic()
        get(f"{store.url}/storage/v1/b/{BUCKET}/o?prefix=images/")
        listed = time.monotonic()
        get(f"{store.url}/{BUCKET}/images/{workload.pairs[0].id}.jpg")
        assert time.monotonic() - listed >= 0.3
        assert listed - began < 0.3


# Contenders.


def session_over(workload, tmp_path, **settings):
    said = []
    log = tmp_path / "log"
    log.mkdir()
    session = Session(
        data=Path(workload.folder).parent,
        log=log,
        rounds=1,
        seconds=0.3,
        pairs=PAIRS,
        peers=None,
        python=sys.executable,
        say=said.append,
        **settings,
    )
    return session, said


@pytest.mark.parametrize(
    ("cores", "numbers"),
    [(1, [1, 2]), (2, [1, 2]), (6, [1, 2, 4, 6]), (16, [1, 2, 4, 8, 12, 14, 16]), (96, [1, 2, 4, 8, 12, 14, 96])],
)
def test_workers_are_measured_up_to_the_core_count(cores, numbers):
    """In few numbers."""
    assert worker_numbers(cores) == numbers


def test_least_work_has_as_many_processes_as_named():
    some = [floor("python"), floor("python", workers=1), floor("python", workers=12), floor("python", consumers=4)]
    assert [one.name for one in some] == [
        *("least work", "least work, 1 worker", "least work, 12 workers", "least work, 4 consumers")
    ]
    assert [one.settings["workers"] for one in some] == [None, 1, 12, None]


@pytest.mark.parametrize("cores", [2, 16])
def test_worker_counts_compare_with_one(workload, tmp_path, monkeypatch, cores):
    """Only our own loader has a target."""
    session, _ = session_over(workload, tmp_path)
    ran = []
    monkeypatch.setattr(throughput.os, "sched_getaffinity", lambda _pid: set(range(cores)))
    monkeypatch.setattr(throughput, "Store", lambda _folder: contextlib.nullcontext(Task("url", "", "", 1, 1)))
    monkeypatch.setattr(Session, "workload", lambda _session: workload)

    def as_fast_as_workers(contender, task, _log):
        ran.append((contender.name, task.warm_pairs))
        return [Measured(int(contender.name.split(", ")[1].split()[0]) * 100, 1.0, 1.0, {})]

    monkeypatch.setattr(Ringfeed, "run", as_fast_as_workers)
    monkeypatch.setattr(Script, "run", as_fast_as_workers)
    result = throughput.workers(session)
    numbers = worker_numbers(cores)
    for whose, target in (("Ringfeed", ">= 0.85"), ("least work", "")):
        figures = [figure for figure in result.figures if figure.name.startswith(f"pairs/s: {whose}")]
        assert [figure.name for figure in figures] == [
            f"pairs/s: {whose}, {number} workers / {number} x {whose}, 1 worker" for number in numbers[1:]
        ]
        assert {(figure.value.median, figure.target) for figure in figures} == {(1.0, target)}
    assert len(ran) == len(result.rates) == 2 * len(numbers)
    assert {warm for _, warm in ran} == {throughput.WORKERS_WARM_PAIRS}


@needs_nginx
def test_least_work_delivers_pillows_pixels_and_ends(workload, tmp_path):
    """To every consumer."""
    session, said = session_over(workload, tmp_path)
    before = shared()
    with Store(Path(workload.folder)) as store:
        # a second, since CPU is counted in ticks of 10 ms, of which a busy machine gives few
        task = dataclasses.replace(session.task(store, workload), batch_size=4, warm_pairs=16, seconds=1.0)
        result = session.rates("t", "", [(floor(sys.executable, consumers=2), task)], check=True)
    assert result.notes == []
    (row,) = result.rates
    assert row.pairs_per_s.median > 0
    assert row.cpu_ms.median > 0
    assert set(row.parts_ms) == {"trainers", "floor", "floor.children"}
    assert "delivers Pillow's pixels" in said[0]
    assert {name for name in shared() - before if "floor" in name} == set()


@needs_nginx
def test_least_work_outlasts_a_consumers_end(workload, tmp_path):
    """A consumer that began later gets all that it wants, far more than what lies between the two."""
    session, _ = session_over(workload, tmp_path)
    with Store(Path(workload.folder)) as store:
        task = dataclasses.replace(session.task(store, workload), batch_size=4, settings={"workers": 1, "consumers": 2})
        least = least_work.Floor(task)
        worker = least_work._fork(least.work, 0)
        try:
            early, late = least.batches(0), least.batches(1)
            next(early)
            early.close()
            assert len(list(itertools.islice(late, 4 * least_work.RING_BATCHES))) == 4 * least_work.RING_BATCHES
        finally:
            os.kill(worker, signal.SIGKILL)
            os.waitpid(worker, 0)


def test_the_benchmark_imports_no_aiohttp():
    """It reads its certificates when it is imported, and `tls` makes an authority of its own later."""
    code = "import sys, ringfeedd.bench.cli; sys.exit('aiohttp' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    assert trouble.LOGNORMAL_SIGMA == LOGNORMAL_SIGMA


class Liar:
    name = "liar"

    def check(self, task, log):
        return {task.entries()[0]["id"]: "0" * 16}


def test_a_contender_with_other_pixels_stops_the_benchmark(workload, tmp_path):
    session, _ = session_over(workload, tmp_path)
    task = Task("", "", workload.folder, workload.height, workload.width)
    with pytest.raises(BenchError, match="liar delivers other pixels than Pillow for 1 of 1"):
        session.rates("t", "", [(Liar(), task)], check=True)


@pytest.mark.slow
def test_troubled_stores_are_measured_and_left(workload, tmp_path, monkeypatch):
    """Each row has a value for each round; nothing is left behind."""
    monkeypatch.setattr(Session, "workload", lambda _session: workload)
    for name in ("STRAGGLER_WARM_S", "STRAGGLER_S", "CONVERGED_S", "FAULTS_WARM_S", "BACK_S", "HEALTHY_S"):
        monkeypatch.setattr(trouble, name, 1.0)
    monkeypatch.setattr(trouble, "SLOTS", (96,))
    monkeypatch.setattr(trouble, "LIMITS_PER_S", (50,))
    monkeypatch.setattr(trouble, "STRAGGLERS", dict([*trouble.STRAGGLERS.items()][:1]))
    for name in ("OUTAGE_S", "LIMIT_S"):
        monkeypatch.setattr(trouble, name, 4.0)
    monkeypatch.setattr(trouble, "LAST_S", 2.0)
    session, said = session_over(workload, tmp_path)
    session = dataclasses.replace(session, seconds=2.0)
    before = shared()
    rows = [*trouble.late_rows(session, workload), *trouble.faults(session).figures]
    targets = [">= 0.7", ">= 0.9", ">= 0.9", "<= 2", ">= 0.5", "<= 2", "0", "<= 5", ">= 0.95", "0"]
    assert [row.target for row in rows] == targets
    assert all(row.value.median > 0 for row in rows if row.name.startswith("a limit") and row.unit == "x")
    assert all(row.value.most == 0 for row in rows if row.unit == "pairs")
    assert len(said) == 4
    wait_until(lambda: not any("bench" in name for name in shared() - before))


@needs_nginx
@pytest.mark.slow
def test_ringfeed_bench_measures_writes_and_leaves_nothing(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("<!-- bench: floor -->\n<!-- end of bench -->\n")
    before = shared()
    command = [
        *(sys.executable, "-m", "ringfeedd", "bench", "floor", "--rounds", "1", "--seconds", "0.5", "--pairs", "64"),
        *("--data", str(tmp_path / "data"), "--out", str(tmp_path / "out.json"), "--page", str(page)),
    ]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=150, check=False)
    assert ended.returncode == 0, ended.stderr
    assert "| least work |" in page.read_text()
    assert json.loads((tmp_path / "out.json").read_text())["results"]["floor"]["rates"][0]["name"] == "Ringfeed"
    wait_until(lambda: not any("bench" in name for name in shared() - before))  # others' rings go, what is left stays
