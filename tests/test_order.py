"""The order: the same everywhere, a permutation of each epoch, and evenly drawn."""

from __future__ import annotations

import hashlib
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ringfeedd import order as order_module
from ringfeedd.order import FEW, MAX_LENGTH, MAX_WORD, Mode, make_order

MODES = ["shuffle", "sequential", "random"]
words = st.integers(0, MAX_WORD)
lengths = st.one_of(
    st.integers(1, 2 * FEW), st.integers(1, MAX_LENGTH), st.sampled_from([FEW, FEW + 1, 1 << 16, MAX_LENGTH])
)


def sigmas(observed: np.ndarray, freedom: int) -> float:
    """How far a chi-square statistic of evenly expected counts lies from its mean, in its standard deviations."""
    expected = observed.sum() / observed.size
    return (((observed - expected) ** 2 / expected).sum() - freedom) / math.sqrt(2 * freedom)


def test_the_stream_is_splitmix64_as_published() -> None:
    # The first outputs for seed 1234567 of the reference implementation (Vigna, prng.di.unimi.it/splitmix64.c).
    outputs = [order_module._stream(1234567, number) for number in range(3)]
    assert outputs == [6457827717110365317, 3203168211198807973, 9817491932198370423]


@pytest.mark.parametrize(
    ("mode", "length", "seed", "epoch", "start", "golden"),
    [
        ("shuffle", 1, 0, 0, 0, [0]),
        ("shuffle", 10, 0, 0, 0, [6, 1, 7, 3, 4, 8, 2, 0]),
        ("shuffle", 10, 0, 1, 0, [6, 2, 3, 1, 7, 0, 9, 5]),
        ("shuffle", 1_024, 42, 7, 500, [852, 120, 537, 609, 846, 715, 978, 457]),
        ("shuffle", 1_025, 42, 7, 500, [459, 85, 491, 54, 698, 388, 436, 317]),
        ("shuffle", 1_000_000, MAX_WORD, 0, 999_992, [953061, 814742, 439400, 749413, 247815, 560691, 952105, 743257]),
        (
            "shuffle",
            1_000_000_000,
            1,
            MAX_WORD,
            123_456_789,
            [968251959, 2483367, 12176361, 96187175, 721325480, 724550504, 185354897, 499750382],
        ),
        (
            "shuffle",
            4_294_967_296,
            3,
            5,
            4_294_967_288,
            [3164761667, 4209222878, 994622518, 1410345775, 1019151595, 1950616831, 3422045139, 3466365015],
        ),
        ("sequential", 10, 9, 9, 2, [2, 3, 4, 5, 6, 7, 8, 9]),
        ("random", 10, 0, 0, 0, [5, 0, 4, 7, 6, 2, 0, 8]),
        (
            "random",
            4_294_967_296,
            3,
            5,
            2_147_483_648,
            [1732937399, 709269241, 3782137906, 1593245621, 2631681906, 2194001584, 3833386431, 2124621157],
        ),
    ],
)
def test_the_order_of_a_release_stays(mode, length, seed, epoch, start, golden) -> None:
    assert make_order(mode, length=length, seed=seed).indices(epoch, start, len(golden)).tolist() == golden


def test_whole_epochs_and_replacements_stay_what_they_are() -> None:
    digest = hashlib.sha256()
    for mode in MODES:
        for length in (1, 2, 7, 1000, 1024, 1025, 4099):
            order = make_order(mode, length=length, seed=0xDEADBEEFCAFEF00D)
            digest.update(order.indices(3, 0, length).astype("<u4").tobytes())
            replacements = [
                order.index(3, position, attempt) for position in range(min(length, 9)) for attempt in (1, 2, 9)
            ]
            digest.update(np.array(replacements, "<u4").tobytes())
    assert digest.hexdigest() == "4d259eee2977f9c3cf6287d87eded697302ad372332b0d62f150515933ed5330"


@pytest.mark.parametrize("mode", ["shuffle", "sequential"])
def test_every_epoch_is_a_permutation(mode) -> None:
    """Every length up to 300."""
    for length in range(1, 301):
        order = make_order(mode, length=length, seed=length)
        assert sorted(order.indices(length % 5, 0, length).tolist()) == list(range(length))


def test_the_network_is_a_permutation_too() -> None:
    """At every length up to 300."""
    for length in range(1, 301):
        indices = order_module.Shuffle(length, seed=length).indices(1, 0, length)
        assert sorted(indices.tolist()) == list(range(length))


