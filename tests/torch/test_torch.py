"""What a researcher meets: datasets in one process, under DataLoader workers, in DDP ranks; the snippet's loaders."""

import copy
import io
import json
import os
import pickle
import re
import signal
import subprocess
import sys
import uuid
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from decode_reference import reference_image
from house import Daemon, finish, traces, trainer, wait_until, write_folder
from ring_fixtures import served_ring, turning
from torch.utils.data import DataLoader
from transforms import to_tensors

import ringfeed
from ringfeed.shm.layout import plan_geometry
from ringfeed.torch import RingDataset, RingLoader, RingTensor, get_async_dataloaders

PAIRS = 24
HEIGHT, WIDTH = 48, 64


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("set"), PAIRS)


@pytest.fixture(scope="module")
def unserved(tmp_path_factory):
    """Another folder, which no daemon serves unless a test starts one."""
    return write_folder(tmp_path_factory.mktemp("unserved"), PAIRS)


@pytest.fixture(scope="module")
def ids(folder):
    return sorted(str(path.relative_to(folder / "images").with_suffix("")) for path in folder.glob("images/**/*.jpg"))


@pytest.fixture(scope="module")
def ring(folder):
    name = f"t{uuid.uuid4().hex[:10]}"
    arguments = ("--size", f"{HEIGHT}x{WIDTH}", "--label-mode", "index", "--slots", "64", "--linger-blocking-s", "0.2")
    with Daemon(str(folder), *arguments, ring=name):
        yield f"{name}-train"


@pytest.fixture
def batch(ring):
    dataset = RingDataset(ring, batch_size=4)
    image, label = next(iter(dataset))
    yield image, label
    dataset.close()


# Tensors over the ring.


def test_a_batchs_tensor_is_the_rings_own_memory(ring, folder):
    dataset = RingDataset(ring, batch_size=4, fields=("image", "label", "ids"))
    image, label, pair_ids = next(iter(DataLoader(dataset, batch_size=None)))
    field = np.frombuffer(dataset.reader._delivery.attachment.data.image.buffer, np.uint8)
    assert field.ctypes.data <= image.data_ptr() < field.ctypes.data + field.nbytes
    assert image.shape == (4, 3, HEIGHT, WIDTH)
    assert image.is_contiguous(memory_format=torch.channels_last)
    assert (label.shape, label.dtype) == ((4, HEIGHT, WIDTH), torch.uint8)
    expected = reference_image((folder / "images" / f"{pair_ids[2]}.jpg").read_bytes(), "resize", HEIGHT, WIDTH)
    assert (image[2].permute(1, 2, 0).numpy() == expected).all()
    dataset.close()


def test_a_tensor_that_is_held_stops_nothing(ring):
    dataset = RingDataset(ring, batch_size=4)
    image, _ = next(iter(dataset))
    corner = image[1, :, :2, :2].permute(1, 2, 0)
    before = corner.clone()
    for _ in range(8):
        for image, _ in dataset:  # and the last of one epoch is held when the next begins
            assert len(image) == 4
    assert torch.equal(corner, before)
    dataset.close()
    assert torch.equal(corner, before)


WRITES = {
    "method": lambda t: t.mul_(2),
    "augmented": lambda t: t.__iadd__(1),
    "item": lambda t: t.__setitem__(0, 1),
    "out": lambda t: torch.add(t, t, out=t),
    "flag": lambda t: torch.nn.functional.relu(t, inplace=True),
    "positional flag": lambda t: torch.nn.functional.relu(t, True),
    "view": lambda t: t.permute(0, 2, 3, 1).zero_(),
    "slice": lambda t: t[0].fill_(1),
    "data": lambda t: t.data.fill_(1),
    "detach": lambda t: t.detach().zero_(),
    "other dtype": lambda t: t.view(torch.int8).zero_(),
    "unbind": lambda t: t.unbind()[0].zero_(),
    "chunk": lambda t: t.chunk(2)[1].zero_(),
    "foreach": lambda t: torch._foreach_add_([t], 1),
    "copy into": lambda t: t.copy_(t.clone()),
    "init": torch.nn.init.zeros_,
    "random": lambda t: t.random_(0, 9),
    "function": torch.relu_,
}


