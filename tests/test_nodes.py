"""Several machines: shares that make up the epoch between them, launchers' numbers, real daemons as machines."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import uuid
from pathlib import Path

import numpy as np
import pytest
from house import RINGFEED, Daemon, finish, photographs, trainer
from hypothesis import given, settings
from hypothesis import strategies as st
from ring_fixtures import described_as, make_descriptor, small_geometry

import ringfeed
from ringfeed.cli.status import ring_status
from ringfeed.reader.state import state_at
from ringfeed.shm.descriptor import ServedCatalog
from ringfeed.torch import RingDataset
from ringfeed.torch.distributed import Ranks, check_nodes
from ringfeedd import nodes as nodes_module
from ringfeedd.config import load, resolve
from ringfeedd.errors import ConfigError
from ringfeedd.fakegcs import FakeGcs, serve_in_thread
from ringfeedd.nodes import MAX_NODES, Nodes, NodeShare, choose_nodes, detect_nodes
from ringfeedd.order import MAX_LENGTH, Mode, make_order

MULTI_NODE = (Path(__file__).parent.parent / "docs/multi-node.md").read_text()
PAIRS = 27
HEIGHT, WIDTH = 32, 48


# Shares.


def shares_of(whole, num_nodes):
    return [NodeShare(whole, Nodes(num_nodes, rank)) for rank in range(num_nodes)]


@settings(deadline=None, max_examples=60)
@given(
    mode=st.sampled_from(Mode),
    length=st.integers(1, 1400),  # both kinds of shuffle
    num_nodes=st.integers(1, 40),
    epoch=st.integers(0, 2**64 - 1),
    span=st.sampled_from([64, 200, 1 << 16]),
    data=st.data(),
)
def test_equal_shares_dealt_in_turn_are_the_order(mode, length, num_nodes, epoch, span, data):
    num_nodes = min(num_nodes, length)
    whole = make_order(mode, length=length, seed=5)
    shares = shares_of(whole, num_nodes)
    each = length // num_nodes
    assert {share.length for share in shares} == {each}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nodes_module, "_SPAN_POSITIONS", span)  # in many pieces as in one
        dealt = np.stack([share.indices(epoch, 0, each) for share in shares])
    expected = whole.indices(epoch, 0, each * num_nodes)
    assert (dealt.T.ravel() == expected).all()
    assert dealt.dtype == expected.dtype
    share = data.draw(st.sampled_from(shares))
    start = data.draw(st.integers(0, each))
    count = data.draw(st.integers(0, each - start))
    part = share.indices(epoch, start, count)
    assert part.shape == (count,)
    assert (part == dealt[share.nodes.node_rank, start : start + count]).all()


@given(length=st.integers(1, 3000), num_nodes=st.integers(1, 40), attempt=st.integers(0, 5), data=st.data())
def test_a_replacement_does_not_depend_on_machine_count(length, num_nodes, attempt, data):
    whole = make_order("shuffle", length=length, seed=5)
    share = data.draw(st.sampled_from(shares_of(whole, min(num_nodes, length))))
    position = data.draw(st.integers(0, share.length - 1))
    at = share.global_position(position)
    assert at == position * share.nodes.num_nodes + share.nodes.node_rank
    assert share.index(3, position, attempt) == whole.index(3, at, attempt)
    assert share.index(3, position) == share.indices(3, position, 1)[0]


def test_a_share_of_the_longest_order_stays_cheap():
    """At its end, too."""
    share = NodeShare(make_order("shuffle", length=MAX_LENGTH, seed=1), Nodes(1000, 999))
    end = share.length
    assert share.indices(2, end - 256, 256).tolist() == [share.index(2, p) for p in range(end - 256, end)]


def test_a_share_refuses_what_is_not_its_own():
    share = NodeShare(make_order("sequential", length=10, seed=0), Nodes(3, 2))
    assert share.indices(0, 0, 3).tolist() == [2, 5, 8]
    with pytest.raises(ValueError, match="not all in node 2/3's epoch of 3 pairs"):
        share.index(0, 3)
    with pytest.raises(ValueError, match="positions 2 to 3"):
        share.indices(0, 2, 2)
    with pytest.raises(ValueError, match="2 pairs cannot be shared by 3 nodes"):
        NodeShare(make_order("sequential", length=2, seed=0), Nodes(3, 0))


@given(
    length=st.integers(1, 400),
    machines=st.lists(st.integers(1, 9), min_size=2, max_size=5),
    cuts=st.lists(st.floats(0, 1), min_size=4, max_size=4),
)
def test_a_job_with_another_machine_count_repeats_nothing(length, machines, cuts):
    """It loses less than a round at a seam."""
    whole = make_order("shuffle", length=length, seed=9)
    order = whole.indices(0, 0, length).tolist()
    reached = 0  # in the global order, and with it all that was seen or left out
    state = None
    for num_nodes, cut in zip(machines, [*cuts, 1.0], strict=False):
        if num_nodes > length:
            continue
        shares = shares_of(whole, num_nodes)
        each = shares[0].length
        here = described_as(
            make_descriptor("train", small_geometry()),
            num_nodes=num_nodes,
            catalogs=(ServedCatalog(0, each, "f" * 32),),
        )
        epoch, start = (0, 0) if state is None else state.place(here, strict=True)
        if epoch:
            assert (epoch, start) == (1, 0)
            assert length - reached < 2 * num_nodes  # the seam and the epoch's end, each less than a round
            return
        assert reached <= start * num_nodes < reached + num_nodes
        stop = start + int(cut * (each - start))
        dealt = np.stack([share.indices(0, start, stop - start) for share in shares]).T.ravel().tolist()
        assert dealt == order[start * num_nodes : stop * num_nodes]
        reached = stop * num_nodes
        state = state_at(here, epoch=0, position=stop, shape=(2, 4, True))


def test_two_machines_then_three_resume_exactly():
    """Or at the next round."""
    whole = make_order("shuffle", length=100, seed=9)
    order = whole.indices(0, 0, 100).tolist()
    two = described_as(make_descriptor("train", small_geometry()), num_nodes=2)
    three = described_as(two, num_nodes=3, catalogs=(ServedCatalog(0, 33, "f" * 32),))

    def rest(position):
        _, start = state_at(two, epoch=0, position=position, shape=(2, 4, True)).place(three, strict=True)
        parts = [share.indices(0, start, 33 - start) for share in shares_of(whole, 3)]
        return np.stack(parts).T.ravel().tolist()

    assert rest(24) == order[48:99]  # 48 pairs were seen: three machines go on exactly there
    assert rest(25) == order[51:99]  # 50 were seen: the next round of three begins at 51, and one pair is left out
    assert state_at(two, epoch=4, position=50, shape=(2, 4, True)).place(three, strict=True) == (5, 0)


# Numbers.

LAUNCHERS = {
    "torchrun": {"GROUP_RANK": "1", "GROUP_WORLD_SIZE": "4"},
    "a launch script": {"NODE_RANK": "1", "NNODES": "4"},
    "slurm": {"SLURM_NODEID": "1", "SLURM_NNODES": "4"},
    "torchrun under slurm": {
        "GROUP_RANK": "1",
        "GROUP_WORLD_SIZE": "4",
        "SLURM_NODEID": "1",
        "SLURM_NNODES": "4",
    },
}


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_a_launcher_tells_which_machine_this_is(launcher):
    environ = {"PATH": "/bin", "HOSTNAME": "n", **LAUNCHERS[launcher]}
    assert detect_nodes(environ) == Nodes(4, 1)
    assert choose_nodes("auto", None, environ) == choose_nodes("auto", "auto", environ) == Nodes(4, 1)
    assert choose_nodes(4, "auto", environ) == Nodes(4, 1)
    assert choose_nodes(2, 0, environ) == Nodes(2, 0)
    assert choose_nodes(None, None, environ) == Nodes(1, 0)


def test_a_kubernetes_pod_knows_only_its_number():
    """It must be told how many there are."""
    environ = {"JOB_COMPLETION_INDEX": "2"}
    assert detect_nodes(environ) is None
    assert detect_nodes(environ, 3) == Nodes(3, 2)
    assert choose_nodes(3, "auto", environ) == Nodes(3, 2)
    with pytest.raises(ConfigError, match="in a Kubernetes Job --num-nodes N --node-rank auto"):
        choose_nodes("auto", None, environ)
    with pytest.raises(ConfigError, match="JOB_COMPLETION_INDEX=2, and node_rank 2 is out of range"):
        choose_nodes(2, "auto", environ)


@pytest.mark.parametrize(
    "environ", [{}, {"NODE_RANK": "1"}, {"NNODES": "2"}, {"SLURM_NNODES": "2"}, {"RANK": "1", "WORLD_SIZE": "2"}]
)
def test_half_of_a_launchers_words_tell_nothing(environ):
    assert detect_nodes(environ) is None
    with pytest.raises(ConfigError, match="does not tell its machine's number"):
        choose_nodes("auto", None, environ)


CONTRADICTIONS = {
    "two stories .* GROUP_RANK=0 GROUP_WORLD_SIZE=2, SLURM_NODEID=1 SLURM_NNODES=2": {
        "GROUP_RANK": "0",
        "GROUP_WORLD_SIZE": "2",
        "SLURM_NODEID": "1",
        "SLURM_NNODES": "2",
    },
    "node_rank 2 is out of range": {"SLURM_NODEID": "2", "SLURM_NNODES": "2"},
    "num_nodes 0 is out of range": {"SLURM_NODEID": "0", "SLURM_NNODES": "0"},
    "NNODES='1:4', which is not a number": {"NODE_RANK": "0", "NNODES": "1:4"},
    "NODE_RANK='-1', which is not a number": {"NODE_RANK": "-1", "NNODES": "2"},
    "which is not a number": {"NODE_RANK": "9" * 5000, "NNODES": "2"},
}


@pytest.mark.parametrize("sentence", CONTRADICTIONS)
def test_impossible_values_are_refused_with_a_sentence(sentence):
    with pytest.raises(ConfigError, match=f"{sentence}.*--num-nodes N --node-rank R"):
        choose_nodes("auto", None, CONTRADICTIONS[sentence])


def test_a_contradicting_launcher_is_refused():
    with pytest.raises(ConfigError, match="num_nodes = 3, and the environment has SLURM_NODEID=1 SLURM_NNODES=4"):
        choose_nodes(3, "auto", LAUNCHERS["slurm"])


@pytest.mark.parametrize(
    ("given_nodes", "given_rank"), [(2, None), (1, None), (None, 0), (None, "auto"), ("auto", 0), ("auto", 1)]
)
def test_one_number_without_the_other_is_refused(given_nodes, given_rank):
    with pytest.raises(ConfigError, match="do not say which machine this is; give both numbers"):
        choose_nodes(given_nodes, given_rank, LAUNCHERS["slurm"])


@pytest.mark.parametrize("nodes", [(0, 0), (MAX_NODES + 1, 0), (2, 2), (2, -1)])
def test_a_number_out_of_range_is_refused(nodes):
    with pytest.raises(ConfigError, match="out of range"):
        choose_nodes(*nodes, {})


def test_number_may_come_from_file_rank_from_flag(tmp_path):
    path = tmp_path / "ringfeed.toml"
    path.write_text('root = "r"\nnum_nodes = 3\n')
    assert resolve(load(path, {"node_rank": 2}).config).nodes == Nodes(3, 2)
    with pytest.raises(ConfigError, match="num_nodes = 3 and node_rank = none"):
        load(path, {})
    path.write_text('root = "r"\nnum_nodes = "auto"\n')
    assert resolve(load(path, {}, LAUNCHERS["slurm"]).config, environ=LAUNCHERS["slurm"]).nodes == Nodes(4, 1)
    for word in ('"all"', "0", "true", "1.5"):
        path.write_text(f'root = "r"\nnum_nodes = {word}\nnode_rank = 0\n')
        with pytest.raises(ConfigError, match="num_nodes"):
            load(path, {})


# Real daemons as machines.


@pytest.fixture(scope="module")
def store():
    with serve_in_thread(FakeGcs({"b": photographs(PAIRS)})) as server:
        yield server


@pytest.fixture(scope="module")
def rings(store):
    """The rings of two machines, and that of one which has everything."""
    name = f"t{uuid.uuid4().hex[:8]}"
    common = ("--emulator", store.url, "--size", f"{HEIGHT}x{WIDTH}", "--label-mode", "index", "--slots", "24")
    common = (*common, "--workers", "1", "--seed", "3", "--linger-blocking-s", "0.2")
    daemons = [Daemon("gs://b/set", *common, ring=f"{name}w").start()]
    for rank in (0, 1):
        numbers = ("--num-nodes", "2", "--node-rank", str(rank))
        daemons.append(Daemon("gs://b/set", *common, *numbers, ring=f"{name}n{rank}").start())
    try:
        for daemon in daemons:
            daemon.output.wait_for("ready", 60)
        yield [f"{daemon.ring}-train" for daemon in daemons]
    finally:
        for daemon in daemons:
            daemon.__exit__(None)


READ = """
import json, sys, ringfeed
ring, rank, world, epochs = sys.argv[1], *map(int, sys.argv[2:])
with ringfeed.attach(ring, batch_size=3, group="job", rank=rank, world_size=world, drop_last=False, start="epoch") as r:
    print("in", flush=True)
    sys.stdin.readline()
    for _ in range(epochs):
        for batch in r:
            for pair_id, position, valid in zip(batch.ids, batch.positions, batch.valid):
                if valid:
                    print(json.dumps([batch.epoch, int(position), pair_id]))
