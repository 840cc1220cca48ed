"""What a deploy may cost, how the ways to deploy are run, and what is read from their output."""

from __future__ import annotations

import contextlib
import http.server
import json
import os
import subprocess
import sys
import threading
import types
from pathlib import Path

import pytest
import yaml

from plugins.module_utils.run_report import table as phase_table
from tests.polling import PATIENCE_SECONDS
from tools import bench_deploy, bench_ways
from tools.bench_deploy import PROMISES, STREAK, answered, failures, medians, page, phases_of
from tools.bench_part import BenchError
from tools.bench_ways import PORTS, WAYS, Run, changed, cold, copied, mark, phases, timed, unit_of
from tools.load import Load

GOOD = {
    "machine": "a machine",
    "emulated": False,
    "seconds": {
        "first": 240.0,
        "ping": 4.0,
        "deploy": 9.0,
        "site": 20.0,
        "redeploy": 60.0,
        "script": 25.0,
        "ansistrano": 130.0,
    },
    "answered_seconds": {"redeploy": 60.5, "script": 32.0, "ansistrano": 130.25},
    "phases": {"redeploy": {"app": 20.0, "release": 30.0}, "deploy": {"app": 2.0}},
    "streak": {
        "kept": {"ok": 900},
        "new": {"ok": 901},
        "inside": {"ok": 99},
        "longest_wait_seconds": 6.0,
        "median_wait_seconds": 0.02,
        "releases": [f"code-{number}" for number in range(STREAK + 1)],
        "deploy_seconds": [61.0, 63.0, 62.0],
    },
}


def result(**changes):
    return {**GOOD, **changes}


def seconds(**changes):
    return result(seconds={**GOOD["seconds"], **changes})


def streak(**changes):
    return result(streak={**GOOD["streak"], **changes})


def test_good_figures_are_as_promised():
    assert failures(GOOD) == []
    assert "FAIL" not in "\n".join(page(GOOD))


@pytest.mark.parametrize(
    ("slow", "words"),
    [
        ({"redeploy": 76.0, "ansistrano": 200.0}, "a script that checks nothing: 3.04, at most 3"),
        ({"redeploy": 66.0}, "Ansistrano's steps: 0.51, at most 0.5"),
        ({"deploy": 10.1}, "`deploy.yml` : a ping: 2.52, at most 2.5"),
        ({"site": 24.4}, "`site.yml` : a ping: 6.10, at most 6"),
        ({"first": 79.0}, "first : with nothing to do: 3.95, at least 4"),
    ],
)
def test_each_ratio_is_bound(slow, words):
    found = failures(seconds(**slow))
    assert len(found) == 1
    assert words in found[0]
    assert "**FAIL**" in "\n".join(page(seconds(**slow)))


def test_a_bound_may_be_reached():
    reached = seconds(redeploy=60.0, script=20.0, ansistrano=120.0, deploy=10.0, site=24.0, first=96.0)
    assert failures(reached) == []


@pytest.mark.parametrize("where", ["kept", "new", "inside"])
@pytest.mark.parametrize("outcome", ["refused", "stale", "error_status", "timeout"])
def test_a_single_bad_answer_under_deploys_breaks_the_promise(where, outcome):
    bad = streak(**{where: {"ok": 900, outcome: 1}})
    assert failures(bad) == [f"{STREAK} deploys under load: 1 {outcome}"]
    assert f"**1 {outcome}**" in "\n".join(page(bad))


def test_each_deploy_has_to_be_seen_from_outside():
    releases = [*GOOD["streak"]["releases"][:-1], "code-3"]
    assert failures(streak(releases=releases)) == [f"{STREAK} deploys under load: visitors saw 9 new releases"]


def test_the_page_shows_phases_side_by_side_and_says_where_the_processor_is_emulated():
    lines = page(GOOD)
    assert "| app | 20.0 | 2.0 |" in lines
    assert "| release | 30.0 | - |" in lines
    assert "emulated" not in "\n".join(lines)
    assert "emulated" in "\n".join(page(result(emulated=True)))


def test_the_median_counts_and_brings_its_phases():
    runs = [Run(seconds, 0.0, table_of(seconds)) for seconds in (9.0, 2.0, 5.0)]
    assert medians({"playbook": runs}) == {"playbook": 5.0}
    assert phases_of(runs) == {"app": 5.0, "Check the hosts": 1.5}


