"""Readers that skip: they hold nobody up, are told what they missed, and never see a torn picture."""

import json
from itertools import pairwise

import numpy as np
import pytest
from decode_reference import reference_image
from house import Daemon, trainer, wait_until, write_folder

import ringfeed
from ringfeed.cli.status import ring_status
from ringfeed.torch import RingDataset

PAIRS = 24
SIZE = (48, 64)

MONITOR = """
import json, sys, ringfeed
with ringfeed.attach(sys.argv[1], batch_size=4, group="monitor", on_lag="skip", drop_last=False) as reader:
    print("in", flush=True)
    for _ in range(400):
        for b in reader:
            print(json.dumps([b.ids, int(b.image.sum()), b.missed, int(b.seqs[0])]), flush=True)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("set"), PAIRS)


def serve(folder, ring):
    return Daemon(str(folder), "--size", f"{SIZE[0]}x{SIZE[1]}", "--slots", "16", ring=ring)


def endless(reader):
    while True:
        yield from reader


def test_a_skipping_reader_stalls_nothing_and_counts_losses(folder, ring):
    name = f"{ring}-train"
    with (
        serve(folder, ring),
        ringfeed.attach(name, batch_size=4, group="trainer", drop_last=False) as trainer_reader,
        ringfeed.attach(name, batch_size=4, group="monitor", on_lag="skip", drop_last=False) as monitor,
    ):
        batches = endless(monitor)
        assert next(batches).missed == 0
        for _ in range(5):  # the monitor does not read on, and still holds its batch: the ring has 16 slots
            assert sum(len(batch) for batch in trainer_reader) == PAIRS
        late = next(batches)
        assert late.missed >= 4 * PAIRS
        assert int(late.seqs[0]) == 4 + late.missed
        wait_until(lambda: any(lane.missed_pairs for lane in ring_status(name).consumers))
        by_group = {lane.group: lane for lane in ring_status(name).consumers}
        assert by_group["monitor"].missed_pairs == monitor.statistics()["missed_pairs"] > 0
        assert by_group["trainer"].missed_pairs == 0


def test_no_image_is_torn_for_a_skipping_reader(folder, ring):
    """However it is outrun."""

    def reference(pair_id):
        return reference_image((folder / "images" / f"{pair_id}.jpg").read_bytes(), "resize", *SIZE)

    ids = [str(path.relative_to(folder / "images").with_suffix("")) for path in folder.glob("images/**/*.jpg")]
    sums = {pair_id: int(reference(pair_id).sum()) for pair_id in ids}
    with serve(folder, ring), ringfeed.attach(f"{ring}-train", batch_size=4, group="t", drop_last=False) as reader:
        monitor = trainer(MONITOR, f"{ring}-train")
        assert monitor.stdout.readline() == "in\n"
        for _ in range(40):
            for batch in reader:
                del batch
        monitor.kill()
        rows = [json.loads(line) for line in monitor.stdout if line.startswith("[[") and line.endswith("]\n")]
        monitor.wait()
    assert len(rows) > 10
    for pair_ids, total, _, _ in rows:
        assert total == sum(sums[pair_id] for pair_id in pair_ids)
    # what it got and what it missed are, together, the stream
    for (pair_ids, _, _, seq), (_, _, missed, following) in pairwise(rows):
        assert following == seq + len(pair_ids) + missed


def test_a_skipping_group_alone_is_awaited(folder, ring):
    name = f"{ring}-train"
    with serve(folder, ring), ringfeed.attach(name, batch_size=4, on_lag="skip", drop_last=False) as reader:
        positions = [int(position) for _ in range(3) for batch in reader for position in batch.positions]
        assert positions == 3 * list(range(PAIRS))
        assert reader.statistics()["missed_pairs"] == 0


def test_the_ranks_of_a_group_agree_on_skipping(folder, ring):
    name = f"{ring}-train"
    with (
        serve(folder, ring),
        ringfeed.attach(name, batch_size=2, group="g", rank=0, world_size=2, on_lag="skip"),
        pytest.raises(ringfeed.AttachRefusedError, match=r"on_lag=skip, and this rank asks for .* block"),
    ):
        ringfeed.attach(name, batch_size=2, group="g", rank=1, world_size=2)
    with pytest.raises(ValueError, match="on_lag is 'drop'"):
        ringfeed.attach(name, batch_size=2, on_lag="drop")


def test_a_skipping_dataset_yields_its_own_tensors(folder, ring):
    with serve(folder, ring):
        dataset = RingDataset(f"{ring}-train", batch_size=4, on_lag="skip", fields=("image", "ids"))
        image, pair_ids = next(iter(dataset))
        expected = reference_image((folder / "images" / f"{pair_ids[0]}.jpg").read_bytes(), "resize", *SIZE)
        assert (np.asarray(image[0].permute(1, 2, 0)) == expected).all()
        image.zero_()
        dataset.close()
