"""Ranks and groups: found out when the first iteration begins, by whatever launcher, and the same on all ranks."""

import multiprocessing
import pickle
import uuid

import pytest
import torch
from house import Daemon, write_folder
from ring_fixtures import served_ring, turning
from torch.utils.data import DataLoader

import ringfeed
from ringfeed.torch import RingDataset, RingLoader
from ringfeed.torch.distributed import Ranks, default_group, given_ranks, next_serial, resolve_ranks

PAIRS = 96


def test_ranks_come_from_arguments_then_torchruns_environment():
    environ = {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "3", "LOCAL_WORLD_SIZE": "4", "GROUP_WORLD_SIZE": "1"}
    assert given_ranks(1, 2) == Ranks(1, 2)
    assert given_ranks(None, None) is None
    assert resolve_ranks(environ) == Ranks(3, 4, num_nodes=1)
    assert resolve_ranks({"RANK": "3", "WORLD_SIZE": "4"}) == Ranks(3, 4)
    assert resolve_ranks({}) == Ranks(0, 1)
    with pytest.raises(ValueError, match="give both"):
        given_ranks(1, None)
    with pytest.raises(ValueError, match="rank 2 is out of range"):
        given_ranks(2, 2)


def test_ranks_of_several_machines_are_this_machines():
    environ = {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}
    assert resolve_ranks(environ) == Ranks(1, 2, num_nodes=2)
    assert resolve_ranks({**environ, "GROUP_WORLD_SIZE": "2"}) == Ranks(1, 2, num_nodes=2)
    with pytest.raises(ValueError, match="4 ranks on 3 machines, 2 of them on this one"):
        resolve_ranks({**environ, "GROUP_WORLD_SIZE": "3"})
    with pytest.raises(ValueError, match="4 ranks on 1 machine, 3 of them on this one"):
        resolve_ranks({**environ, "LOCAL_WORLD_SIZE": "3"})


def test_ranks_of_one_job_share_one_group():
    """Other jobs come to other groups."""
    job = {"TORCHELASTIC_RUN_ID": "none", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}
    other = {**job, "MASTER_PORT": "29501"}
    first = default_group(Ranks(0, 2), "0", job)
    assert first == default_group(Ranks(1, 2), "0", job)
    assert first != default_group(Ranks(0, 2), "0", other)
    assert default_group(Ranks(0, 2), "0", {"TORCHELASTIC_RUN_ID": "a"}) == "torchrun-a-0"


def test_a_single_ranks_dataset_shifts_no_number():
    ring = uuid.uuid4().hex
    assert [next_serial(ring, given) for given in (None, Ranks(0, 1), Ranks(1, 2), None)] == ["0", "own0", "1", "2"]


# When they are found out.


@pytest.fixture
def initialize(monkeypatch):
    """Let torch.distributed be initialised, as it is told."""

    def _initialize(rank, world_size):
        monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
        monkeypatch.setattr(torch.distributed, "get_backend", lambda: "gloo")
        monkeypatch.setattr(torch.distributed, "get_rank", lambda: rank)
        monkeypatch.setattr(torch.distributed, "get_world_size", lambda: world_size)

    return _initialize


def test_a_dataset_made_before_init_process_group_shares(initialize):
    with served_ring() as served, turning(served):
        dataset = RingDataset(served.name, batch_size=2)
        assert len(dataset) == 25
        initialize(1, 2)
        assert (dataset.ranks, len(dataset)) == (Ranks(1, 2), 12)
        assert (dataset.reader.rank, dataset.reader.world_size) == (1, 2)
        assert repr(dataset).endswith("rank 1/2)")
        dataset.close()


def test_ranks_that_change_between_iterations_are_a_sentence(initialize):
    with served_ring() as served, turning(served):
        dataset = RingDataset(served.name, batch_size=2, copy=True)
        assert len(list(dataset)) == 25
        initialize(1, 2)
        with pytest.raises(ringfeed.RingfeedError, match=r"as rank 0 of 1, and now .* rank 1 of 2; call init_process"):
            next(iter(dataset))
        dataset.close()
        assert dataset.reader.rank == 1, "closed, it begins again as what it is now"
        dataset.close()


def test_given_ranks_stand_whatever_torch_distributed_says(initialize):
    with served_ring() as served, turning(served):
        dataset = RingDataset(served.name, batch_size=2, rank=0, world_size=1)
        initialize(1, 2)
        assert dataset.reader.world_size == 1
        assert sum(1 for _ in dataset) == 25
        dataset.close()


def test_a_dataset_sent_elsewhere_forgets_its_ranks(initialize):
    dataset = RingDataset("train", batch_size=2)
    initialize(3, 4)
    sent = pickle.loads(pickle.dumps(dataset))
    initialize(1, 2)
    assert (sent.ranks, sent.group) == (Ranks(1, 2), dataset.group)