@pytest.mark.parametrize("way", WRITES)
def test_a_write_into_a_batch_is_refused(batch, way):
    """With a sentence, and nothing changes."""
    image, _ = batch
    before = image.clone()
    with pytest.raises(ringfeed.InPlaceWriteError, match=r"other trainers read .* batch\.clone\(\)"):
        WRITES[way](image)
    assert torch.equal(image, before)


def test_every_in_place_tensor_method_is_refused():
    """By the names that this release of torch has; the guard is not asked to know them."""
    harmless = {"requires_grad_"}
    names = [name for name in dir(torch.Tensor) if re.fullmatch(r"[a-z]\w*[^_]_", name) and name not in harmless]
    assert len(names) > 100
    tensor = torch.zeros(2, 2).as_subclass(RingTensor)
    for name in names:
        with pytest.raises(ringfeed.InPlaceWriteError):
            RingTensor.__torch_function__(getattr(torch.Tensor, name), (RingTensor,), (tensor,))


def test_the_guard_knows_every_operator_that_writes():
    """ATen's own schemas: an operator that writes into its first argument ends with an underscore, or has out=."""
    writing = set()
    for schema in torch._C._jit_get_all_schemas():
        if schema.name.startswith("aten::") and schema.arguments and schema.is_mutable:
            first = schema.arguments[0]
            if first.name == "self" and first.alias_info is not None and first.alias_info.is_write:
                writing.add(schema.name.removeprefix("aten::"))
    public = {name for name in writing if hasattr(torch.Tensor, name) and not name.startswith("_")}
    assert len(public) > 100
    # These change no element: bookkeeping, and the sort of a list.
    harmless = {"set_data", "record_stream", "retain_grad", "sort"}
    assert {name for name in public if not name.endswith("_")} <= harmless


def test_numpy_and_writes_through_it_are_refused(batch):
    for array in (batch[0].numpy(), np.asarray(batch[0]), batch[0].permute(0, 2, 3, 1).numpy()):
        with pytest.raises(ValueError, match="read-only"):
            array[...] = 0


def test_what_has_its_own_memory_is_plain(batch):
    image, _ = batch
    floats = image.float()
    for tensor in (floats, image.clone(), image.to(torch.int16), image.sum(), copy.deepcopy(image), image == 3):
        assert type(tensor) is torch.Tensor
    floats.mul_(2).add_(image)
    floats += image
    assert type(pickle.loads(pickle.dumps(image))) is torch.Tensor
    file = io.BytesIO()
    torch.save(image, file)
    file.seek(0)
    assert torch.equal(torch.load(file), image.clone())


def test_a_compiled_function_takes_a_batch(batch):
    compiled = torch.compile(lambda t: (t.float() / 255).sum(), backend="eager")
    assert torch.isclose(compiled(batch[0]), (batch[0].float() / 255).sum())


def test_copies_may_be_written_into(ring):
    dataset = RingDataset(ring, batch_size=4, copy=True)
    image, label = next(iter(dataset))
    assert type(image) is type(label) is torch.Tensor
    image.zero_()
    dataset.close()


def test_no_warning_is_shown_to_anybody(ring):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        dataset = RingDataset(ring, batch_size=4)
        for image, _ in dataset:
            image.float().mean()
        dataset.close()


def test_an_unseen_write_reaches_no_other(ring):
    """The last line of defence is the mapping: private to this process, and looked at before it is read again."""
    script = (
        "import ctypes, sys, torch\nfrom ringfeed.torch import RingDataset\n"
        "mine, theirs = (RingDataset(sys.argv[1], batch_size=4, copy=copy) for copy in (False, True))\n"
        "for epoch in range(8):\n"
        "    for (image, label), copies in zip(mine, theirs):\n"
        "        assert torch.equal(image, copies[0]) and torch.equal(label, copies[1]), epoch\n"
        "        ctypes.memset(image.data_ptr(), 0, image.nbytes)\n"
        "        ctypes.memset(label.data_ptr() + 1, 255, 1)\n"
        "print('wrote')\n"
    )
    assert finish(trainer(script, ring)) == "wrote\n"


# Epochs, transforms, workers.


def pairs_of(loader):
    return [pair_id for *_, pair_ids in loader for pair_id in pair_ids]


