"""As many workers as this process has cores for: its CPU set and its control groups count, not the machine."""

import os

import pytest

from ringfeedd.config import Config, resolve
from ringfeedd.system.cpu import usable_cores


@pytest.fixture
def tree(tmp_path):
    """A tree of control groups, in which this process is in ``a/b``."""
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "self").write_text("0::/a/b\n")
    return tmp_path


@pytest.fixture(autouse=True)
def _sixteen_cores(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(16)))


def cores(tree):
    return usable_cores(tree, tree / "self")


@pytest.mark.parametrize(
    ("quotas", "expected"),
    [
        ({}, 16),
        ({"a/b": "max 100000"}, 16),
        ({"a/b": "400000 100000"}, 4),
        ({"a/b": "250000 100000"}, 3),
        ({"a/b": "10000 100000"}, 1),
        ({"a": "200000 100000", "a/b": "400000 100000"}, 2),
        ({"": "800000 100000", "a/b": "max 100000"}, 8),
        ({"a/b": "9900000 100000"}, 16),
        ({"a/b": "nonsense"}, 16),
    ],
)
def test_quotas_of_all_enclosing_groups_count(tree, quotas, expected):
    for group, quota in quotas.items():
        (tree / group / "cpu.max").write_text(quota)
    assert cores(tree) == expected


@pytest.mark.parametrize("membership", [None, "", "12:cpu:/a\n", "0::/../outside\n", "0::/gone\n"])
def test_without_a_control_group_the_cpu_set_counts(tree, membership):
    (tree / "self").unlink()
    if membership is not None:
        (tree / "self").write_text(membership)
    assert cores(tree) == 16


def test_auto_hides_a_far_store_by_downloads():
    """It gives each worker enough downloads."""

    def downloads(**settings):
        return resolve(Config(root="gs://b", **settings), cores=16, environ={}).downloads

    assert resolve(Config(root="gs://b"), cores=16, environ={}).workers == 16
    assert downloads() == 2048
    assert downloads(workers=1) == 128
    assert downloads(workers=100) == 4096
    assert downloads(workers=3, concurrency=7) == 7
