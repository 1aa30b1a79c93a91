"""The circuit: what closes it, what opens it, and that it neither hangs nor storms."""

from __future__ import annotations

import random
from itertools import pairwise

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from ringfeedd.circuit import (
    FAILURES_TO_DOUBT,
    FIRST_PROBE_S,
    FULL_PERMITS,
    MAX_PROBE_S,
    Circuit,
    CircuitState,
)


def opened(now=100.0, seed=0):
    circuit = Circuit(random.Random(seed))
    circuit.answered(now - 50)
    for _ in range(FAILURES_TO_DOUBT):
        circuit.failed(now, began=now)
    circuit.probe_failed(now)
    return circuit


def test_a_run_of_failures_is_a_doubt_which_is_asked_about_at_once():
    circuit = Circuit()
    for number in range(FAILURES_TO_DOUBT):
        assert circuit.state is CircuitState.CLOSED
        assert circuit.may_begin(10**6)
        circuit.failed(10.0 + number, began=10.0)
    assert circuit.state is CircuitState.DOUBTED
    assert not circuit.may_begin(0)
    assert circuit.probe_wait_s(14.0) == 0.0
    assert (circuit.outages, circuit.openings) == (0, 0)


def test_one_answer_in_between_and_there_is_no_doubt():
    circuit = Circuit()
    for _ in range(100):
        for _ in range(FAILURES_TO_DOUBT - 1):
            circuit.failed(1.0, began=1.0)
        circuit.answered(1.0)
    assert circuit.state is CircuitState.CLOSED


def test_a_doubt_that_an_answer_settles_is_no_outage():
    circuit = Circuit()
    circuit.doubt(5.0)
    circuit.answered(6.0)
    assert circuit.state is CircuitState.CLOSED
    assert (circuit.outages, circuit.openings) == (0, 0)
    assert circuit.statistics().failing_since is None


def test_a_store_that_answers_no_probe_is_down_and_asked_less_and_less_often():
    circuit, now, probes = opened(), 100.0, []
    while now < 100 + 3600:
        now += circuit.probe_wait_s(now)
        probes.append(now)
        circuit.probe_failed(now)
    gaps = [after - before for before, after in pairwise(probes)]
    assert probes[0] - 100.0 <= FIRST_PROBE_S
    assert max(gaps) <= MAX_PROBE_S
    assert len(probes) < 3600 / (MAX_PROBE_S / 2) + 10
    assert circuit.statistics().failing_since == 100.0
    assert (circuit.outages, circuit.openings) == (1, 1)


def test_a_store_that_comes_back_is_given_a_few_requests_and_more_with_each_answer():
    circuit = opened()
    circuit.answered(200.0)
    assert circuit.state is CircuitState.HALF_OPEN
    permitted = []
    while circuit.state is CircuitState.HALF_OPEN:
        permitted.append(next(n for n in range(1000) if not circuit.may_begin(n)))
        circuit.answered(201.0)
    assert permitted == list(range(2, FULL_PERMITS))
    assert circuit.state is CircuitState.CLOSED
    assert circuit.statistics().failing_since is None


def test_requests_that_hung_since_before_it_came_back_do_not_take_it_down_again():
    circuit = opened()
    circuit.answered(200.0)
    for _ in range(50):
        circuit.failed(210.0, began=190.0)
    assert circuit.state is CircuitState.HALF_OPEN
    for _ in range(2):
        circuit.failed(210.0, began=205.0)
    assert circuit.state is CircuitState.OPEN
    assert (circuit.outages, circuit.openings) == (1, 2)


def test_a_store_that_says_when_to_come_back_is_not_asked_before():
    circuit = Circuit()
    for _ in range(FAILURES_TO_DOUBT):
        circuit.failed(10.0, began=9.0, retry_after_s=60.0)
    assert circuit.state is CircuitState.OPEN
    assert circuit.probe_wait_s(10.0) == 60.0
    circuit.failed(20.0, began=9.0, retry_after_s=90.0)
    assert circuit.probe_wait_s(20.0) == 90.0


def test_when_all_that_waited_is_done_the_store_is_back():
    circuit = opened()
    circuit.settle()
    assert circuit.state is CircuitState.OPEN
    circuit.answered(200.0)
    circuit.settle()
    assert circuit.state is CircuitState.CLOSED


class AnyOrderOfEvents(RuleBasedStateMachine):
    """Whatever happens: it lets nothing out while it is open, it always wants a probe then, and an answer helps."""

    @initialize(seed=st.integers(0, 100))
    def begin(self, seed):
        self.circuit, self.now = Circuit(random.Random(seed)), 1000.0

    @rule(seconds=st.floats(0, 100))
    def wait(self, seconds):
        self.now += seconds

    @rule(age=st.floats(0, 50), retry_after_s=st.none() | st.floats(0, 100))
    def fail(self, age, retry_after_s):
        self.circuit.failed(self.now, began=self.now - age, retry_after_s=retry_after_s)

    @rule()
    def doubt(self):
        self.circuit.doubt(self.now)

    @rule()
    def settle(self):
        self.circuit.settle()

    @precondition(lambda self: self.circuit.probe_wait_s(self.now) is not None)
    @rule(retry_after_s=st.none() | st.floats(0, 100))
    def fail_a_probe(self, retry_after_s):
        self.now += self.circuit.probe_wait_s(self.now)
        self.circuit.probe_failed(self.now, retry_after_s)
        assert self.circuit.state is CircuitState.OPEN
        assert self.circuit.probe_wait_s(self.now) > 0

    @rule()
    def answer(self):
        self.circuit.answered(self.now)
        assert self.circuit.state in (CircuitState.CLOSED, CircuitState.HALF_OPEN)
        assert self.circuit.may_begin(0)

    @invariant()
    def somebody_can_go_on(self):
        circuit = self.circuit
        assert circuit.may_begin(0) != (circuit.probe_wait_s(self.now) is not None)
        assert circuit.probe_wait_s(self.now) is None or circuit.probe_wait_s(self.now) <= MAX_PROBE_S + 100
        statistics = circuit.statistics()
        assert (statistics.failing_since is None) == (circuit.state is CircuitState.CLOSED)
        assert circuit.outages <= circuit.openings


AnyOrderOfEvents.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestAnyOrderOfEvents = AnyOrderOfEvents.TestCase