def test_each_iteration_is_one_epoch_of_right_length(ring, ids):
    dataset = RingDataset(ring, batch_size=5, fields=("image", "ids"), drop_last=False)
    assert len(dataset) == 5
    epochs = [pairs_of(dataset) for _ in range(2)]
    assert [sorted(epoch) for epoch in epochs] == [ids, ids]
    assert epochs[0] != epochs[1]
    dataset.close()


def test_an_interrupted_epoch_is_followed_by_another(ring, ids):
    dataset = RingDataset(ring, batch_size=4, fields=("ids", "epoch"))
    for batches, (_, epoch) in enumerate(dataset, 1):
        assert epoch == 0
        if batches == 2:  # one alone is a look, and comes again
            break
    rows = list(dataset)
    assert {epoch for _, epoch in rows} == {1}
    assert sorted(pair_id for pair_ids, _ in rows for pair_id in pair_ids) == ids
    dataset.close()


def test_transforms_get_a_pair_and_a_batch(ring):
    def of_pair(pair):
        image, label = pair
        assert (image.shape, label.shape) == ((3, HEIGHT, WIDTH), (HEIGHT, WIDTH))
        return image.float() / 255, label.long()

    dataset = RingDataset(ring, batch_size=4, transform=of_pair, batch_transform=lambda batch: [*batch, "seen"])
    image, label, seen = next(iter(dataset))
    assert (image.shape, image.dtype, label.dtype, seen) == ((4, 3, HEIGHT, WIDTH), torch.float32, torch.int64, "seen")
    dataset.close()


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_dataloader_workers_are_sub_ranks(ring, ids, method):
    """Nothing is read twice."""
    dataset = RingDataset(ring, batch_size=4, fields=("image", "label", "epoch", "ids"), drop_last=False)
    loader = DataLoader(dataset, batch_size=None, num_workers=2, multiprocessing_context=method)
    for expected in range(2 if method == "spawn" else 3):
        rows = list(loader)
        assert {epoch for _, _, epoch, _ in rows} == {expected}
        assert sorted(pair_id for *_, pair_ids in rows for pair_id in pair_ids) == ids


def test_a_loader_broken_off_begins_a_new_epoch(ring, ids):
    """In all of its workers."""
    dataset = RingDataset(ring, batch_size=2, fields=("epoch", "ids"), drop_last=False)
    loader = DataLoader(dataset, batch_size=None, num_workers=2)
    for _ in loader:
        break
    rows = list(loader)
    assert {epoch for epoch, _ in rows} == {1}
    assert sorted(pair_id for _, pair_ids in rows for pair_id in pair_ids) == ids


def test_a_dataset_is_read_again_after_a_fork(ring):
    """By the child, if the parent had read it before."""
    dataset = RingDataset(ring, batch_size=4)
    image, _ = next(iter(dataset))
    reader = dataset.reader
    before = image.clone()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            with pytest.raises(ringfeed.ReaderClosedError, match="fork"):
                next(iter(reader))
            del image, _
            next(iter(RingDataset(ring, batch_size=4)))
            code = 0
        finally:
            os._exit(code)
    assert os.waitpid(child, 0)[1] == 0
    assert torch.equal(image, before)
    del image, _
    assert len(next(iter(dataset))[0]) == 4
    dataset.close()


def test_two_torchrun_ranks_split_every_epoch(ring, ids, tmp_path):
    script = tmp_path / "train.py"
    script.write_text(
        "import json, os, sys, torch.distributed as dist\nfrom pathlib import Path\n"
        "from ringfeed.torch import RingDataset\n"
        "dist.init_process_group('gloo')\n"
        "dataset = RingDataset(sys.argv[1], batch_size=4, fields=('epoch', 'ids'), drop_last=False)\n"
        "dataset.reader\ndist.barrier()\n"
        "rows = [row for _ in range(2) for row in dataset]\n"
        "Path(sys.argv[2], f'{dist.get_rank()}.json').write_text(json.dumps(rows))\n"
        "dist.barrier()\ndist.destroy_process_group()\n"
    )
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script)]
    environ = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    done = subprocess.run(
        [*command, ring, str(tmp_path)], capture_output=True, text=True, timeout=100, env=environ, check=False
    )
    assert done.returncode == 0, done.stderr
    rows = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1)]
    assert len(rows[0]) == len(rows[1]) == 6
    for epoch in range(2):
        assert sorted(pair_id for rank in rows for e, pair_ids in rank for pair_id in pair_ids if e == epoch) == ids


