"""The demo's children, its figures, its picture and its net, each by itself."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from ringfeedd.demo.children import KEPT_LINES, Child
from ringfeedd.demo.errors import DemoError
from ringfeedd.demo.photographs import CLASSES
from ringfeedd.demo.picture import GAP_PX, HEADING_PX, colourised, contact_sheet, write_picture
from ringfeedd.demo.report import RankReport, Specimens, read_reports, read_specimens
from ringfeedd.demo.summary import Summary


@pytest.fixture
def start(tmp_path):
    """Starts a Python child from its source; whatever a test leaves running is stopped."""
    started = []

    def start_python(source, **options):
        child = Child("the child", [sys.executable, "-c", source], log=tmp_path / "log", **options)
        started.append(child)
        return child

    yield start_python
    for child in started:
        child.stop(timeout_s=1)


def lives(pid):
    try:
        with open(f"/proc/{pid}/stat") as stat:  # noqa: PTH123
            return stat.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_until(condition, timeout_s=10.0):
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_line_is_found_among_progress_bars(start):
    """Also if several writes made its words."""
    child = start(
        "import sys, time\n"
        "for part in ('10%\\r', '100%\\r', 'rea', 'dy: 4 sl', 'ots\\n'):\n"
        "    sys.stdout.write(part); sys.stdout.flush()\n"
        "time.sleep(60)\n"
    )
    assert child.wait_for_line("^ready", timeout_s=20) == "ready: 4 slots"


def test_an_earlier_line_is_found(start):
    child = start("print('ready')")
    child.wait(timeout_s=20)
    assert child.wait_for_line("^ready", timeout_s=20) == "ready"


def test_a_childs_early_end_quotes_its_last_lines(start):
    child = start("import sys; print('one', flush=True); print('no such bucket', file=sys.stderr); sys.exit(3)")
    with pytest.raises(DemoError, match=r"the child ended too early \(exit code 3\).*\n  \| one\n  \| no such bucket$"):
        child.wait_for_line("^ready", timeout_s=20)
    with pytest.raises(DemoError, match=r"the child failed \(exit code 3\)"):
        child.wait(timeout_s=20)


def test_a_killed_childs_signal_is_named(start):
    child = start("import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    with pytest.raises(DemoError, match=r"killed by SIGKILL\); it said last:\n  \| \(it printed nothing\)"):
        child.wait(timeout_s=20)


def test_a_child_that_is_never_ready_is_abandoned(start):
    child = start("import time; print('listing', flush=True); time.sleep(60)")
    child.wait_for_line("listing", timeout_s=20)
    with pytest.raises(DemoError, match="was not ready within 0 s"):
        child.wait_for_line("^ready", timeout_s=0.05)
    with pytest.raises(DemoError, match="did not end within 0 s"):
        child.wait(timeout_s=0.05)


def test_a_talkative_child_does_not_fill_the_memory(start):
    child = start("for number in range(20_000): print('line', number)")
    child.wait(timeout_s=20)
    assert child.wait_for_line("line 19999", timeout_s=20)
    assert len(child._lines) == KEPT_LINES


def test_a_stop_reaches_stubborn_children_and_theirs(start):
    """A child that ignores SIGTERM, and its own children."""
    child = start(
        "import signal, subprocess, sys, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "grandchild = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        "print('pid', grandchild.pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    pid = int(child.wait_for_line("^pid", timeout_s=20).split()[1])
    assert child.stop(timeout_s=0.1) == -signal.SIGKILL
    wait_until(lambda: not lives(pid))
    assert child.stop() == -signal.SIGKILL  # once more changes nothing


def test_an_executable_that_is_missing_is_a_sentence(tmp_path):
    with pytest.raises(DemoError, match=r"the daemon could not be started: .*No such file"):
        Child("the daemon", [str(tmp_path / "ringfeed")], log=tmp_path / "log")


def report(rank=0, **figures):
    values = {
        "rank": rank,
        "pairs": 300,
        "batches": 50,
        "waiting_s": 0.5,
        "longest_wait_s": 0.1,
        "training_s": 10.0,
        "first_loss": 2.0,
        "losses": [1.5, 0.75],
        **figures,
    }
    return RankReport(**values)


def summary(**figures):
    downloads = Counter({f"photos/{number}": 2 for number in range(600)})
    good = Summary(
        pairs=300,
        epochs=2,
        dropped=0,
        slots=48,
        seeks=0,
        decoded=648,
        failed=0,
        downloads=downloads,
        reports=[report(0), report(1, training_s=12.0)],
    )
    return replace(good, **figures)


def test_a_good_run_has_no_faults():
    """Its rate is by the slowest rank's clock."""
    assert summary().faults() == []
    assert summary().delivered == 600
    assert summary().pairs_per_s == 50.0
    assert summary(decoded=600).faults() == []


