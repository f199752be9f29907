"""The two versions of the cgroup interface as plans, and v2 on a directory that stands in for its file system."""

import os
from pathlib import Path

import pytest

from enclave.sandbox import cgroup
from enclave.sandbox.cgroup import V1, V2, Bounds, Hierarchy, Mounts

BOUNDS = Bounds(memory_bytes=256 * 1024 * 1024, tasks=65, cpus=0.5)


def test_v1_limits() -> None:
    assert V1.limits(BOUNDS) == (
        ("memory", "memory.limit_in_bytes", "268435456"),
        ("memory", "memory.memsw.limit_in_bytes?", "268435456"),
        ("memory", "memory.kmem.tcp.limit_in_bytes?", "67108864"),
        ("pids", "pids.max", "65"),
        ("cpu", "cpu.cfs_quota_us", "50000"),
    )


def test_v2_limits() -> None:
    assert V2.limits(BOUNDS) == (
        ("memory", "memory.max", "268435456"),
        ("memory", "memory.swap.max?", "0"),
        ("memory", "memory.oom.group", "1"),
        ("pids", "pids.max", "65"),
        ("cpu", "cpu.max", "50000 100000"),
    )


V1_MOUNTS = """\
25 24 0:22 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755
26 25 0:23 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid shared:9 - cgroup cgroup rw,cpu,cpuacct
27 25 0:24 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
28 25 0:25 / /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids
29 25 0:26 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw
"""


def test_v1_mounts_are_found_even_when_controllers_share_one() -> None:
    mounts = cgroup.read_mounts(V1_MOUNTS, "0::/\n")

    root = "/sys/fs/cgroup"
    assert mounts == Mounts(
        v1={
            "cpu": f"{root}/cpu,cpuacct",
            "cpuacct": f"{root}/cpu,cpuacct",
            "memory": f"{root}/memory",
            "pids": f"{root}/pids",
        },
        v2=f"{root}/unified",
        own="/",
    )


def test_v2_mount_and_own_group_are_found() -> None:
    line = "30 24 0:27 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"

    mounts = cgroup.read_mounts(line, "0::/user.slice/user-1000.slice/session-3.scope\n")

    assert mounts == Mounts(v1={}, v2="/sys/fs/cgroup", own="/user.slice/user-1000.slice/session-3.scope")


def fake_v2(path: Path) -> Hierarchy:
    return Hierarchy(V2, dict.fromkeys(("memory", "pids", "cpu"), os.open(path, os.O_RDONLY)), "test")


FILES = {
    "memory.max": "",
    "memory.oom.group": "",
    "pids.max": "",
    "cpu.max": "",
    "cgroup.procs": "",
    "cpu.stat": "usage_usec 1500000\nuser_usec 1000000\n",
    "memory.peak": "4096000\n",
    "memory.events": "low 0\nhigh 0\nmax 3\noom 1\noom_kill 1\n",
    "pids.events": "max 0\n",
    "pids.peak": "7\n",
}


@pytest.fixture
def group(tmp_path: Path) -> cgroup.Group:
    (tmp_path / "s1").mkdir()
    for name, text in FILES.items():
        (tmp_path / "s1" / name).write_text(text)
    return cgroup.Group(fake_v2(tmp_path), "s1")


def test_v2_bounds_are_written_and_a_missing_swap_file_is_no_error(group: cgroup.Group, tmp_path: Path) -> None:
    group.bound(BOUNDS)

    written = {name: (tmp_path / "s1" / name).read_text() for name in ("memory.max", "pids.max", "cpu.max")}
    assert written == {"memory.max": "268435456", "pids.max": "65", "cpu.max": "50000 100000"}


def test_a_required_file_that_is_missing_is_an_error(group: cgroup.Group, tmp_path: Path) -> None:
    (tmp_path / "s1" / "pids.max").unlink()

    with pytest.raises(FileNotFoundError):
        group.bound(BOUNDS)


def test_v2_account(group: cgroup.Group) -> None:
    assert group.account() == cgroup.Account(
        cpu_seconds=1.5, peak_memory_bytes=4096000, peak_tasks=7, out_of_memory=True, out_of_tasks=False
    )


def test_only_what_changes_is_written_again(group: cgroup.Group, tmp_path: Path) -> None:
    group.bound(BOUNDS)
    (tmp_path / "s1" / "pids.max").write_text("untouched")

    group.bound(Bounds(BOUNDS.memory_bytes * 2, BOUNDS.tasks, BOUNDS.cpus))

    assert (tmp_path / "s1" / "pids.max").read_text() == "untouched"
    assert (tmp_path / "s1" / "memory.max").read_text() == str(BOUNDS.memory_bytes * 2)


def test_what_dead_launchers_left_is_removed_and_the_living_stay(tmp_path: Path) -> None:
    for instance in ("1-dead", "2-alive"):
        (tmp_path / "enclave" / instance / "s1").mkdir(parents=True)

    assert cgroup.remove_instances(Mounts({}, str(tmp_path), "/"), unless=lambda name: name.endswith("alive"))

    assert [path.name for path in (tmp_path / "enclave").iterdir()] == ["2-alive"]


def test_a_delegated_group_is_vacated_into_a_leaf(tmp_path: Path) -> None:
    (tmp_path / "cgroup.procs").write_text("11\n12\n")

    cgroup.vacate(str(tmp_path))

    assert (tmp_path / "enclave-server" / "cgroup.procs").read_text() == "11\n12\n"