def read_as_rank(rank, address, ring, pipe, kind, dataset):
    """One rank: reads an epoch of a dataset that was made in the parent, or here before the group is initialised.

    Rank 1 begins when rank 0 has had a batch: by then workers have given some slots back.
    """
    loader = RingDataset(ring, batch_size=4, fields=("ids",), drop_last=False) if dataset is None else dataset
    len(loader)
    if kind != "dataset":
        loader = DataLoader(loader, batch_size=None, num_workers=2, multiprocessing_context=kind)
    torch.distributed.init_process_group("gloo", init_method=address, rank=rank, world_size=2)
    if rank == 1:
        torch.distributed.barrier()
    batches = iter(loader)
    ids = [*next(batches)]
    if rank == 0:
        torch.distributed.barrier()
    pipe.send(ids + [pair_id for ids in batches for pair_id in ids])
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize(
    ("kind", "made_by"),
    [
        ("dataset", "parent"),
        ("fork", "rank"),
        pytest.param("spawn", "parent", marks=pytest.mark.slow),
        pytest.param("fork", "parent", marks=pytest.mark.slow),
        pytest.param("forkserver", "rank", marks=pytest.mark.slow),
    ],
)
def test_spawned_ranks_share_wherever_the_dataset_is_made(kind, made_by, tmp_path):
    name = f"t{uuid.uuid4().hex[:10]}"
    folder = write_folder(tmp_path / "set", PAIRS)
    context = multiprocessing.get_context("spawn")
    with Daemon(str(folder), "--size", "24x32", "--slots", "64", "--workers", "1", ring=name):
        ring, address = f"{name}-train", f"file://{tmp_path}/store"
        made = RingDataset(ring, batch_size=4, fields=("ids",), drop_last=False) if made_by == "parent" else None
        pipes = [context.Pipe(duplex=False) for _ in range(2)]
        ranks = [
            context.Process(target=read_as_rank, args=(rank, address, ring, pipes[rank][1], kind, made))
            for rank in range(2)
        ]
        for rank in ranks:
            rank.start()
        both = [pipe.recv() if pipe.poll(120) else [] for pipe, _ in pipes]
        for rank in ranks:
            rank.join(30)
        assert [len(ids) for ids in both] == [PAIRS // 2, PAIRS // 2]
        assert len({pair_id for ids in both for pair_id in ids}) == PAIRS


def test_a_loader_with_workers_insists_on_ranks(initialize):
    with served_ring() as served, turning(served):
        loader = RingLoader(RingDataset(served.name, batch_size=2, fields=("ids",)), num_workers=1)
        assert len(list(loader)) == 25
        initialize(1, 2)
        with pytest.raises(ringfeed.RingfeedError, match="as rank 0 of 1"):
            next(iter(loader))


# Launchers.

JOB = {"RANK": "5", "WORLD_SIZE": "8", "MASTER_ADDR": "localhost", "MASTER_PORT": "29500"}
ELSEWHERE = "192.0.2.7"  # of the documents' block: no machine has it
SRUN = {**JOB, "MASTER_ADDR": ELSEWHERE, "SLURM_PROCID": "5", "SLURM_NTASKS": "8", "SLURM_LOCALID": "1"}


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        (JOB, Ranks(5, 8)),
        ({**JOB, "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4"}, Ranks(1, 4, num_nodes=2)),
        ({**SRUN, "SLURM_NNODES": "2", "SLURM_NODEID": "1", "SLURM_TASKS_PER_NODE": "4(x2)"}, Ranks(1, 4, num_nodes=2)),
        ({**SRUN, "SLURM_NNODES": "1", "SLURM_LOCALID": "5", "SLURM_TASKS_PER_NODE": "8"}, Ranks(5, 8, num_nodes=1)),
        (
            {
                **JOB,
                "OMPI_COMM_WORLD_RANK": "5",
                "OMPI_COMM_WORLD_SIZE": "8",
                "OMPI_COMM_WORLD_LOCAL_RANK": "3",
                "OMPI_COMM_WORLD_LOCAL_SIZE": "4",
            },
            Ranks(3, 4, num_nodes=2),
        ),
        ({**JOB, "SLURM_PROCID": "0", "SLURM_NTASKS": "1", "SLURM_LOCALID": "0", "SLURM_NNODES": "1"}, Ranks(5, 8)),
    ],
)
def test_local_ranks_follow_the_launcher(environ, expected):
    assert resolve_ranks(environ) == expected


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"MASTER_ADDR": ELSEWHERE}, f"MASTER_ADDR={ELSEWHERE} is another one"),
        ({"WORLD_SIZE": "100000"}, "it has 100000 ranks, and this one has"),
    ],
)
def test_several_machines_are_recognised_without_a_launcher(changes, words):
    """As Kubeflow, SageMaker and srun start one: RANK and WORLD_SIZE, and no more."""
    with pytest.raises(ringfeed.RingfeedError, match=r"LOCAL_RANK and LOCAL_WORLD_SIZE.*--num-nodes M") as error:
        resolve_ranks({**JOB, **changes})
    assert words in str(error.value)


@pytest.mark.parametrize("address", ["127.0.0.1", "::1", "localhost", "no-such-host.invalid", ""])
def test_a_local_or_missing_address_is_this_machine(address):
    assert resolve_ranks({**JOB, "MASTER_ADDR": address}) == Ranks(5, 8)


def test_unequal_shares_of_slurms_nodes_are_a_sentence():
    with pytest.raises(ValueError, match="8 ranks on 2 machines, 3 of them on this one"):
        resolve_ranks({**SRUN, "SLURM_NNODES": "2", "SLURM_NODEID": "1", "SLURM_TASKS_PER_NODE": "5,3"})
