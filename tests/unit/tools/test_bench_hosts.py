"""What more hosts may cost, what of it is whose, and that a run that does something is no measure of nothing."""

from __future__ import annotations

import json
import os
import subprocess
import types
from dataclasses import asdict

import pytest

from tools import bench_hosts
from tools.bench_hosts import HOSTS, Sample, failures, inventory, is_watched, median, page, sampled, used
from tools.bench_part import BenchError
from tools.bench_ways import Run

NOTHING = "Finished: 0 changed, 0 failed on 8 hosts in 2.0 s\n"


def runs(one, every):
    return {"one": asdict(Sample(one, 3.0, 5.0)), "all": asdict(Sample(every, 6.0, 24.0))}


def result(**more):
    found = {"cores": 2, "emulated": False, "runs": {"site": runs(8.0, 20.0), "deploy": runs(7.0, 21.0)}}
    return {**found, **more}


def test_eight_hosts_may_take_three_times_as_long_as_one_and_no_longer():
    assert failures(result()) == []
    assert "FAIL" not in "\n".join(page(result()))
    slow = result(runs={"site": runs(8.0, 24.1), "deploy": runs(7.0, 21.0)})
    assert failures(slow) == ["8 hosts with nothing to do, `site.yml` : one: 3.01, at most 3"]
    assert "| `site.yml` | 8.0 | 24.1 | 3.01 | 3 | **FAIL** |" in page(slow)


def test_hosts_that_share_emulated_cores_are_not_judged():
    slow = result(runs={"site": runs(8.0, 24.1), "deploy": runs(7.0, 21.0)}, emulated=True)
    assert failures(slow) == []
    assert "| `site.yml` | 8.0 | 24.1 | 3.01 | 3 | not judged |" in page(slow)
    assert "were asked 2 at a time" in "\n".join(page(slow))


def test_the_page_says_whose_the_processors_were():
    text = "\n".join(page(result()))
    assert "in the 20.0 s of `site.yml` with 8 hosts, 2 cores have 40.0 s to give" in text
    assert "Ansible used 6.0 s of them (15%), the machines 24.0 s (60%)" in text
    assert "emulated" not in text
    assert "emulated" in "\n".join(page(result(emulated=True)))


def test_the_median_run_brings_its_own_figures():
    samples = [Sample(seconds, seconds / 2, seconds * 2) for seconds in (9.0, 2.0, 5.0)]
    assert median(samples) == Sample(5.0, 2.5, 10.0)


def test_the_machines_use_processors_while_something_runs(monkeypatch):
    spent = iter([3.0, 4.0, 13.5, 5.0])
    monkeypatch.setattr(bench_hosts, "used", lambda pid: next(spent))
    machines = [types.SimpleNamespace(pid=1), types.SimpleNamespace(pid=2)]
    assert sampled(lambda: Run(8.0, 3.0, NOTHING), machines) == Sample(8.0, 3.0, 11.5)


@pytest.mark.parametrize("output", ["Finished: 1 changed, 0 failed on 8 hosts in 2.0 s\n", "PLAY RECAP\n"])
def test_a_run_that_changes_something_or_does_not_say_is_no_measure(output):
    with pytest.raises(BenchError, match="changed something"):
        sampled(lambda: Run(8.0, 3.0, output), [])


def test_a_processs_seconds_are_the_kernels():
    before = used(os.getpid())
    while used(os.getpid()) < before + 0.05:
        pass
    with pytest.raises(BenchError, match="a machine is gone"):
        used(None)


def test_each_host_has_the_same_app():
    def machine(number):
        about = {"ssh_host": "127.0.0.1", "ssh_port": number, "ssh_user": "admin", "ssh_key": "k", "known_hosts": "h"}
        about["can"] = ["memory"]
        return types.SimpleNamespace(name=f"bench-{number}", describe=lambda: about)

    found = inventory([machine(number) for number in range(1, HOSTS + 1)])["all"]
    assert len({one["ansible_port"] for one in found["hosts"].values()}) == HOSTS
    # Below vars: it would not count, see site_neighbours.
    assert {one["app_source"] for one in found["hosts"].values()} == {"examples/currents"}
    assert set(found) == {"hosts"}
    json.dumps(found)


@pytest.mark.parametrize(("said", "watched"), [("inactive\n", False), ("active\n", True), ("", True)])
def test_a_watch_is_over_when_systemd_says_so(monkeypatch, said, watched):
    done = types.SimpleNamespace(stdout=said)
    monkeypatch.setattr(bench_hosts, "run_remote", lambda *_: done)
    assert is_watched(types.SimpleNamespace(access=lambda: None)) is watched


def test_a_machine_that_does_not_answer_may_be_watched(monkeypatch):
    def late(*_):
        raise subprocess.TimeoutExpired("ssh", 60)

    monkeypatch.setattr(bench_hosts, "run_remote", late)
    assert is_watched(types.SimpleNamespace(access=lambda: None))
