"""What the fake server does wrong, to which object, how often: a pure function of seed, name and request number."""

from __future__ import annotations

import fnmatch
import random
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, get_args

if TYPE_CHECKING:
    from collections.abc import Sequence

Kind = Literal[
    "status",
    "reset",
    "reset_body",
    "truncate",
    "chunked",
    "cut",
    "short",
    "flip",
    "stall",
    "silent",
    "endless",
    "latency",
    "lognormal",
    "html",
    "redirect",
    "moved",
    "hostile",
]
KINDS: tuple[str, ...] = get_args(Kind)

Operation = Literal["list", "metadata", "read", "any"]
OPERATIONS: tuple[str, ...] = get_args(Operation)


WAITS: tuple[str, ...] = ("latency", "lognormal")
"""Kinds that delay an answer, and change nothing about it."""

LOGNORMAL_SIGMA = 1.0
"""One request of a hundred takes ten times the median."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One way to go wrong.

    Attributes:
        kind: ``status`` answers with `status`; ``reset`` resets the connection before an answer, ``reset_body`` after
            half of the body; ``truncate`` closes it after half of the body that was announced, ``chunked`` after half
            of one in chunks; ``cut`` sends half of one whose length was not; ``short`` announces and sends half;
            ``flip`` inverts one bit; ``stall`` sends half and falls silent; ``silent`` does not even begin;
            ``endless`` goes on and on; ``latency`` waits `delay_s` first, ``lognormal`` a random time whose median that
            is; ``html`` sends a page with 200; ``redirect`` is a 302 without a Location, ``moved`` one to a place that
            answers 200 with something else; ``hostile`` is one of the answers of `ringfeedd.fakegcs.hostile`.
        probability: of each request that it applies to.
        names: a glob over object names (``*`` crosses ``/``); a listing's name is its prefix.
        operation: which requests it applies to; ``any`` for all of them.
        first: only the first so many requests for each name; None for all of them.
        status: the code of ``status``.
        retry_after_s: sent along with ``status``.
        delay_s: the wait of ``latency`` and ``lognormal``, in seconds.
    """

    kind: Kind
    probability: float = 1.0
    names: str = "*"
    operation: Operation = "read"
    first: int | None = None
    status: int = 503
    retry_after_s: float | None = None
    delay_s: float = 0.05

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"{self.kind!r} is not a kind of fault; the kinds are {', '.join(KINDS)}.")

    def applies(self, operation: Operation, name: str, number: int, seed: int) -> bool:
        """Whether request `number` (from 0) for this name goes wrong so.

        A function of its arguments only: the order in which concurrent requests arrive changes nothing.
        """
        if self.operation not in (operation, "any") or (self.first is not None and number >= self.first):
            return False
        if not fnmatch.fnmatchcase(name, self.names):
            return False
        kind = f"{self.kind}{self.status}" if self.kind == "status" else self.kind
        return random.Random(f"{seed}/{kind}/{name}/{number}").random() < self.probability

    def wait_s(self, name: str, number: int, seed: int) -> float:
        """Return how long request `number` for this name waits, seconds; a function of its arguments only."""
        if self.kind == "lognormal":
            return self.delay_s * random.Random(f"{seed}/wait/{name}/{number}").lognormvariate(0.0, LOGNORMAL_SIGMA)
        return self.delay_s


def parse_fault(text: str) -> Fault:
    """``[OPERATION/]KIND[+SECONDS][:PROBABILITY[:GLOB]]``, the kind ``status`` written as its code.

    ``503:0.1``, ``flip:0.01:images/*``, ``429+2:0.05`` (with Retry-After), ``latency+0.2``, ``any/503``.

    Raises:
        ValueError: with a sentence.
    """
    head, _, rest = text.partition(":")
    probability, _, names = rest.partition(":")
    chance = _number(probability or "1", text)
    if not 0.0 <= chance <= 1.0:
        raise ValueError(f"The probability {probability} in {text!r} does not lie between 0 and 1.")
    operation, slash, kind = head.rpartition("/")
    if slash and operation not in OPERATIONS:
        raise ValueError(f"{operation!r} in {text!r} is not an operation; they are {', '.join(OPERATIONS)}.")
    kind, plus, seconds = kind.partition("+")
    wait_s = _number(seconds, text) if plus else None
    if not kind.isdecimal() and kind not in KINDS:
        raise ValueError(f"{kind!r} is not a kind of fault; the kinds are {', '.join(KINDS)}, or a status code.")
    fault = Fault("status" if kind.isdecimal() else kind, chance, names or "*")  # type: ignore[arg-type]  # one of KINDS
    return replace(
        fault,
        operation=operation or fault.operation,  # type: ignore[arg-type]  # it is one of OPERATIONS
        status=int(kind) if kind.isdecimal() else fault.status,
        retry_after_s=wait_s if fault.kind == "status" else None,
        delay_s=wait_s if fault.kind in WAITS and wait_s is not None else fault.delay_s,
    )


def _number(text: str, where: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"{text!r} in {where!r} is not a number.") from None


def faults_of(
    faults: Sequence[Fault], operation: Operation, name: str, number: int, seed: int
) -> tuple[float, Fault | None]:
    """All the latency that applies, in seconds, and the first other fault that does."""
    applying = [fault for fault in faults if fault.applies(operation, name, number, seed)]
    delay_s = sum(fault.wait_s(name, number, seed) for fault in applying if fault.kind in WAITS)
    return delay_s, next((fault for fault in applying if fault.kind not in WAITS), None)
