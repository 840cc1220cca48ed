"""What the kernel says, read from a tree of files like the kernel's."""

from __future__ import annotations

import os

import pytest

from sitekeeper import cgroup


@pytest.fixture
def proc(tmp_path):
    """A /proc of three processes: 100, its child 101 in the same process group, and a stranger."""
    root = tmp_path / "proc"
    for pid, leader, name in ((100, 100, "gunicorn"), (101, 100, "a) R 1 (b"), (200, 200, "other")):
        (root / str(pid)).mkdir(parents=True)
        (root / str(pid) / "stat").write_text(f"{pid} ({name}) S 1 {leader} {leader} 0 -1\n")
        (root / str(pid) / "statm").write_text(f"5000 {pid} 40 1 0 90 0\n")
    (root / "self").mkdir()
    return root


@pytest.fixture
def group(tmp_path):
    path = tmp_path / "cgroup/system.slice/currents.service"
    path.mkdir(parents=True)
    (path / "memory.current").write_text("1000\n")
    (path / "cgroup.procs").write_text("100\n101\n")
    return path


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("0::/system.slice/currents.service\n", True),
        ("4:memory:/x\n0::/system.slice/currents.service\n", True),
        ("0::/elsewhere\n", False),
        ("4:memory:/system.slice/currents.service\n", False),
        ("", False),
    ],
)
def test_the_own_group_is_the_one_of_version_2(tmp_path, proc, group, text, found):
    (proc / "self/cgroup").write_text(text)
    assert cgroup.own_group(proc, tmp_path / "cgroup") == (group if found else None)


def test_a_group_without_the_memory_controller_has_its_processes_and_the_limit_of_the_settings(tmp_path, proc, group):
    (proc / "self/cgroup").write_text("0::/system.slice/currents.service\n")
    (group / "memory.current").unlink()
    assert cgroup.own_group(proc, tmp_path / "cgroup") == group
    assert cgroup.pids(group) == [100, 101]
    assert cgroup.limit(group, 700) == 700


def test_without_a_list_of_groups_there_is_none(tmp_path, proc):
    assert cgroup.own_group(proc, tmp_path / "cgroup") is None


@pytest.mark.parametrize(("text", "value"), [("42\n", 42), ("max\n", None), ("", None), ("-1\n", None)])
def test_a_number_is_a_number_and_max_is_none(group, text, value):
    (group / "memory.high").write_text(text)
    assert cgroup.number(group / "memory.high") == value
    assert cgroup.number(group / "absent") is None


def test_a_table_is_names_with_numbers_and_nothing_else(group):
    (group / "memory.events").write_text("low 0\nhigh 12\nodd\nbad x\nthree 1 2\n")
    assert cgroup.table(group / "memory.events") == {"low": 0, "high": 12}
    assert cgroup.table(group / "absent") == {}


@pytest.mark.parametrize(
    ("high", "most", "limit"),
    [("800", "1000", 800), ("max", "1000", 1000), ("1200", "1000", 1000), ("max", "max", None), (None, None, None)],
)
def test_the_limit_is_the_lower_of_both(group, high, most, limit):
    for name, text in (("memory.high", high), ("memory.max", most)):
        if text is not None:
            (group / name).write_text(text)
    assert cgroup.limit(group, 700) == limit, "the kernel's word counts, not the settings'"


def test_where_there_is_no_group_there_is_the_limit_of_the_settings_and_no_process():
    assert cgroup.limit(None, 700) == 700
    assert cgroup.pids(None) == []


def test_memory_in_use_is_pages_and_0_for_a_process_that_is_gone(proc):
    assert cgroup.rss(100, proc) == 100 * cgroup.PAGE
    assert cgroup.rss(999, proc) == 0
    (proc / "100/statm").write_text("")
    assert cgroup.rss(100, proc) == 0


def test_memory_of_this_process_is_what_it_has():
    assert 2**20 < cgroup.rss("self") == pytest.approx(cgroup.rss(os.getpid()), rel=0.2)


def test_shared_memory_counts_in_parts_where_the_kernel_says_so(proc):
    (proc / "100/smaps_rollup").write_text("00400000-7fff ---p 00000000 00:00 0 [rollup]\nRss: 900 kB\nPss: 300 kB\n")
    assert cgroup.pss(100, proc) == 300 * 1024
    assert cgroup.pss(101, proc) is None
    (proc / "101/smaps_rollup").write_text("Rss: 900 kB\n")
    assert cgroup.pss(101, proc) is None


def test_a_process_group_is_read_behind_any_name(proc):
    assert [cgroup.process_group(pid, proc) for pid in (100, 101, 200, 999)] == [100, 100, 200, None]


def test_children_are_the_others_of_the_worker_s_process_group(proc, group):
    (group / "cgroup.procs").write_text("100\n101\n200\n999\n")
    assert cgroup.pids(group) == [100, 101, 200, 999]
    assert cgroup.children_of(100, cgroup.pids(group), proc) == [101]
    (group / "cgroup.procs").unlink()
    assert cgroup.pids(group) == []
