"""The window of downloads: it grows to what the store's latency wants, and no further than that helps."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ringfeedd.download_window import HOLD_S, DownloadWindow, Drought

LOOK_S = 0.5
LOOKS = 40


def settled(window: DownloadWindow, *, latency_s: float, decodes: float, network: float = 1e9) -> float:
    """Let a worker run that decodes so many pairs a second from such a store; its rate in the end, pairs a second."""
    rate = 0.0
    for number in range(LOOKS):
        rate = min(window.size / latency_s, decodes, network)
        window.look(number * LOOK_S, pairs=rate, starved=1 - rate / decodes)
    return rate


@pytest.mark.parametrize("latency_s", [0.001, 0.05, 0.1, 0.25, 0.5])
def test_the_decoder_waits_for_no_store_that_is_within_half_a_second(latency_s):
    window = DownloadWindow(64, 256)
    assert settled(window, latency_s=latency_s, decodes=450) >= 0.9 * 450


@pytest.mark.parametrize(("latency_s", "size"), [(0.01, 64), (0.1, 64), (0.25, 128), (1.0, 256), (10.0, 256)])
def test_it_is_no_larger_than_that_wants(latency_s, size):
    window = DownloadWindow(64, 256)
    settled(window, latency_s=latency_s, decodes=450)
    assert window.size == size


def test_a_network_that_is_full_gets_no_more_connections_and_is_tried_again_later():
    window = DownloadWindow(64, 256)
    settled(window, latency_s=0.1, decodes=450, network=200)
    assert window.size == 64
    window.look(HOLD_S - 1, pairs=200, starved=0.5)
    assert window.size == 64
    window.look(HOLD_S + 2, pairs=200, starved=0.5)
    assert window.size == 128


def test_a_decoder_that_is_busy_or_waits_for_room_leaves_it_as_it_is():
    window = DownloadWindow(64, 256)
    for number in range(100):
        window.look(number * LOOK_S, pairs=450, starved=0.05)
    assert window.size == 64


def test_a_store_that_is_down_is_not_asked_for_more():
    window = DownloadWindow(64, 256)
    for number in range(100):
        window.look(number * LOOK_S, pairs=0, starved=1)
    assert window.size == 64


def test_a_window_that_grew_is_not_taken_back_because_less_is_wanted():
    window = DownloadWindow(64, 256)
    window.look(0.0, pairs=256, starved=0.4)
    for number in range(1, 10):
        window.look(number * LOOK_S, pairs=20, starved=0.0)
    assert window.size == 128


def test_a_drought_is_counted_in_the_while_in_which_it_was():
    drought = Drought(10.0)
    drought.begin(10.5)
    drought.end(10.75)
    drought.end(10.8)
    assert drought.look(11.0) == (1.0, 0.25)
    drought.begin(11.5)
    assert drought.look(12.0) == (1.0, 0.5)
    drought.end(12.25)
    assert drought.look(13.0) == (1.0, 0.25)
    assert drought.look(13.0) == (0.0, 0.0)


@given(st.lists(st.tuples(st.floats(0, 1e6), st.floats(0, 1)), max_size=60), st.integers(1, 300), st.integers(0, 300))
def test_whatever_is_seen_it_stays_between_its_beginning_and_its_most(looks, size, more):
    window = DownloadWindow(size, size + more)
    for number, (pairs, starved) in enumerate(looks):
        window.look(number * 100.0, pairs=pairs, starved=starved)
        assert size <= window.size <= size + more
