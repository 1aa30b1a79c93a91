"""Which pair stands at (epoch, position): a pure function of the length, the seed and nothing else.

Nothing is remembered from one call to the next, so any position of any epoch costs the same time and the same memory,
at ten pairs as at a billion, and a stream resumes anywhere. Only unsigned 64-bit integer arithmetic is used, once with
Python's integers and once with numpy's: both give the same numbers on every machine and every version. The golden
values in ``tests/test_order.py`` hold them there, because a changed order would silently change a resumed epoch.

``shuffle`` permutes an epoch by a generalised Feistel network over Z_a x Z_b with a * b just above the length, and
walks the few cycles that leave it (J. Black and P. Rogaway, "Ciphers with Arbitrary Finite Domains", CT-RSA 2002). The
round functions are SplitMix64 streams (G. Steele, D. Lea and C. Flood, "Fast Splittable Pseudorandom Number
Generators", OOPSLA 2014), whose finaliser is D. Stafford's variant 13. It is a good shuffle, not a cipher. Up to
``FEW`` pairs are sorted by such a stream instead.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from math import isqrt
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.uint32]
"""Places in the catalog, in [0, length)."""

_Words = NDArray[np.uint64]

MAX_LENGTH = 1 << 32
"""Pairs in one order: an index fits 32 bits, and every product below fits 64."""

MAX_WORD = (1 << 64) - 1
"""The largest seed and the largest epoch."""

ROUNDS = 6
"""Feistel rounds. Four still show: positions b apart, which share their right half, lie too evenly over many epochs."""

FEW = 1024
"""Up to so many pairs an epoch is sorted by hash (0.1 ms): a network over so few cannot reach every order evenly."""

_GAMMA = 0x9E3779B97F4A7C15  # SplitMix64's increment: 2**64 divided by the golden ratio, made odd
_MIX_1 = 0xBF58476D1CE4E5B9
_MIX_2 = 0x94D049BB133111EB
_HALF = np.uint64(32)

# What a key is for is mixed into it first, so that no two uses ever share a stream.
_FOR_SHUFFLE = 1
_FOR_RANDOM = 2
_FOR_REPLACEMENT = 3


class Mode(StrEnum):
    """How an epoch runs through the catalog."""

    SHUFFLE = "shuffle"
    """Every pair once an epoch, in an order of that epoch's own."""

    SEQUENTIAL = "sequential"
    """Every pair once an epoch, as the catalog lists them."""

    RANDOM = "random"
    """Each position draws from all pairs, with replacement: an epoch misses some and repeats others."""


class Order(Protocol):
    """The pair at each position of each epoch; immutable, so any thread or process may ask."""

    @property
    def length(self) -> int:
        """Pairs in the catalog, and positions in an epoch."""
        ...

    def index(self, epoch: int, position: int, attempt: int = 0) -> int:
        """The place in the catalog of the pair at ``position`` of ``epoch``, in [0, length).

        Args:
            epoch: 0 .. 2**64 - 1.
            position: 0 .. length - 1.
            attempt: 0 is the order itself; n >= 1 is the n-th pair to try instead, where that one fails to load. It is
                drawn evenly from all others, and so may be one that another position of the epoch shows too.
                With a length of 1 there is no other, and every attempt gives 0.

        Raises:
            ValueError: an argument is outside its range.
        """
        ...

    def indices(self, epoch: int, start: int, count: int) -> Indices:
        """``index(epoch, position)`` for the ``count`` positions from ``start``: shape (count,), uint32.

        Raises:
            ValueError: an argument, or ``start + count``, is outside its range.
        """
        ...


def make_order(mode: str, *, length: int, seed: int) -> Order:
    """The order that ``mode`` names.

    Args:
        mode: a ``Mode`` or its value.
        length: pairs in the catalog, 1 .. 2**32.
        seed: 0 .. 2**64 - 1; a sequential order uses it for replacements only.

    Raises:
        ValueError: the mode is unknown, or a number is outside its range.
    """
    if mode not in list(Mode):
        raise ValueError(f"the order {mode!r} is unknown; choose one of {', '.join(Mode)}")
    if not 1 <= length <= MAX_LENGTH:
        raise ValueError(f"an order over {length} pairs cannot be made; it takes 1 to {MAX_LENGTH}")
    _check_word("seed", seed)
    if mode == Mode.SHUFFLE:
        return ShuffleOfFew(length, seed) if length <= FEW else Shuffle(length, seed)
    return Sequential(length, seed) if mode == Mode.SEQUENTIAL else Random(length, seed)


