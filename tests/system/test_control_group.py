"""What the control groups leave of the memory: of both versions, nested, in containers; the tightest counts."""

from __future__ import annotations

import pytest

from ringfeedd.system.control_group import memory_of_group

GIB = 1 << 30
V1_NONE = 0x7FFFFFFFFFFFF000


class Machine:
    """Control groups in a folder that stands for ``/``."""

    def __init__(self, top):
        self.top, self.groups, self.mounts = top, [], ["31 23 0:28 / /sys rw - sysfs sysfs rw"]

    def version_2(self, path, *, mount="sys/fs/cgroup", root="/", **groups):
        self.groups.append(f"0::{path}")
        self.mounts.append(f"41 31 0:38 {root} /{mount} rw,relatime shared:9 - cgroup2 cgroup2 rw,nsdelegate")
        self._write(mount, "memory.max", "memory.current", "file", groups)

    def version_1(self, path, *, mount="sys/fs/cgroup/memory", root="/", **groups):
        self.groups += ["9:name=systemd:/", f"4:cpu,memory:{path}"]
        self.mounts.append(f"35 31 0:32 {root} /{mount} rw - cgroup cgroup rw,cpu,memory")
        self._write(mount, "memory.limit_in_bytes", "memory.usage_in_bytes", "total_cache", groups)

    def _write(self, mount, limit, used, cache, groups):
        """Groups by their path: limit, bytes used, of these cached, of these in /dev/shm."""
        for path, (most, now, *caches) in groups.items():
            folder = self.top / mount / path.replace("_", "/").strip("/")
            folder.mkdir(parents=True, exist_ok=True)
            (folder / limit).write_text(f"{most}\n")
            (folder / used).write_text(f"{now}\n")
            cached, shared = (*caches, 0, 0)[:2]
            shmem = "shmem" if cache == "file" else "total_shmem"
            (folder / "memory.stat").write_text(f"anon 5\n{cache} {cached}\n{shmem} {shared}\n")

    def memory(self):
        (self.top / "membership").write_text("\n".join(self.groups) + "\n")
        (self.top / "mounts").write_text("\n".join(self.mounts) + "\n")
        return memory_of_group(self.top / "membership", self.top / "mounts", self.top)


@pytest.fixture
def machine(tmp_path):
    return Machine(tmp_path)


def test_a_groups_limit_and_what_is_left(machine):
    machine.version_2("/a/b", a_b=(4 * GIB, GIB))
    memory = machine.memory()
    assert (memory.name, memory.setting, memory.limit, memory.left) == ("/a/b", "memory.max", 4 * GIB, 3 * GIB)
    assert "may use 4096 MiB (memory.max), of which 3072 MiB are left" in str(memory)


def test_the_group_that_leaves_the_least_counts(machine):
    machine.version_2("/a/b/c", a_b_c=("max", 5), a_b=(8 * GIB, GIB), a=(4 * GIB, 2 * GIB))
    assert (machine.memory().name, machine.memory().left) == ("/a", 2 * GIB)


def test_cached_files_are_reclaimable_and_shared_memory_not(machine):
    machine.version_2("/a", a=(4 * GIB, 3 * GIB, 2 * GIB, GIB))
    assert machine.memory().left == 2 * GIB


def test_a_group_over_its_limit_leaves_nothing(machine):
    machine.version_2("/a", a=(GIB, 2 * GIB))
    assert machine.memory().left == 0


def test_version_1_counts_as_well(machine):
    machine.version_1("/docker/x", docker_x=(4 * GIB, GIB, GIB, GIB // 2), docker=(V1_NONE, 7 * GIB))
    memory = machine.memory()
    assert (memory.name, memory.setting) == ("/docker/x", "memory.limit_in_bytes")
    assert memory.left == 3 * GIB + GIB // 2


def test_both_versions_at_once(machine):
    machine.version_1("/v1", v1=(4 * GIB, GIB))
    machine.version_2("/v2", mount="sys/fs/cgroup/unified", v2=("max", 1))
    assert machine.memory().limit == 4 * GIB


@pytest.mark.parametrize(("path", "root"), [("/", "/"), ("/docker/x", "/docker/x"), ("/../../outside", "/")])
def test_a_container_finds_its_group_at_the_top(machine, path, root):
    machine.version_2(path, root=root, _=(2 * GIB, GIB))
    assert machine.memory().left == GIB
    machine.mounts.pop()
    machine.groups.pop()
    machine.version_1(path, root=root, _=(2 * GIB, GIB // 2))
    assert machine.memory().limit == 2 * GIB


def test_a_group_below_a_mounted_one(machine):
    machine.version_2("/pod/x/inner", root="/pod/x", inner=(2 * GIB, GIB), _=(3 * GIB, 2 * GIB + 5))
    assert machine.memory().left == GIB - 5


def test_without_a_limit_there_is_none(machine):
    assert machine.memory() is None
    machine.version_2("/a", a=("max", GIB))
    machine.version_1("/b", b=(V1_NONE, GIB))
    assert machine.memory() is None


@pytest.mark.parametrize(
    ("groups", "mounts"),
    [
        ("", ""),
        ("nonsense\n::\n0::/a\n4:memory\n", "nonsense\n1 2 - \n1 2 3 4 - cgroup2\n - cgroup cgroup\n"),
        ("0::/gone\n", "41 31 0:38 / /nowhere rw - cgroup2 cgroup2 rw\n"),
    ],
)
def test_what_cannot_be_understood_limits_nothing(tmp_path, groups, mounts):
    (tmp_path / "g").write_text(groups)
    (tmp_path / "m").write_text(mounts)
    assert memory_of_group(tmp_path / "g", tmp_path / "m", tmp_path) is None
    assert memory_of_group(tmp_path / "none", tmp_path / "none", tmp_path) is None


def test_this_machine_can_be_asked():
    memory = memory_of_group()
    assert memory is None or memory.limit > 0
