"""A dataset's resume point alone: what its states say while readers come and go."""

from __future__ import annotations

import pickle

import pytest

from ringfeed.errors import StateMismatchError
from ringfeed.reader.state import ResumeState
from ringfeed.torch.resume import ResumePoint


def state(epoch: int, position: int = 0) -> dict:
    return ResumeState(
        split="train",
        fingerprint="f" * 32,
        seed=0,
        order="shuffle",
        epoch=epoch,
        position=position,
        world_size=1,
        batch_size=4,
        drop_last=True,
    ).to_dict()


def test_a_new_dataset_has_no_place():
    point = ResumePoint("auto")
    assert point.without_reader() is None
    assert point.beginning.start == "auto"


def test_a_closed_dataset_stands_where_its_reader_did():
    point = ResumePoint("auto")
    point.detached(state(3, 8))
    assert point.without_reader() == state(3, 8)
    assert point.tells(reader_is_closed=True)
    point.attached()
    assert point.without_reader() is None


def test_what_is_chosen_later_stands_before_it():
    point = ResumePoint("auto")
    point.detached(state(3, 8))
    assert point.choose_epoch(5) == 5
    assert point.without_reader() is None
    assert not point.tells(reader_is_closed=True)
    assert point.tells(reader_is_closed=False)
    point.beginning.forget()
    assert point.load(state(2, 4), strict=True) == state(2, 4)
    assert point.without_reader() is None
    assert point.beginning.at == state(2, 4)


def test_silent_workers_leave_no_place():
    point = ResumePoint("auto")
    point.left_to_workers()
    with pytest.raises(RuntimeError, match="does not know where they stand"):
        point.without_reader()
    point.load(state(1), strict=True)
    point.beginning.forget()
    assert point.without_reader() is None


def test_no_state_changes_nothing():
    point = ResumePoint("auto")
    with pytest.raises(StateMismatchError):
        point.load({"epoch": 1}, strict=True)
    assert not point.beginning.chosen


def test_workers_begin_after_what_was_read():
    point = ResumePoint("auto")
    point.detached(state(3, 8))
    point.go_on_in_workers(has_read=True, looked_at=None)
    assert point.beginning.at == state(4, 0)


@pytest.mark.parametrize("has_read", [False, True])
def test_workers_begin_where_a_look_was_taken(has_read):
    point = ResumePoint("auto")
    point.detached(state(3, 8))
    point.go_on_in_workers(has_read=has_read, looked_at=state(3, 0))
    assert point.beginning.at == state(3, 0)
    assert point.beginning.goes_on


def test_workers_begin_at_a_chosen_place():
    point = ResumePoint("auto")
    point.load(state(7, 4), strict=True)
    point.go_on_in_workers(has_read=True, looked_at=state(3, 0))
    assert point.beginning.at == state(7, 4)


def test_a_workers_state_says_whether_its_pass_ended():
    point = ResumePoint("auto")
    assert point.of_reader(state(3)) == state(3)
    assert not point.begin_pass(3)
    assert point.of_reader(state(3, 8)) == {**state(3, 8), "ended": False}
    ended = point.of_reader(state(4))
    assert ended == {**state(4), "ended": True}
    following = ResumePoint("auto")
    following.load(ended, strict=True)
    assert following.begin_pass(4)
    assert following.of_reader(state(4))["ended"]
    assert not following.begin_pass(4)  # that of the workers which follow


def test_another_process_is_sent_the_readers_place():
    point = ResumePoint("auto")
    sent = pickle.loads(pickle.dumps(point.sent(state(2, 4))))
    assert sent.without_reader() == state(2, 4)
    assert point.without_reader() is None