"""


def read_all(ring, world, epochs):
    """What all ranks of one machine are given, as {(epoch, position): id}."""
    processes = [trainer(READ, ring, rank, world, epochs) for rank in range(world)]
    for process in processes:
        assert process.stdout.readline() == "in\n"
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    lines = [line for process in processes for line in finish(process).splitlines()]
    rows = [json.loads(line) for line in lines if line.startswith("[")]  # a rank that is quick logs that it was alone
    seen = {(epoch, position): pair_id for epoch, position, pair_id in rows}
    assert len(seen) == len(rows)
    return seen


def test_two_machines_see_each_pair_once_together(rings):
    """Two ranks each; what one machine sees."""
    whole = read_all(rings[0], 1, 2)
    each = PAIRS // 2
    together = {}
    for rank, ring in enumerate(rings[1:]):
        seen = read_all(ring, 2, 2)
        assert sorted(seen) == [(epoch, position) for epoch in (0, 1) for position in range(each)]
        together |= {(epoch, position * 2 + rank): pair_id for (epoch, position), pair_id in seen.items()}
    assert together == {place: pair_id for place, pair_id in whole.items() if place[1] < 2 * each}
    for epoch in (0, 1):
        assert len({pair_id for place, pair_id in together.items() if place[0] == epoch}) == 2 * each


def test_status_shows_machine_and_agreement_of_catalogs(rings):
    whole, first, second = map(ring_status, rings)
    assert whole.fingerprint == first.fingerprint == second.fingerprint
    assert [(s.num_nodes, s.node_rank, s.epoch_length) for s in (whole, first, second)] == [
        (1, 0, PAIRS),
        (2, 0, PAIRS // 2),
        (2, 1, PAIRS // 2),
    ]
    done = subprocess.run([*RINGFEED, "status", *rings], capture_output=True, text=True, check=True)
    assert re.findall(r"node \d/\d, \d+ pairs", done.stdout) == ["node 0/2, 13 pairs", "node 1/2, 13 pairs"]
    done = subprocess.run([*RINGFEED, "status", "--json", rings[2]], capture_output=True, text=True, check=True)
    shown = json.loads(done.stdout)[rings[2]]
    assert (shown["num_nodes"], shown["node_rank"]) == (2, 1)


def test_fewer_pairs_than_machines_are_refused(store):
    common = ("--emulator", store.url, "--ring", f"t{uuid.uuid4().hex[:8]}", "--test-ratio", "0")
    command = [*RINGFEED, "serve", "gs://b/set", *common]
    done = subprocess.run(
        [*command, "--num-nodes", "28", "--node-rank", "27"], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 3
    assert "the train split of gs://b/set has 27 pairs, fewer than num_nodes = 28" in done.stderr


# Trainers.


def test_a_job_of_two_machines_learns_the_setting(rings, monkeypatch):
    """On a ring that serves one machine, which stays as it was."""
    environ = {"RANK": "2", "WORLD_SIZE": "4", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "2", "GROUP_WORLD_SIZE": "2"}
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ringfeed.RingfeedError, match=r"2 machines, .* served for 1 machine; .*--num-nodes 2"):
        next(iter(RingDataset(rings[0], batch_size=2)))
    assert ring_status(rings[0]).consumers == []
    dataset = RingDataset(rings[1], batch_size=2)
    assert len(dataset) == PAIRS // 2 // 4
    assert dataset.reader.descriptor.identity.num_nodes == 2
    dataset.close()
    as_it_is = RingDataset(rings[0], batch_size=2, rank=0, world_size=1)
    assert len(as_it_is.reader) == PAIRS // 2
    as_it_is.close()


def test_a_single_machine_job_learns_of_half_epochs():
    half = described_as(make_descriptor("train", small_geometry()), num_nodes=2, node_rank=1)
    with pytest.raises(ringfeed.RingfeedError, match=r"runs on 1 machine, .* without --num-nodes"):
        check_nodes(Ranks(0, 2, num_nodes=1), half)
    check_nodes(Ranks(0, 2, num_nodes=2), half)
    check_nodes(Ranks(0, 2), half)  # the user gave the ranks, or no torchrun says how many machines there are


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


@pytest.mark.timeout(200)
def test_the_documented_script_trains_on_two_machines(rings, tmp_path):
    (code,) = re.findall(r"<!-- run: train -->\n```python\n(.*?)```", MULTI_NODE, re.DOTALL)
    port = str(free_port())
    environ = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    agents = []
    for rank, ring in enumerate(rings[1:]):
        script = tmp_path / f"train{rank}.py"
        script.write_text(code.replace('"train"', f'"{ring}"'))
        command = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--node-rank", str(rank)]
        command += ["--nproc-per-node", "2", "--master-addr", "127.0.0.1", "--master-port", port, str(script)]
        agents.append(
            subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environ)
        )
    said = ""
    try:
        for agent in agents:
            said += finish(agent, 150)
    finally:
        for agent in agents:
            agent.terminate()
            agent.wait(30)
    steps = sorted(re.findall(r"rank (\d) took (\d+) steps", said))
    assert steps == [(str(rank), str(2 * (PAIRS // 2 // 8))) for rank in range(4)]
