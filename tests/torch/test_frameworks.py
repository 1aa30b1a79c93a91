"""What trainer frameworks do with a loader: they take it apart, look ahead, save it, make it again."""

import types
import uuid

import pytest
import torch
from house import Daemon, write_folder
from torch.utils.data import DataLoader

import ringfeed
from ringfeed.torch import RingDataset, RingLoader

PAIRS = 24
BATCH = 4


@pytest.fixture(scope="module")
def ring(tmp_path_factory):
    folder = write_folder(tmp_path_factory.mktemp("set"), PAIRS)
    name = f"t{uuid.uuid4().hex[:10]}"
    arguments = ("--size", "24x32", "--label-mode", "index", "--slots", "64", "--linger-blocking-s", "0.2")
    with Daemon(str(folder), *arguments, ring=name):
        yield f"{name}-train"


@pytest.fixture
def dataset(ring):
    made = RingDataset(ring, batch_size=BATCH, fields=("epoch", "positions"), drop_last=False)
    yield made
    made.close()


def rows_of(items):
    return [(epoch, position) for epoch, positions in items for position in positions.tolist()]


def epoch_rows(epoch):
    return [(epoch, position) for position in range(PAIRS)]


# Accelerate.


@pytest.fixture
def accelerator():
    accelerate = pytest.importorskip("accelerate")
    yield accelerate.Accelerator(cpu=True, gradient_accumulation_steps=4)
    accelerate.state.AcceleratorState._reset_state(reset_partial_state=True)
    accelerate.state.GradientState._reset_state()


@pytest.mark.parametrize("workers", [0, 2])
def test_accelerate_leaves_a_loader_as_it_is(accelerator, dataset, workers):
    loader = RingLoader(dataset, num_workers=workers)
    assert accelerator.prepare(loader) is loader
    for epoch in range(2):
        assert rows_of(loader) == epoch_rows(epoch)
    loader.close()


def test_accelerate_accumulates_to_an_epochs_last_batch(accelerator, dataset):
    loader, weight = accelerator.prepare(RingLoader(dataset)), torch.nn.Linear(1, 1)
    for _ in range(2):
        synced = []
        for _batch in loader:
            with accelerator.accumulate(weight):
                synced.append(accelerator.sync_gradients)
        assert synced == [False, False, False, True, False, True]
    assert not accelerator.gradient_state.in_dataloader


@pytest.mark.parametrize("workers", [0, 2])
def test_accelerates_checkpoint_holds_where_a_loader_stands(accelerator, ring, dataset, tmp_path, workers):
    loader = accelerator.prepare(RingLoader(dataset, num_workers=workers))
    batches = iter(loader)
    next(batches)
    accelerator.save_state(str(tmp_path / "saved"))
    next(batches)
    accelerator.load_state(str(tmp_path / "saved"))
    assert rows_of(loader) == epoch_rows(0)[BATCH:]
    loader.close()


@pytest.mark.parametrize("workers", [0, 2])
def test_accelerate_prepares_a_plain_loader_on_one_process(accelerator, dataset, workers):
    dataset.fields = ("positions",)  # it wants tensors
    loader = accelerator.prepare(DataLoader(dataset, batch_size=None, num_workers=workers))
    assert type(loader) is not RingLoader
    for _ in range(2):
        assert torch.equal(torch.cat(list(loader)), torch.arange(PAIRS))


def test_accelerates_own_count_of_epochs_does_not_count(accelerator, ring, dataset):
    """It counts from 0 in every process, also in one that joins a ring in its fifth epoch."""
    dataset.fields = ("positions",)
    loader = accelerator.prepare(DataLoader(dataset, batch_size=None))
    with ringfeed.attach(ring, batch_size=BATCH, start=(5, 0)):
        assert len(list(loader)) == PAIRS // BATCH
        assert dataset.state_dict()["epoch"] == 6
    loader.set_epoch(8)  # a user's counts
    assert dataset.state_dict()["epoch"] == 8


@pytest.mark.parametrize("dispatch", [True, False])
def test_accelerate_sharing_out_shares_is_a_sentence(accelerator, dataset, dispatch):
    from accelerate.data_loader import prepare_data_loader  # noqa: PLC0415  # accelerate may be missing

    plain = DataLoader(dataset, batch_size=None)
    for loader in (plain, RingLoader(dataset)):
        prepared = prepare_data_loader(
            loader, num_processes=2, process_index=0, dispatch_batches=dispatch, put_on_device=True
        )
        if dispatch:
            prepared.state = types.SimpleNamespace(num_processes=2, process_index=0)
        with pytest.raises(ringfeed.RingfeedError, match=r"Give prepare\(\) a ringfeed.torch.RingLoader"):
            next(iter(prepared))


@pytest.mark.parametrize("workers", [0, 2])
def test_accelerate_skips_first_batches(accelerator, dataset, workers):
    loader = accelerator.prepare(RingLoader(dataset, num_workers=workers))
    assert rows_of(accelerator.skip_first_batches(loader, 2)) == epoch_rows(0)[2 * BATCH :]
    assert rows_of(loader) == epoch_rows(1)
    loader.close()


# Lightning.


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_fabric_wraps_a_loader(dataset, workers):
    lightning = pytest.importorskip("lightning")
    fabric = lightning.Fabric(accelerator="cpu", devices=1)
    fabric.launch()
    loader = RingLoader(dataset, num_workers=workers)
    wrapped = fabric.setup_dataloaders(loader)
    assert len(wrapped) == PAIRS // BATCH
    for epoch in range(2):
        assert rows_of(wrapped) == epoch_rows(epoch)
        assert loader.state_dict()["epoch"] == epoch + 1
    loader.close()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("workers", [0, 2])
def test_lightning_trains_predicts_checkpoints_and_goes_on(ring, tmp_path, workers):
    lightning = pytest.importorskip("lightning")
    made = []

    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Linear(1, 1)
            self.trained, self.predicted = [], []

        def loader(self):
            dataset = RingDataset(ring, batch_size=BATCH, fields=("epoch", "positions"), drop_last=False)
            made.append(RingLoader(dataset, num_workers=workers))
            return made[-1]

        train_dataloader = predict_dataloader = loader

        def training_step(self, batch, _step):
            self.trained += rows_of([batch])
            return self.weight(torch.ones(1, 1)).sum()

        def predict_step(self, batch, _step):
            self.predicted += rows_of([batch])

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1)

    saves = lightning.pytorch.callbacks.ModelCheckpoint(tmp_path, "middle", every_n_train_steps=8, save_top_k=-1)

    def trainer(**options):
        quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
        return lightning.Trainer(
            accelerator="cpu", devices=1, default_root_dir=tmp_path, callbacks=[saves], **quiet, **options
        )

    first = Module()
    trainer(max_steps=8).fit(first)
    assert first.trained == epoch_rows(0) + epoch_rows(1)[: 2 * BATCH]
    made[-1].close()
    second = Module()
    trainer(max_epochs=3).fit(second, ckpt_path=tmp_path / "middle.ckpt", weights_only=False)
    assert second.trained == epoch_rows(1)[2 * BATCH :] + epoch_rows(2)
    made[-1].close()
    trainer().predict(second)
    assert second.predicted == epoch_rows(0)
    third = Module()
    trainer(max_epochs=2, limit_train_batches=2).fit(third)
    assert [row for row in third.trained if row[1] == 0] == [(third.trained[0][0] + n, 0) for n in range(2)]
    for loader in made:
        loader.close()