@pytest.mark.parametrize(
    ("figures", "sentence"),
    [
        ({"decoded": 1200}, "decoded 1200 pairs"),
        ({"decoded": 599}, "decoded 599 pairs"),
        ({"failed": 1}, "1 pairs failed"),
        ({"reports": [report(0), report(1, pairs=299)]}, "got 599 pairs instead of 600"),
        ({"downloads": Counter({f"photos/{number}": 2 for number in range(599)})}, "599 objects were downloaded"),
        ({"downloads": Counter({f"photos/{number}": 1 for number in range(600)})}, "less than once an epoch"),
        ({"downloads": Counter({f"photos/{number}": 6 for number in range(600)})}, "3600 objects were downloaded; "),
    ],
)
def test_every_fault_of_a_run_is_reported(figures, sentence):
    faults = summary(**figures).faults()
    assert len(faults) == 1
    assert sentence in faults[0]


def test_pairs_dropped_at_an_epochs_end_are_fine():
    reports = [report(0, pairs=294), report(1, pairs=294)]
    assert summary(dropped=6, reports=reports).faults() == []


def test_read_ahead_after_seeking_is_no_second_decode():
    assert summary(decoded=690, seeks=1).faults() == []
    assert summary(decoded=697, seeks=1).faults() != []


def test_the_table_is_aligned_and_holds_every_rank():
    text = str(summary())
    assert "decoded     648 pairs: 600 once each, for all ranks, and 48 read ahead" in text
    assert "loss        2.000 -> 1.500, 0.750" in text
    table = text.split("\n\n")[1].splitlines()
    assert len(table) == 3
    assert len({len(line) for line in table}) == 1


def test_reports_and_specimens_round_trip(tmp_path):
    for rank in (1, 0):
        report(rank).write(tmp_path)
    assert read_reports(tmp_path, 2) == [report(0), report(1)]
    with pytest.raises(FileNotFoundError):
        read_reports(tmp_path, 3)
    rng = np.random.default_rng(0)
    images = rng.integers(256, size=(2, 4, 6, 3), dtype=np.uint8)
    labels = rng.integers(7, size=(2, 4, 6), dtype=np.uint8)
    Specimens(images, labels, labels[::-1]).write(tmp_path)
    back = read_specimens(tmp_path)
    assert np.array_equal(back.images, images)
    assert np.array_equal(back.predictions, labels[::-1])


def test_the_picture_shows_true_pixels_and_class_colours(tmp_path):
    rng = np.random.default_rng(0)
    images = rng.integers(256, size=(3, 32, 40, 3), dtype=np.uint8)
    labels = rng.integers(len(CLASSES), size=(3, 32, 40), dtype=np.uint8)
    sheet = np.asarray(contact_sheet(Specimens(images, labels, labels)))
    left = GAP_PX + 1 * (40 + GAP_PX)  # the second column
    for row, shown in enumerate((images[1], colourised(labels[1]), colourised(labels[1]))):
        top = HEADING_PX + row * (32 + GAP_PX)
        assert np.array_equal(sheet[top : top + 32, left : left + 40], shown)
    write_picture(Specimens(images, labels, labels), tmp_path / "new" / "picture.png")
    assert (tmp_path / "new" / "picture.png").read_bytes().startswith(b"\x89PNG")


def test_a_class_that_does_not_exist_is_seen():
    shown = colourised(np.array([[0, 255]], dtype=np.uint8))
    assert tuple(shown[0, 0]) == CLASSES[0].colour
    assert tuple(shown[0, 1]) == (255, 0, 255)


def test_the_net_learns_and_counts_its_pairs():
    torch = pytest.importorskip("torch")
    from ringfeedd.demo import train  # noqa: PLC0415

    assert len(CLASSES) == train.CLASSES
    torch.manual_seed(0)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    label = torch.randint(0, 3, (4, 8, 8), dtype=torch.uint8).repeat_interleave(8, 1).repeat_interleave(8, 2)
    image = (label * 80).unsqueeze(1).expand(-1, 3, -1, -1)  # brightness tells the class
    before = image.clone(), label.clone()
    training = train.Training([(image, label)] * 10, train.SmallNet(), rank=1)
    figures = training.run(epochs=3)
    torch.set_num_threads(threads)
    assert (figures.rank, figures.pairs, figures.batches) == (1, 120, 30)
    assert figures.losses[-1] < 0.5 * figures.first_loss
    assert 0 <= figures.waiting_s <= figures.training_s
    assert figures.longest_wait_s <= figures.waiting_s
    assert torch.equal(image, before[0])  # a batch is only read
    assert torch.equal(label, before[1])
    specimens = training.specimens()
    assert specimens.images.shape == (4, 64, 64, 3)
    assert np.array_equal(specimens.labels, label.numpy())
    assert specimens.predictions.shape == (4, 64, 64)


def test_ranks_do_not_load_the_daemons_side():
    story = "import sys, ringfeedd.demo.train; print([name for name in ('aiohttp', 'gcloud') if name in sys.modules])"
    pytest.importorskip("torch")
    shown = subprocess.run([sys.executable, "-c", story], capture_output=True, text=True, check=True, env=os.environ)
    assert shown.stdout == "[]\n"
