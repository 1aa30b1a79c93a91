"""When a store that sends nothing counts as silent."""

from __future__ import annotations

import pytest

from ringfeedd.fetch.silence import SILENT_MEDIANS, SILENT_S, Silence


@pytest.mark.parametrize(
    ("usual_s", "silences", "after_s"),
    [(0.01, 0, SILENT_S), (2.0, 3, 2.0 * SILENT_MEDIANS), (None, 0, SILENT_S), (None, 2, 20.0), (None, 9, 60.0)],
)
def test_a_slow_store_may_be_silent_for_longer(usual_s, silences, after_s):
    """As long as it has not answered, each silence is followed by more patience, up to the timeout of a request."""
    silence = Silence(100.0)
    silence.count = silences
    assert silence.after_s(usual_s, 60.0) == after_s


def test_bytes_that_come_break_the_silence():
    silence = Silence(100.0)
    assert not silence.lasts(104.9, 5.0, received=0)
    assert silence.lasts(105.0, 5.0, received=0)
    assert not silence.lasts(106.0, 5.0, received=70)
    assert not silence.lasts(110.9, 5.0, received=70)
    assert silence.lasts(111.0, 5.0, received=70)


def test_an_answer_breaks_the_silence():
    silence = Silence(100.0)
    silence.broken(103.0)
    assert not silence.lasts(107.0, 5.0, received=0)
    assert silence.since == 103.0