# The snippet's loaders.


@pytest.mark.parametrize("num_workers", [0, 2])
def test_the_snippets_loaders_bring_their_own_daemon(unserved, num_workers):
    script = (
        "import sys\nfrom transforms import to_tensors\nfrom ringfeed.torch import get_async_dataloaders\n"
        "loaders = get_async_dataloaders(sys.argv[1], 4, to_tensors, 0.5, int(sys.argv[2]))\n"
        "for epoch in range(2):\n"
        "    print({name: sum(len(image) for image, label in loader) for name, loader in loaders.items()})\n"
        "state = loaders['train'].state_dict()\nassert (state['epoch'], state['position']) == (2, 0)\n"
        "images, labels = next(iter(loaders['train']))\nprint(tuple(images.shape), tuple(labels.shape))\n"
        "print(loaders['train'].dataset.ring)\n"
    )
    said = finish(trainer(script, unserved, num_workers)).splitlines()
    ring = said.pop()
    first, second, shapes = [line for line in said if line.startswith(("{", "("))]
    counts = json.loads(first.replace("'", '"'))
    assert first == second
    assert sum(counts.values()) == PAIRS
    assert set(counts) == {"train", "test"}
    assert shapes == "(4, 16, 16, 3) (4, 16, 16, 3)"
    wait_until(lambda: not traces(ring))


def test_the_snippets_loaders_use_a_running_daemon(unserved):
    """They insist on the same split."""
    name = f"t{uuid.uuid4().hex[:10]}"
    with Daemon(str(unserved), "--fit", "native", "--test-ratio", "0.5", "--slots", "16", ring=name):
        loaders = get_async_dataloaders(f"{unserved}/", 2, to_tensors, test_ratio=0.5)
        assert loaders["train"].dataset.ring == f"{name}-train"
        assert sum(len(image) for loader in loaders.values() for image, _ in loader) == PAIRS
        with pytest.raises(ringfeed.RingfeedError, match=r"test_ratio: 0\.25 asked for, 0\.5 served"):
            get_async_dataloaders(str(unserved), 2, to_tensors, test_ratio=0.25)
        for loader in loaders.values():
            loader.dataset.close()


def test_the_snippets_loaders_explain_a_missing_daemon(tmp_path: Path):
    """Why it could not be started."""
    with pytest.raises(ringfeed.RingfeedError, match="no folder"):
        get_async_dataloaders(str(tmp_path / "none"), 2)


def test_a_killed_trainer_ends_the_daemon_it_started(unserved):
    script = (
        "import sys, os, signal\nfrom ringfeed.torch import get_async_dataloaders\n"
        "loaders = get_async_dataloaders(sys.argv[1], 2, test_ratio=0.5)\n"
        "print(loaders['train'].dataset.ring, flush=True)\nsys.stdin.read()\n"
    )
    process = trainer(script, unserved)
    ring = process.stdout.readline().strip()
    assert traces(ring)
    process.kill()
    process.communicate()
    wait_until(lambda: not traces(ring))


# States, through every kind of loader.


def slow(*values):
    return pytest.param(*values, marks=pytest.mark.slow)


def rows_of(items):
    return [(epoch, position) for epoch, positions in items for position in positions.tolist()]


def undisturbed(*epochs):
    return [(epoch, position) for epoch in epochs for position in range(PAIRS)]


def places(ring, **options):
    return RingDataset(ring, fields=("epoch", "positions"), drop_last=False, **options)


@pytest.mark.parametrize("resumed_workers", [0, 2, slow(1), slow(3)])
@pytest.mark.parametrize(("workers", "taken"), [(0, 3), (2, 1), slow(2, 4), slow(3, 2)])
def test_a_loader_resumes_with_any_number_of_workers(ring, workers, taken, resumed_workers):
    loader = RingLoader(places(ring, batch_size=3), num_workers=workers)
    batches = iter(loader)
    seen = [next(batches) for _ in range(taken)]
    state = json.loads(json.dumps(loader.state_dict()))
    assert (state["epoch"], state["position"]) == (0, 3 * taken)
    del batches
    loader.dataset.close()
    other = RingLoader(places(ring, batch_size=4), num_workers=resumed_workers)
    other.load_state_dict(state)
    assert other.state_dict() == state
    seen += list(other) + list(other)
    assert sorted(rows_of(seen)) == undisturbed(0, 1)
    # the batches that workers yield in turn are the order itself
    assert rows_of(seen) == undisturbed(0, 1)
    assert (other.state_dict()["epoch"], other.state_dict()["position"]) == (2, 0)
    other.dataset.close()