@dataclass(frozen=True, slots=True)
class Sequential:
    """Every epoch runs through the catalog from its first pair to its last."""

    length: int
    seed: int

    def index(self, epoch: int, position: int, attempt: int = 0) -> int:
        """See ``Order``."""
        _check_place(self.length, epoch, position, attempt)
        return _or_another(position, self.length, self.seed, epoch, position, attempt)

    def indices(self, epoch: int, start: int, count: int) -> Indices:
        """See ``Order``."""
        _check_span(self.length, epoch, start, count)
        return _span(start, count).astype(np.uint32)


@dataclass(frozen=True, slots=True)
class Random:
    """Every position draws on its own from all pairs: number ``position`` of the SplitMix64 stream of (seed, epoch)."""

    length: int
    seed: int

    def index(self, epoch: int, position: int, attempt: int = 0) -> int:
        """See ``Order``."""
        _check_place(self.length, epoch, position, attempt)
        draw = _stream(_key(_FOR_RANDOM, self.seed, epoch), position)
        return _or_another(draw * self.length >> 64, self.length, self.seed, epoch, position, attempt)

    def indices(self, epoch: int, start: int, count: int) -> Indices:
        """See ``Order``."""
        _check_span(self.length, epoch, start, count)
        draws = _streams(_key(_FOR_RANDOM, self.seed, epoch), _span(start, count))
        # The upper half of the 128-bit product draw * length, from its two 64-bit parts.
        length = np.uint64(self.length)
        low = (draws & np.uint64(0xFFFFFFFF)) * length >> _HALF
        return (((draws >> _HALF) * length + low) >> _HALF).astype(np.uint32)


@dataclass(frozen=True, slots=True)
class ShuffleOfFew:
    """Every epoch is a permutation of its own, keyed by (seed, epoch): at most ``FEW`` pairs, sorted by hash."""

    length: int
    seed: int

    def index(self, epoch: int, position: int, attempt: int = 0) -> int:
        """See ``Order``."""
        _check_place(self.length, epoch, position, attempt)
        index = int(self._epoch(epoch)[position])
        return _or_another(index, self.length, self.seed, epoch, position, attempt)

    def indices(self, epoch: int, start: int, count: int) -> Indices:
        """See ``Order``."""
        _check_span(self.length, epoch, start, count)
        return self._epoch(epoch)[start : start + count]

    def _epoch(self, epoch: int) -> Indices:
        ranks = _streams(_key(_FOR_SHUFFLE, self.seed, epoch), _span(0, self.length))
        return np.argsort(ranks, kind="stable").astype(np.uint32)  # stable: equal ranks, too, fall the same everywhere