def test_the_page_says_when_each_way_had_the_app_answering():
    runs = [Run(1.0, 0.0, "", answered_seconds=seconds) for seconds in (9.0, 2.0, 5.0)]
    assert answered({"script": runs}) == {"script": 5.0}
    words = "`deploy.yml` after 60.5 s, the script after 32.0 s, Ansistrano's steps after 130.2 s."
    assert f"- Until what was deployed answered a visitor: {words}" in page(GOOD)


def test_a_deploy_is_over_when_the_app_answers(monkeypatch, tmp_path):
    clock = iter([100.0, 107.5])
    monkeypatch.setattr(bench_ways.time, "monotonic", lambda: next(clock))
    (tmp_path / "currents").mkdir()
    (tmp_path / "currents" / "site.py").write_text("")
    deploys = bench_ways.Deploys(None, types.SimpleNamespace(wait_well=lambda: None), tmp_path)
    deploys.play = lambda: Run(5.0, 1.0, "Finished: 4 changed, 0 failed on 1 host in 4.0 s\n")
    assert deploys.deploy("playbook") == Run(5.0, 1.0, deploys.play().output, answered_seconds=7.5)


def table_of(seconds):
    rows = [("Phase", "time", "changed", "failed"), ("app", f"{seconds} s", 3, 0), ("Check the hosts", "1.5 s", 0, 0)]
    lines = ["app    5.0 s  5 ok", "", *phase_table(rows, right=(1, 2, 3)), "", "Restarted: nothing"]
    return "\n".join(lines) + "\n"


def test_no_table_has_no_phases():
    assert phases("ok: [host]\n") == {}


def test_what_a_run_says_it_changed():
    assert changed("\nFinished: 4 changed, 0 failed on 1 host in 9.0 s\n") == 4
    assert changed("PLAY RECAP\n") is None


@pytest.fixture
def deploys():
    return types.SimpleNamespace(
        play=lambda playbook: Run(3.0, 1.0, "Finished: 0 changed, 0 failed on 1 host in 2.0 s\n"), deployed=[]
    )


def test_what_has_nothing_to_do_is_run_in_turns(deploys):
    runs = bench_deploy.idle_runs(deploys)
    assert {name: len(some) for name, some in runs.items()} == {"ping": 3, "deploy": 3, "site": 3}


def test_a_run_that_does_something_is_no_measure_of_nothing(deploys):
    deploys.play = lambda playbook: Run(3.0, 1.0, "Finished: 1 changed, 0 failed on 1 host in 2.0 s\n")
    with pytest.raises(BenchError, match="changed something"):
        bench_deploy.idle_runs(deploys)


def test_the_first_deploys_of_the_rivals_do_not_count(deploys):
    done = []

    def deploy(way):
        done.append(way)
        return Run(float(len(done)), 0.0, "")

    deploys.deploy, deploys.wait_unwatched = deploy, lambda: done.append("unwatched")
    runs = bench_deploy.redeploys(deploys)
    assert done == ["script", "ansistrano", *["script", "ansistrano", "playbook", "unwatched"] * 3]
    assert [run.seconds for run in runs["script"]] == [3.0, 7.0, 11.0]


def test_a_command_is_timed_and_its_output_is_kept(capfd):
    run = timed([sys.executable, "-c", "import os; print(os.environ['WORD'])"], {"WORD": "word"})
    assert run.output == "word\n"
    assert run.seconds > 0
    assert run.cpu_seconds > 0
    assert capfd.readouterr().err == "word\n"


def test_a_command_that_fails_ends_the_measurement():
    with pytest.raises(BenchError, match="status 3 of"):
        timed([sys.executable, "-c", "raise SystemExit(3)"], {})


def test_each_run_has_a_place_of_its_own_for_connections(tmp_path):
    with cold() as first, cold() as second:
        assert first["ANSIBLE_SSH_CONTROL_PATH_DIR"] != second["ANSIBLE_SSH_CONTROL_PATH_DIR"]
        assert len(first["ANSIBLE_SSH_CONTROL_PATH_DIR"]) < 60, "the path of a socket may have 104 bytes"