@pytest.mark.parametrize("workers", [0, 2])
def test_torchdatas_stateful_loader_resumes_at_the_next_batch(ring, workers):
    stateful = pytest.importorskip("torchdata.stateful_dataloader")

    def loader():
        return stateful.StatefulDataLoader(places(ring, batch_size=4), batch_size=None, num_workers=workers)

    first = loader()
    batches = iter(first)
    seen = [next(batches) for _ in range(3)]
    state = pickle.loads(pickle.dumps(first.state_dict()))
    first.dataset.close()
    del batches, first  # and its workers with it
    second = loader()
    second.load_state_dict(state)
    seen += list(second)
    assert rows_of(seen) == undisturbed(0)
    seen = list(second)
    assert rows_of(seen) == undisturbed(1)
    second.dataset.close()


def test_a_state_plain_workers_cannot_keep_is_refused(ring):
    dataset = places(ring, batch_size=4)
    loader = DataLoader(dataset, batch_size=None, num_workers=2)
    next(iter(loader))
    with pytest.raises(RuntimeError, match="RingLoader"):
        dataset.state_dict()
    with RingDatasetState(ring) as state:
        dataset.load_state_dict(state)
    with pytest.raises(RuntimeError, match="RingLoader"):
        next(iter(loader))


def test_a_starting_place_is_for_one_epoch_only(ring):
    with pytest.raises(RuntimeError, match="RingLoader"):
        next(iter(DataLoader(places(ring, batch_size=4, start=(1, 8)), batch_size=None, num_workers=2)))
    for workers in (0, 2):
        loader = RingLoader(places(ring, batch_size=4, start=(1, 8)), num_workers=workers)
        assert rows_of(loader) == undisturbed(1)[8:]
        assert rows_of(loader) == undisturbed(2)
        loader.dataset.close()


@pytest.mark.parametrize(("drop_last", "pairs", "batches"), [(True, 14, 2), (False, PAIRS, 4)])
def test_a_loaders_length_counts_its_workers_batches(ring, drop_last, pairs, batches):
    """No pair comes twice."""
    dataset = RingDataset(ring, batch_size=7, fields=("epoch", "positions"), drop_last=drop_last)
    loader = RingLoader(dataset, num_workers=2)  # rounds of 14 pairs; 10 are left at the end
    rows = list(loader)
    assert len(rows) == len(loader) == batches
    assert rows_of(rows) == undisturbed(0)[:pairs]


def test_idle_workers_at_an_epochs_end_repeat_nothing(ring):
    loader = RingLoader(places(ring, batch_size=6, start=(0, 23)), num_workers=2)
    assert rows_of(loader) == [(0, 23)]
    assert (loader.state_dict()["epoch"], loader.state_dict()["position"]) == (1, 0)
    assert rows_of(loader) == undisturbed(1)


@pytest.mark.parametrize("kind", [RingLoader, DataLoader])
def test_persistent_workers_begin_another_epoch_after_a_break(ring, kind):
    options = {} if kind is RingLoader else {"batch_size": None}
    loader = kind(places(ring, batch_size=2), num_workers=2, persistent_workers=True, **options)
    for batches, _ in enumerate(loader, 1):
        if batches == 2:  # one alone is a look, and comes again
            break
    assert sorted(rows_of(loader)) == undisturbed(1)
    assert sorted(rows_of(loader)) == undisturbed(2)


def test_persistent_workers_follow_set_epoch_and_a_state(ring):
    loader = RingLoader(places(ring, batch_size=4), num_workers=2, persistent_workers=True)
    for epoch in (0, 1, 4):
        loader.set_epoch(epoch)
        assert rows_of(loader) == undisturbed(epoch)
    loader.load_state_dict({**loader.state_dict(), "epoch": 2, "position": 20})
    assert rows_of(loader) == undisturbed(2)[20:]
    assert rows_of(loader) == undisturbed(3)