@dataclass(frozen=True, slots=True)
class Shuffle:
    """Every epoch is a permutation of its own, keyed by (seed, epoch)."""

    length: int
    seed: int
    _a: int = field(init=False, repr=False)  # the network's domain is Z_a x Z_b, with length <= a * b < length + a
    _b: int = field(init=False, repr=False)

    def __post_init__(self) -> None:
        a = isqrt(self.length - 1) + 1
        object.__setattr__(self, "_a", a)
        object.__setattr__(self, "_b", -(-self.length // a))

    def index(self, epoch: int, position: int, attempt: int = 0) -> int:
        """See ``Order``."""
        _check_place(self.length, epoch, position, attempt)
        keys = self._round_keys(epoch)
        index = self._network(keys, position)
        while index >= self.length:  # outside the catalog: the walk goes on until it comes back in
            index = self._network(keys, index)
        return _or_another(index, self.length, self.seed, epoch, position, attempt)

    def indices(self, epoch: int, start: int, count: int) -> Indices:
        """See ``Order``."""
        _check_span(self.length, epoch, start, count)
        keys = self._round_keys(epoch)
        indices = self._networks(keys, _span(start, count))
        outside = np.flatnonzero(indices >= self.length)
        while outside.size:
            walked = self._networks(keys, indices[outside])
            indices[outside] = walked
            outside = outside[walked >= self.length]
        return indices.astype(np.uint32)

    def _round_keys(self, epoch: int) -> list[int]:
        key = _key(_FOR_SHUFFLE, self.seed, epoch)
        return [_stream(key, number) for number in range(ROUNDS)]

    def _network(self, keys: list[int], number: int) -> int:
        """A permutation of [0, a * b)."""
        a, b = self._a, self._b
        left, right = divmod(number, b)
        for even, odd in zip(keys[::2], keys[1::2], strict=True):
            left = (left + ((_stream(even, right) >> 32) * a >> 32)) % a
            right = (right + ((_stream(odd, left) >> 32) * b >> 32)) % b
        return left * b + right

    def _networks(self, keys: list[int], numbers: _Words) -> _Words:
        """The same permutation of each number."""
        a, b = np.uint64(self._a), np.uint64(self._b)
        left = numbers // b
        right = numbers - left * b
        for even, odd in zip(keys[::2], keys[1::2], strict=True):
            left = _add_modulo(left, _streams(even, right), a)
            right = _add_modulo(right, _streams(odd, left), b)
        return left * b + right


def _add_modulo(value: _Words, draws: _Words, modulus: np.uint64) -> _Words:
    """``value`` plus an even draw from [0, modulus), modulo ``modulus``; overwrites ``draws``."""
    draws >>= _HALF
    draws *= modulus
    draws >>= _HALF
    draws += value
    # Below the modulus the difference wraps round to something huge, so the smaller one is the remainder.
    np.minimum(draws, draws - modulus, out=draws)
    return draws


def _or_another(index: int, length: int, seed: int, epoch: int, position: int, attempt: int) -> int:
    """``index`` itself at attempt 0, one of the others at any later attempt."""
    if attempt == 0 or length == 1:
        return index
    draw = _stream(_key(_FOR_REPLACEMENT, seed, epoch, position), attempt) * (length - 1) >> 64
    return draw + (draw >= index)


def _key(*words: int) -> int:
    """One 64-bit key of some 64-bit words; each step is a bijection of its word, so keys of one seed never meet."""
    key = 0
    for word in words:
        key = _stream(key ^ word, 0)
    return key


def _stream(key: int, number: int) -> int:
    """Output ``number`` (from 0) of the SplitMix64 generator that starts at ``key``."""
    x = (key + (number + 1) * _GAMMA) & MAX_WORD
    x = ((x ^ (x >> 30)) * _MIX_1) & MAX_WORD
    x = ((x ^ (x >> 27)) * _MIX_2) & MAX_WORD
    return x ^ (x >> 31)


def _streams(key: int, numbers: _Words) -> _Words:
    """``_stream(key, number)`` of each number, in an array of its own."""
    x = numbers * np.uint64(_GAMMA)
    x += np.uint64((key + _GAMMA) & MAX_WORD)
    x ^= x >> np.uint64(30)
    x *= np.uint64(_MIX_1)
    x ^= x >> np.uint64(27)
    x *= np.uint64(_MIX_2)
    x ^= x >> np.uint64(31)
    return x


def _span(start: int, count: int) -> _Words:
    return np.arange(start, start + count, dtype=np.uint64)


def _check_word(name: str, value: int) -> None:
    if not 0 <= value <= MAX_WORD:
        raise ValueError(f"the {name} {value} is out of range; it is a whole number from 0 to 2**64 - 1")


def _check_place(length: int, epoch: int, position: int, attempt: int) -> None:
    _check_word("epoch", epoch)
    _check_word("attempt", attempt)
    if not 0 <= position < length:
        raise ValueError(f"position {position} is not in an epoch of {length} pairs")


def _check_span(length: int, epoch: int, start: int, count: int) -> None:
    _check_word("epoch", epoch)
    if start < 0 or count < 0 or start + count > length:
        raise ValueError(f"positions {start} to {start + count - 1} are not all in an epoch of {length} pairs")