@given(length=st.integers(1, 100_000), seed=words, epoch=words)
@settings(max_examples=60, deadline=None)
def test_a_shuffled_epoch_is_a_permutation(length, seed, epoch) -> None:
    indices = make_order("shuffle", length=length, seed=seed).indices(epoch, 0, length)
    assert np.array_equal(np.sort(indices), np.arange(length))


@pytest.mark.parametrize("length", [1_000_000_000, MAX_LENGTH, MAX_LENGTH - 1])
def test_a_billion_positions_show_no_pair_twice(length) -> None:
    order = make_order("shuffle", length=length, seed=5)
    starts = np.random.default_rng(1).choice(length // 4096, 150, replace=False) * 4096
    seen = np.concatenate([order.indices(2, int(start), 4096) for start in starts])
    assert seen.max() < length
    assert np.unique(seen).size == seen.size


@pytest.mark.parametrize("length", [1025, 9_999, 1_000_000_000, MAX_LENGTH])
def test_the_network_can_be_run_backwards(length) -> None:
    order = make_order("shuffle", length=length, seed=11)
    keys = order._round_keys(4)
    a, b = order._a, order._b

    def backwards(number: int) -> int:
        left, right = divmod(number, b)
        for even, odd in zip(keys[-2::-2], keys[::-2], strict=True):
            right = (right - ((order_module._stream(odd, left) >> 32) * b >> 32)) % b
            left = (left - ((order_module._stream(even, right) >> 32) * a >> 32)) % a
        return left * b + right

    for position in np.random.default_rng(2).integers(0, length, 200).tolist():
        number = backwards(order.index(4, position))
        while number >= length:
            number = backwards(number)
        assert number == position


@pytest.mark.parametrize("mode", MODES)
@given(length=lengths, seed=words, epoch=words, where=st.floats(0, 1))
@settings(max_examples=80, deadline=None)
def test_one_position_equals_the_same_among_others(mode, length, seed, epoch, where) -> None:
    order = make_order(mode, length=length, seed=seed)
    start = min(int(where * length), length - 1)
    count = min(17, length - start)
    indices = order.indices(epoch, start, count)
    assert indices.dtype == np.uint32
    assert indices.tolist() == [order.index(epoch, start + offset) for offset in range(count)]
    assert all(0 <= index < length for index in indices.tolist())


@pytest.mark.parametrize("mode", MODES)
@given(length=lengths, seed=words, epoch=words, attempt=st.integers(1, MAX_WORD), where=st.floats(0, 1))
@settings(max_examples=80, deadline=None)
def test_a_replacement_is_another_pair(mode, length, seed, epoch, attempt, where) -> None:
    order = make_order(mode, length=length, seed=seed)
    position = min(int(where * length), length - 1)
    replacement = order.index(epoch, position, attempt)
    assert 0 <= replacement < length
    assert replacement == order.index(epoch, position, attempt)
    assert (replacement != order.index(epoch, position)) or length == 1


@pytest.mark.parametrize("mode", MODES)
def test_replacements_are_drawn_evenly_from_the_others(mode) -> None:
    order = make_order(mode, length=6, seed=3)
    drawn = np.bincount([order.index(1, 4, attempt) for attempt in range(1, 4001)], minlength=6)
    assert drawn[order.index(1, 4)] == 0
    assert abs(sigmas(np.delete(drawn, order.index(1, 4)), 4)) < 4


@pytest.mark.parametrize("mode", ["shuffle", "random"])
@pytest.mark.parametrize("length", [1000, 5000])
def test_epochs_and_seeds_have_orders_of_their_own(mode, length) -> None:
    orders = [make_order(mode, length=length, seed=seed) for seed in (0, 1, 2, 1 << 63, MAX_WORD)]
    epochs = [order.indices(epoch, 0, length) for order in orders for epoch in (0, 1, 2, MAX_WORD)]
    for first in range(len(epochs)):
        for second in range(first):
            # Two independent orders agree at one position of the epoch, on average.
            assert (epochs[first] == epochs[second]).sum() < 12


def test_epochs_of_nearby_seeds_do_not_coincide() -> None:
    gamma = order_module._GAMMA
    first = make_order("shuffle", length=5000, seed=17)
    second = make_order("shuffle", length=5000, seed=17 + gamma)
    assert not np.array_equal(first.indices(1, 0, 5000), second.indices(0, 0, 5000))


@pytest.mark.parametrize("length", [2, 3, 4, 5])
def test_every_order_of_few_pairs_is_equally_frequent(length) -> None:
    order = make_order("shuffle", length=length, seed=1)
    base = length ** np.arange(length)
    orders = [int(order.indices(epoch, 0, length) @ base) for epoch in range(6000)]
    _, counts = np.unique(orders, return_counts=True)
    assert counts.size == math.factorial(length)
    assert abs(sigmas(counts, counts.size - 1)) < 4


@pytest.mark.parametrize("mode", ["shuffle", "random"])
@pytest.mark.parametrize("length", [2, 3, 5, 10, 97])
def test_a_pair_stands_at_every_position_equally_often(mode, length) -> None:
    order = make_order(mode, length=length, seed=8)
    epochs = np.stack([order.indices(epoch, 0, length) for epoch in range(3000)])
    counts = np.stack([np.bincount(epochs[:, position], minlength=length) for position in range(length)])
    freedom = (length - 1) ** 2 if mode == "shuffle" else length * (length - 1)
    assert abs(sigmas(counts, freedom)) < 4


@pytest.mark.parametrize("length", [1025, 3001])
def test_neighbours_are_as_far_apart_as_by_chance(length) -> None:
    order = make_order("shuffle", length=length, seed=99)
    epochs = np.stack([order.indices(epoch, 0, length) for epoch in range(600)]).astype(np.int64)
    for lag in (1, 2, order._b, 2 * order._b):
        steps = (epochs[:, lag:] - epochs[:, :-lag]) % length
        counts = np.bincount(steps.ravel(), minlength=length)[1:]
        assert abs(sigmas(counts, length - 2)) < 4, lag


def test_random_draws_with_replacement() -> None:
    drawn = make_order("random", length=10_000, seed=1).indices(0, 0, 10_000)
    # An epoch of independent draws leaves 1/e of the pairs out.
    assert abs(1 - np.unique(drawn).size / 10_000 - math.exp(-1)) < 0.02


def test_random_is_even_to_the_last_bit() -> None:
    """Where 32 bits would not do."""
    length = 3 << 30  # with 32-bit draws a third of these could come twice as often as the others
    order = make_order("random", length=length, seed=6)
    drawn = np.concatenate([order.indices(epoch, 0, 100_000) for epoch in range(3)])
    assert abs(sigmas(np.bincount(drawn % 3, minlength=3), 2)) < 4


def test_equal_arguments_give_equal_orders_and_words() -> None:
    assert make_order("shuffle", length=5000, seed=7) == make_order(Mode.SHUFFLE, length=5000, seed=7)
    assert repr(make_order("shuffle", length=5000, seed=7)) == "Shuffle(length=5000, seed=7)"


def test_an_empty_span_is_empty_at_the_end() -> None:
    for mode in MODES:
        assert make_order(mode, length=5000, seed=0).indices(0, 5000, 0).shape == (0,)


@pytest.mark.parametrize(
    ("mode", "length", "seed", "sentence"),
    [
        ("shufle", 5, 0, "the order 'shufle' is unknown; choose one of shuffle, sequential, random"),
        ("shuffle", 0, 0, "an order over 0 pairs"),
        ("shuffle", MAX_LENGTH + 1, 0, "an order over"),
        ("shuffle", 5, -1, "the seed -1 is out of range"),
        ("random", 5, 1 << 64, "the seed 18446744073709551616 is out of range"),
    ],
)
def test_an_impossible_order_is_refused_with_a_sentence(mode, length, seed, sentence) -> None:
    with pytest.raises(ValueError, match=sentence):
        make_order(mode, length=length, seed=seed)


@pytest.mark.parametrize("mode", MODES)
def test_places_outside_the_epoch_are_refused(mode) -> None:
    order = make_order(mode, length=5, seed=0)
    for epoch, position, attempt in [(-1, 0, 0), (1 << 64, 0, 0), (0, -1, 0), (0, 5, 0), (0, 0, -1)]:
        with pytest.raises(ValueError, match=r"out of range|not in an epoch"):
            order.index(epoch, position, attempt)
    for epoch, start, count in [(-1, 0, 1), (0, -1, 1), (0, 0, 6), (0, 5, 1), (0, 3, -1)]:
        with pytest.raises(ValueError, match=r"out of range|not all in an epoch"):
            order.indices(epoch, start, count)