@pytest.mark.parametrize("persist", [False, True])
def test_workers_await_a_restarting_daemon(folder, persist):
    """They begin an epoch, and repeat nothing."""
    name = f"t{uuid.uuid4().hex[:10]}"
    daemons = [Daemon(str(folder), "--size", "24x32", "--slots", "64", ring=name) for _ in range(2)]
    with daemons[0]:
        loader = RingLoader(places(f"{name}-train", batch_size=4), num_workers=2, persistent_workers=persist)
        assert rows_of(loader) == undisturbed(0)
        daemons[0].process.kill()
        daemons[0].process.wait()
        daemons[1].start()  # its ring is not there yet
        assert rows_of(loader) == undisturbed(1)
        assert daemons[1].stop() == 0


def late(worker):
    """A worker's start: the second one's never ends, until it is killed."""
    if worker == 1:
        signal.pause()


@pytest.mark.slow
def test_an_early_look_is_undone_in_every_worker(ring):
    """Before every worker came."""
    loader = RingLoader(places(ring, batch_size=4), num_workers=2)
    assert rows_of(loader) == undisturbed(0)
    loader.worker_init_fn = late
    for _ in loader:
        break
    loader.worker_init_fn = None
    assert rows_of(loader) == undisturbed(1)


@pytest.mark.parametrize("workers", [0, 2])
def test_set_epoch_adds_nothing_to_a_short_rest(ring, workers):
    """One that is too short for the new batch size."""
    loader = RingLoader(places(ring, batch_size=3), num_workers=0)
    batches = iter(loader)
    state = [loader.state_dict() for _ in zip(range(7), batches, strict=False)][-1]
    loader.dataset.close()
    assert (state["epoch"], state["position"]) == (0, 21)
    other = RingLoader(
        RingDataset(ring, batch_size=4, fields=("epoch", "positions"), drop_last=True), num_workers=workers
    )
    other.load_state_dict(state)
    for epoch, expected in ((0, []), (1, undisturbed(1)), (2, undisturbed(2))):
        other.set_epoch(epoch)
        assert rows_of(other) == expected
    other.dataset.close()


class RingDatasetState:
    """A state of a ring, taken by a reader of its own."""

    def __init__(self, ring):
        self.reader = ringfeed.attach(ring, batch_size=4)

    def __enter__(self):
        return self.reader.state_dict()

    def __exit__(self, *_):
        self.reader.close()


@pytest.mark.parametrize("workers", [0, 2])
def test_set_epoch_means_what_a_distributed_samplers_means(ring, workers):
    dataset = places(ring, batch_size=4)
    loader = RingLoader(dataset, num_workers=workers)
    for epoch in (0, 1, 4):
        loader.set_epoch(epoch)
        assert rows_of(loader) == undisturbed(epoch)
    dataset.close()


def test_a_dataset_starts_from_its_own_states_only(ring):
    with RingDatasetState(ring) as state:
        later = {**state, "epoch": 2, "position": 20}
    dataset = places(ring, batch_size=4, start=later)
    assert rows_of(dataset) == [(2, position) for position in range(20, PAIRS)]
    dataset.close()
    with pytest.raises(ringfeed.StateMismatchError, match="seed"):
        next(iter(places(ring, batch_size=4, start={**later, "seed": 1})))


@pytest.mark.filterwarnings("error:The given NumPy array")
@pytest.mark.parametrize("fit", ["resize", "native"])
def test_an_unmirrored_wrapping_batch_has_guarded_tensors_too(fit):
    odd = plan_geometry(slots=10, lanes=4, image_row=(17, 33, 3), label_row=(17, 33), label_dtype="uint16")
    assert not odd.mirrored
    with served_ring(geometry=odd, fit=fit, epoch_length=48) as served, turning(served):
        dataset = RingDataset(served.name, batch_size=4)
        painted = []
        for image, label in dataset:
            assert type(image[0]) is type(label[0]) is RingTensor
            assert not image[0].numpy().flags.writeable
            painted += [int(one.unique()) for one in image]
            del image, label
        dataset.close()
    assert painted == [index % 251 for index in range(1000, 1048)]
