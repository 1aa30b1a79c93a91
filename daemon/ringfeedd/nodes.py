"""Several machines share every epoch: which of them this one is, and which positions of the order are its own. Pure.

Position p of node r of M is position p * M + r of the whole split's order. So all shares are equally long, the nodes
together have read the first p * M positions of the epoch when each has read p, and a job goes on with any other number
of nodes from that one number.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

from ringfeedd.errors import ConfigError
from ringfeedd.order import Indices, Order

MAX_NODES: Final = 1 << 16
"""Machines that may share an epoch."""

AUTO: Final = "auto"
"""The setting that takes a number from the environment of the launcher."""

# Who says which machine this is: the variable of its number, and that of how many there are.
_LAUNCHERS: Final = (
    ("GROUP_RANK", "GROUP_WORLD_SIZE"),  # torchrun, in the environment of its workers
    ("NODE_RANK", "NNODES"),  # torchrun's own words, as launch scripts hand them on
    ("SLURM_NODEID", "SLURM_NNODES"),  # the tasks of a SLURM job step
    ("JOB_COMPLETION_INDEX", None),  # the pods of an indexed Kubernetes Job, which are not told how many they are
)

_SPAN_POSITIONS: Final = 1 << 16
"""Positions of the whole order that are looked at in one piece, to bound the memory: a node keeps 1 of M of them."""


@dataclass(frozen=True, slots=True)
class Nodes:
    """Which machine this is among those that share every epoch.

    Raises:
        ValueError: a number is outside its range.
    """

    num_nodes: int = 1
    node_rank: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.num_nodes <= MAX_NODES:
            raise ValueError(f"num_nodes {self.num_nodes} is out of range; it must be 1 to {MAX_NODES}")
        if not 0 <= self.node_rank < self.num_nodes:
            raise ValueError(
                f"node_rank {self.node_rank} is out of range; with num_nodes = {self.num_nodes} the machines are "
                f"numbered 0 to {self.num_nodes - 1}"
            )

    def __str__(self) -> str:
        return f"node {self.node_rank}/{self.num_nodes}"


@dataclass(frozen=True, slots=True)
class NodeShare:
    """One machine's share of an order: an `Order` itself, of length ``whole.length // num_nodes``.

    The union of all nodes' shares of an epoch is its first ``length * num_nodes`` positions, each exactly once. The
    last ``whole.length % num_nodes`` belong to no node, so that all nodes take the same number of steps; in a shuffled
    order those are other pairs in each epoch. With one node it is the whole order.

    Attributes:
        whole: the order of the whole split, the same on all nodes.

    Raises:
        ValueError: there are fewer pairs than nodes.
    """

    whole: Order
    nodes: Nodes

    def __post_init__(self) -> None:
        if not self.length:
            raise ValueError(f"{self.whole.length} pairs cannot be shared by {self.nodes.num_nodes} nodes")

    @property
    def length(self) -> int:
        """Positions in this node's epoch; the same on every node."""
        return self.whole.length // self.nodes.num_nodes

    def global_position(self, position: int) -> int:
        """Where this node's ``position`` stands in the order of the whole split.

        Raises:
            ValueError: it is not one of this node's epoch.
        """
        self._check_span(position, 1)
        return position * self.nodes.num_nodes + self.nodes.node_rank

    def index(self, epoch: int, position: int, attempt: int = 0) -> int:
        """See ``Order``. Replacements are those of the global position: no number of nodes changes them."""
        return self.whole.index(epoch, self.global_position(position), attempt)

    def indices(self, epoch: int, start: int, count: int) -> Indices:
        """See ``Order``. Costs the time of ``count * num_nodes`` positions of the whole order."""
        self._check_span(start, count)
        nodes = self.nodes.num_nodes
        piece = max(1, _SPAN_POSITIONS // nodes)
        pieces = [
            self._piece(epoch, first, min(piece, start + count - first)) for first in range(start, start + count, piece)
        ]
        return np.concatenate(pieces) if pieces else self.whole.indices(epoch, 0, 0)

    def _piece(self, epoch: int, start: int, count: int) -> Indices:
        nodes = self.nodes.num_nodes
        # From the first of them to the last: what lies behind the last is not asked for, it may be beyond the end.
        span = self.whole.indices(epoch, self.global_position(start), (count - 1) * nodes + 1)
        return span[::nodes]

    def _check_span(self, start: int, count: int) -> None:
        if start < 0 or count < 0 or start + count > self.length:
            raise ValueError(
                f"positions {start} to {start + count - 1} are not all in {self.nodes}'s epoch of {self.length} pairs"
            )


def choose_nodes(
    num_nodes: int | Literal["auto"] | None, node_rank: int | Literal["auto"] | None, environ: Mapping[str, str]
) -> Nodes:
    """Which machine this is, from the settings; the environment is asked only where one of them is ``"auto"``.

    Args:
        num_nodes: None with ``node_rank`` None: one machine alone. ``"auto"``: both numbers from the environment.
        node_rank: ``"auto"``: from the environment, also where that does not tell how many machines there are.

    Raises:
        ConfigError: only one of the two is given, one is out of its range, or the environment tells nothing or
            contradicts itself or ``num_nodes``.
    """
    if num_nodes == AUTO and not isinstance(node_rank, int):
        nodes = detect_nodes(environ)
        if nodes is None:
            raise ConfigError(
                f'num_nodes = "auto", and the environment of this process does not tell its machine\'s number '
                f"and how many there are ({_variables(counted=True)}); start the daemon by srun, or give the numbers: "
                f"--num-nodes N --node-rank R, in a Kubernetes Job --num-nodes N --node-rank auto"
            )
        return nodes
    if num_nodes is None and node_rank is None:
        return Nodes()
    if num_nodes is None or num_nodes == AUTO or node_rank is None:
        raise ConfigError(
            f"num_nodes = {_shown(num_nodes)} and node_rank = {_shown(node_rank)} do not say which machine this is; "
            f'give both numbers, or neither for one machine alone, or num_nodes = "auto" alone'
        )
    if node_rank == AUTO:
        found = detect_nodes(environ, num_nodes)
        if found is None:
            raise ConfigError(
                f'node_rank = "auto", and the environment of this process does not tell its machine\'s number '
                f"({_variables(counted=False)}); give it: --node-rank R, from 0 to {num_nodes - 1}"
            )
        return found
    try:
        return Nodes(num_nodes, node_rank)
    except ValueError as error:
        raise ConfigError(f"{error}; give each machine a number of its own") from error


def detect_nodes(environ: Mapping[str, str], num_nodes: int | None = None) -> Nodes | None:
    """What torchrun, SLURM or Kubernetes tell this process of its machine; None where they tell nothing.

    Args:
        num_nodes: how many machines there are, where that is known: Kubernetes tells each its number only.

    Raises:
        ConfigError: a value is not a number in its range, or two of them contradict each other or ``num_nodes``.
    """
    found: dict[str, Nodes] = {}
    for rank_name, count_name in _LAUNCHERS:
        if rank_name not in environ:
            continue
        told = _number(environ, count_name) if count_name is not None and count_name in environ else None
        count = told if told is not None else num_nodes
        if count is None:
            continue
        words = f"{rank_name}={environ[rank_name]}" + (f" {count_name}={told}" if told is not None else "")
        if num_nodes is not None and count != num_nodes:
            raise ConfigError(f"num_nodes = {num_nodes}, and the environment has {words}; give the number that is true")
        try:
            found[words] = Nodes(count, _number(environ, rank_name))
        except ValueError as error:
            raise ConfigError(
                f"the environment has {words}, and {error}; give the numbers: --num-nodes N --node-rank R"
            ) from error
    if len(set(found.values())) > 1:
        # One of them may be right, but two machines that choose differently would read the same share.
        raise ConfigError(
            f"the environment tells two stories of which machine this is: {', '.join(found)}; give the numbers: "
            f"--num-nodes N --node-rank R"
        )
    return next(iter(found.values()), None)


def _number(environ: Mapping[str, str], name: str) -> int:
    text = environ[name]
    if not re.fullmatch(r"[0-9]{1,9}", text):
        raise ConfigError(
            f"the environment has {name}={text!r}, which is not a number; give the numbers: --num-nodes N --node-rank R"
        )
    return int(text)


def _shown(value: int | str | None) -> str:
    return "none" if value is None else repr(value).replace("'", '"')


def _variables(*, counted: bool) -> str:
    """The variables that could have told it: with ``counted``, those that tell how many machines there are, too."""
    if counted:
        return ", ".join(f"{rank_name} with {count_name}" for rank_name, count_name in _LAUNCHERS if count_name)
    return ", ".join(rank_name for rank_name, _ in _LAUNCHERS)