def test_a_change_is_one_line_of_the_app_and_the_code_still_runs(tmp_path):
    code = copied(bench_ways.ROOT / "examples" / "currents", tmp_path / "code")
    page_of = code / "currents" / "site.py"
    before = page_of.read_text().splitlines()
    for number in (1, 2):
        mark(code, number)
        assert page_of.read_text().splitlines() == [*before, f"REVISION = {number}"]
    compile(page_of.read_text(), str(page_of), "exec")
    assert not list(code.rglob("__pycache__"))


@pytest.mark.parametrize("name", PORTS)
def test_a_rival_runs_plain_gunicorn_from_its_own_place(name):
    unit = unit_of(name)
    assert f"ExecStart=/srv/{name}/" in unit
    assert f"--bind 0.0.0.0:{PORTS[name]} --worker-class gthread --workers 2 --threads 4 app:app\n" in unit
    assert f"StateDirectory={name}\n" in unit


def test_the_script_sends_the_code_then_installs_and_restarts(tmp_path):
    calls = tmp_path / "calls"
    for name in ("rsync", "fake-ssh"):
        fake = tmp_path / name
        fake.write_text(f'#!/bin/sh\necho "{name} $*" >>{calls}\n')
        fake.chmod(0o755)
    words = [str(WAYS / "script.sh"), "/code", "admin@host", "/srv/script", "script", "/opt/uv"]
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "SSH": "fake-ssh -p 22"}
    subprocess.run(words, env=environment, check=True)
    sent, ran = calls.read_text().split("\n", 1)
    assert "--rsh=fake-ssh -p 22 /code/ admin@host:/srv/script/code/" in sent
    assert ran.index("/opt/uv venv") < ran.index("/opt/uv pip install") < ran.index("systemctl restart script")


def test_the_steps_of_ansistrano_are_the_ones_it_has():
    tasks = []
    for file in (WAYS / "ansistrano").rglob("*.yml"):
        content = yaml.safe_load(file.read_text()) or []
        tasks += content[0]["tasks"] if file.name == "deploy.yml" else content
    gathering = 1
    assert len(tasks) + gathering == 45, "what it does by rsync, its statistics apart, and three tasks in hooks"
    names = [task["name"] for task in yaml.safe_load((WAYS / "ansistrano/deploy.yml").read_text())[0]["tasks"]]
    order = ["Set up", "Update the code", "Link shared paths", "Switch", "After the switch", "Clean up"]
    assert sorted(order, key=names.index) == order


@pytest.mark.parametrize("playbook", ["ansistrano/deploy.yml", "ping.yml"])
def test_the_rivals_playbooks_are_sound(playbook):
    program = Path(sys.executable).with_name("ansible-playbook")
    done = subprocess.run(
        [program, "--syntax-check", "-i", "localhost,", str(WAYS / playbook)],
        env={**os.environ, "ANSIBLE_CONFIG": str(WAYS / "ansistrano/ansible.cfg")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_the_promises_name_what_is_measured():
    measured = {"first", "redeploy", *bench_deploy.IDLE, *bench_deploy.RIVALS}
    assert {name for one in PROMISES for name in (one.ours, one.other)} == measured


def test_the_load_lasts_longer_than_ten_deploys():
    Load("http://127.0.0.1:1/", rate=bench_deploy.RATE / 2, seconds=3600)


class Visited(http.server.BaseHTTPRequestHandler):
    """An app whose release changes with each deploy."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        body = json.dumps({"release": f"code-{self.server.deployed}"}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        """Keep the tests' output clean."""


def test_a_streak_counts_visitors_of_both_kinds_and_the_releases_that_they_see(deploys):
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Visited) as server:
        server.daemon_threads, server.deployed = True, 0
        threading.Thread(target=server.serve_forever, daemon=True).start()

        def deploy(way):
            server.deployed += 1
            with Load(f"{site.url}/health", rate=50, seconds=0.2) as load:
                load.wait(PATIENCE_SECONDS)
            return Run(7.0, 0.0, "")

        @contextlib.contextmanager
        def inside():
            yield {"ok": 3}

        site = types.SimpleNamespace(url=f"http://127.0.0.1:{server.server_port}", inside=inside)
        deploys.deploy = deploy
        found = bench_deploy.streak(deploys, site)
        server.shutdown()
    assert found["releases"] == [f"code-{number}" for number in range(STREAK + 1)]
    assert set(found["kept"]) == set(found["new"]) == {"ok"}
    assert found["inside"] == {"ok": 3}
    assert failures(result(streak=found)) == []
    json.dumps(found)
