"""The drill on a host: real processes, a real web server, and a systemctl that writes down what it is told."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from ansible.module_utils import drill_memory

from plugins.module_utils.drill import Process, Seen
from plugins.module_utils.load_generator import Ask, Load
from plugins.modules import drill_fault
from plugins.modules.drill_fault import DrillError, Service, Trial, drill, poll
from tests.polling import PATIENCE_SECONDS

APP = "testdrill"
#: A master that keeps two children and says in a file who they are, as a control group does.
MASTER = """
import os, sys, time
group, children = sys.argv[1], set()
while True:
    while len(children) < 2:
        child = os.fork()
        if child == 0:
            time.sleep(600)
        children.add(child)
        with open(group + "/.new", "w") as out:
            out.write("\\n".join(map(str, [os.getpid(), *children])))
        os.rename(group + "/.new", group + "/cgroup.procs")
    gone = os.waitpid(-1, os.WNOHANG)[0]
    children.discard(gone)
    time.sleep(0.02)
"""
SYSTEMCTL = """#!/bin/sh
echo "$(basename "$0") $*" >>"$ROOT/calls"
case "$(basename "$0") $1" in
"systemctl show") cat "$ROOT/properties" ;;
"systemctl kill") xargs kill -CONT <"$ROOT/sys/fs/cgroup/system.slice/testdrill.service/cgroup.procs" ;;
"systemd-run "*) [ ! -e "$ROOT/armed" ] || { echo "Unit testdrill-drill-undo.timer already exists" >&2; exit 1; }
    touch "$ROOT/armed" ;;
"systemctl stop") rm -f "$ROOT/armed" ;;
"sitectl --site") case "$*" in
    *status*) printf '{"monitor": {"hold": %s}}' "$(cat "$ROOT/held" 2>/dev/null || echo null)"; exit 1 ;;
    *release-hold*) rm -f "$ROOT/held" ;;
    *hold*) echo '"ours"' >"$ROOT/held" ;;
    esac ;;
esac
exit 0
"""


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.server.well else 503)
        self.end_headers()

    def log_message(self, *_):
        pass


@pytest.fixture
def web():
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.well = True
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A host's /run, /sys and /etc, and its programs; `calls` is what was run."""
    group = tmp_path / f"sys/fs/cgroup/system.slice/{APP}.service"
    group.mkdir(parents=True)
    (group / "memory.events").write_text("oom 0\noom_kill 0\n")
    (group / "memory.max").write_text("1073741824\n")
    (group / "memory.stat").write_text("anon 100000000\nfile 5000000\npagetables 1000000\n")
    (tmp_path / "run/systemd/units").mkdir(parents=True)
    (tmp_path / f"run/systemd/units/invocation:{APP}.service").symlink_to("cafe")
    for name in ("bin/systemctl", "bin/systemd-run", "usr/local/bin/sitectl"):
        program = tmp_path / name
        program.parent.mkdir(parents=True, exist_ok=True)
        program.write_text(SYSTEMCTL)
        program.chmod(0o755)
    (tmp_path / "etc/sitectl").mkdir(parents=True)
    (tmp_path / f"etc/sitectl/{APP}.json").write_text("{}")
    (tmp_path / "calls").touch()
    monkeypatch.setenv("ROOT", str(tmp_path))
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    monkeypatch.setattr(drill_fault, "LEAD_SECONDS", 5.0)
    monkeypatch.setattr(drill_fault, "SETTLE_SECONDS", 5.0)
    monkeypatch.setattr(drill_fault, "POLL_SECONDS", 0.02)
    monkeypatch.setattr(drill_fault, "CALM_SECONDS", 0.2)
    handlers = {number: signal.getsignal(number) for number in drill_fault.ENDING}
    yield tmp_path
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.fixture
def master(root):
    """The service's processes, running."""
    group = root / f"sys/fs/cgroup/system.slice/{APP}.service"
    with subprocess.Popen([sys.executable, "-c", MASTER, str(group)]) as process:
        show = f"MainPID={process.pid}\nControlGroup=/system.slice/{APP}.service\nMemoryMax=1073741824\n"
        (root / "properties").write_text(f"{show}NeedDaemonReload=no\n")
        procs = group / "cgroup.procs"
        assert poll(lambda: procs.exists() and len(procs.read_text().split()) == 3, 10)
        yield process
        pids = [int(pid) for pid in procs.read_text().split()]
        process.kill()
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def run(words):
    done = subprocess.run(list(words), capture_output=True, text=True, check=False, timeout=PATIENCE_SECONDS)
    return done.returncode, done.stdout, done.stderr


def service(root):
    return Service(APP, run, root)


def load(web, seconds=60.0):
    return Load(Ask(f"http://127.0.0.1:{web.server_port}/health", timeout=5), rate=20, seconds=seconds)


def calls(root, start=""):
    """The commands that were run, one a line; those that begin so."""
    lines = (root / "calls").read_text().splitlines()
    return "\n".join(line for line in lines if line.startswith(start))


def test_a_look_finds_the_master_and_its_workers(root, master):
    seen = service(root).look()
    assert (seen.invocation, seen.main, seen.oom_kills) == ("cafe", master.pid, 0)
    assert len(seen.workers) == 2
    assert master.pid in seen.processes


def test_systemd_is_asked_anew_only_after_a_new_start(root, master):
    looker = service(root)
    for _ in range(3):
        looker.look()
    assert calls(root).count("systemctl show") == 1
    link = root / f"run/systemd/units/invocation:{APP}.service"
    link.unlink()
    link.symlink_to("beef")
    assert looker.look().invocation == "beef"
    assert calls(root).count("systemctl show") == 2


def test_a_service_that_is_not_there_has_no_processes(root):
    (root / "properties").write_text("MainPID=0\nControlGroup=\n")
    (root / f"run/systemd/units/invocation:{APP}.service").unlink()
    assert service(root).look().processes == {}


def test_a_killed_worker_is_measured_from_effect_to_recovery(root, master, web):
    result = drill(service(root), "worker-kill", load(web), 10)
    assert result["took_effect"]
    assert result["evidence"].endswith(" gone")
    assert result["recovered"], result
    assert 0 <= result["detected_seconds"] < 5
    assert 0 <= result["back_seconds"] < 5
    assert (result["refused"], result["failed"], result["verdict"]) == (0, 0, "back, none lost")
    assert result["requests"] >= 3
    assert not result["restarted"]


def test_a_frozen_worker_that_nobody_sees_is_resumed_and_said_to_be_unnoticed(root, master, web):
    result = drill(service(root), "worker-stop", load(web), 1.5)
    assert result["took_effect"]
    assert result["evidence"].endswith("in state T")
    assert result["detected_seconds"] is None
    assert not result["recovered"]
    assert result["verdict"].startswith("NOT NOTICED")
    assert [one.state for one in service(root).look().processes.values() if one.state in "Tt"] == []


def test_the_timer_is_armed_before_the_fault_and_disarmed_after_the_undo(root, master, web):
    drill(service(root), "worker-stop", load(web), 0.5)
    said = calls(root).splitlines()
    steps = (
        "sitectl --site testdrill hold 60",
        "systemd-run ",
        "systemctl kill ",
        "sitectl --site testdrill release-hold",
    )
    order = [next(n for n, line in enumerate(said) if line.startswith(step)) for step in (*steps, "systemctl stop ")]
    assert order == sorted(order)
    assert not (root / "armed").exists()
    assert not (root / "held").exists()


@pytest.mark.parametrize(
    ("fault", "own"),
    [
        ("worker-stop", f"systemctl kill --signal=CONT {APP}.service; "),
        ("master-stop", f"systemctl kill --signal=CONT {APP}.service; "),
        ("worker-kill", ""),
        ("restart", ""),
    ],
)
def test_the_timers_script_undoes_the_fault_and_releases_the_monitor(root, master, fault, own):
    host = service(root)
    assert host.undoing(fault, host.look()) == f"{own}{root}/usr/local/bin/sitectl --site {APP} release-hold"


@pytest.fixture
def kernel(root, master, monkeypatch):
    """Stand in for the kernel: kill a worker once the limit is lower than what the service needs."""
    group, over = root / f"sys/fs/cgroup/system.slice/{APP}.service", threading.Event()
    limits = []

    def watch():
        while not over.wait(0.002):
            text = (group / "memory.max").read_text().strip()
            if text and (not limits or limits[-1] != int(text)):
                limits.append(int(text))
                if over.needed and limits[-1] < over.needed and "oom_kill 0" in (group / "memory.events").read_text():
                    scores = {pid: (root / f"score{pid}").read_text() for pid in service(root).look().processes}
                    (victim,) = (pid for pid, score in scores.items() if score != "-1000")
                    os.kill(victim, signal.SIGKILL)
                    (group / "memory.events").write_text("oom_kill 1\n")

    for worker in service(root).look().processes:
        (root / f"score{worker}").write_text("0\n" if worker == master.pid else "100\n")
    # Only root may lower a real one.
    monkeypatch.setattr(drill_memory, "score_file", lambda pid: root / f"score{pid}")
    over.needed = 0
    over.limits = limits
    thread = threading.Thread(target=watch)
    thread.start()
    yield over
    over.set()
    thread.join()


def test_a_starved_service_loses_one_worker_and_gets_its_limit_back(root, master, web, kernel):
    kernel.needed = 100_990_000
    result = drill(service(root), "oom", load(web), 10)
    assert result["took_effect"], result
    assert result["evidence"] == "oom_kill of the unit went from 0 to 1"
    assert result["recovered"], result
    assert kernel.limits[:2] == [1073741824, 101_000_000], "from what the service needs downwards"
    assert kernel.limits[-1] == 1073741824
    scores = {int(path.name[5:]): path.read_text().strip() for path in root.glob("score*")}
    assert scores.pop(master.pid) == "0"
    assert set(scores.values()) == {"100"}


def test_the_script_for_memory_gives_every_process_the_score_it_had(root, kernel, master):
    host = service(root)
    script = host.shortage(host.look()).undoing()
    workers = [one.pid for one in host.look().workers]
    later = host.look().processes | {99: None}
    (host.group / "cgroup.procs").write_text("\n".join(map(str, later)))
    (host.group / "memory.max").write_text("5\n")
    for pid in later:
        (root / f"proc/{pid}").mkdir(parents=True)
    subprocess.run(
        ["/bin/sh", "-c", script.replace("/proc/$p", f"{root}/proc/$p")], check=True, timeout=PATIENCE_SECONDS
    )
    scores = {pid: (root / f"proc/{pid}/oom_score_adj").read_text().strip() for pid in later}
    assert scores == {master.pid: "0", workers[0]: "100", workers[1]: "100", 99: "100"}
    assert (host.group / "memory.max").read_text() == "1073741824\n"


def test_a_limit_that_kills_nobody_is_lowered_step_by_step_and_then_given_up(root, web, kernel):
    result = drill(service(root), "oom", load(web), 1)
    assert not result["took_effect"]
    assert result["verdict"].startswith("NOT INJECTED")
    tried = [limit for limit in kernel.limits if limit != 1073741824]
    assert len(tried) == drill_memory.TURNS
    assert tried == sorted(tried, reverse=True)
    assert (root / f"sys/fs/cgroup/system.slice/{APP}.service/memory.max").read_text() == "1073741824\n"
    assert not (root / "armed").exists()


def test_without_the_memory_controller_the_kernel_kills_nobody_and_nothing_is_held(root, master, web):
    (root / f"sys/fs/cgroup/system.slice/{APP}.service/memory.max").unlink()
    with pytest.raises(drill_fault.DrillError, match="leave oom out of drill_faults"):
        drill(service(root), "oom", load(web), 1)
    assert "hold" not in (root / "calls").read_text()


def test_a_site_that_is_not_well_is_left_alone(root, master, web, monkeypatch):
    monkeypatch.setattr(drill_fault, "LEAD_SECONDS", 0.5)
    web.well = False
    workers = service(root).look().workers
    result = drill(service(root), "worker-kill", load(web), 5)
    assert not result["took_effect"]
    assert "was not well before" in result["evidence"]
    assert service(root).look().workers == workers
    assert "systemd-run" not in calls(root)


def test_a_monitor_that_somebody_holds_keeps_the_drill_away(root, master, web):
    (root / "held").write_text('"database work (200 s left)"')
    with pytest.raises(DrillError, match=r"database work \(200 s left\)"):
        drill(service(root), "worker-kill", load(web), 5)
    assert (root / "held").exists(), "it is not ours to release"
    assert "systemd-run" not in calls(root)
    assert not calls(root, "systemctl kill")


def test_a_second_drill_neither_injects_nor_undoes_the_first(root, master, web):
    (root / "armed").touch()
    with pytest.raises(DrillError, match="already exists"):
        drill(service(root), "worker-kill", load(web), 5)
    assert (root / "armed").exists()
    assert not calls(root, "systemctl kill")
    assert not (root / "held").exists()


def test_a_host_without_the_monitor_can_be_drilled(root, master, web):
    (root / f"etc/sitectl/{APP}.json").unlink()
    assert drill(service(root), "worker-kill", load(web), 10)["recovered"]
    assert "sitectl" not in calls(root)


def test_a_limit_that_stays_changed_is_an_error(root, master, web, monkeypatch):
    file = root / f"sys/fs/cgroup/system.slice/{APP}.service/memory.max"
    monkeypatch.setattr(Service, "inject", lambda self, fault, before: file.write_text("5\n"))
    monkeypatch.setattr(Service, "undoing", lambda self, fault, before: "true")
    with pytest.raises(DrillError, match="not as it was before oom"):
        drill(service(root), "oom", load(web), 0.5)


def test_a_program_that_is_told_to_end_undoes_first(root, master, web):
    for number in drill_fault.ENDING:
        signal.signal(number, drill_fault.interrupted)

    def end():
        poll(lambda: any(one.state == "T" for one in service(root).look().processes.values()), 10)
        os.kill(os.getpid(), signal.SIGTERM)

    helper = threading.Thread(target=end)
    helper.start()
    with pytest.raises(SystemExit, match="signal 15"):
        drill(service(root), "workers-stop", load(web), 30)
    helper.join()
    assert not any(one.state == "T" for one in service(root).look().processes.values())
    assert not (root / "armed").exists()


def seen(invocation="a", state="S", main=10):
    """A service with one worker."""
    master, worker = Process(main, 1, state, main), Process(main + 1, main, "S", main + 1)
    return Seen(invocation, main, {one.pid: one for one in (master, worker)})


def test_a_new_start_is_told_by_its_invocation_and_only_its_answers_count(web, monkeypatch):
    monkeypatch.setattr(drill_fault, "CALM_SECONDS", 0.2)
    old, new, trial = seen(), seen("b", main=20), Trial()
    with load(web) as running:
        assert not trial.look("restart", old, old, running)
        assert trial.restarted is None
        assert poll(lambda: trial.look("restart", old, new, running), 10)
    assert trial.restarted == trial.noticed is not None
    assert trial.proof
    assert trial.back >= trial.restarted


def test_a_master_that_wakes_only_to_die_is_no_recovery(web, monkeypatch):
    monkeypatch.setattr(drill_fault, "CALM_SECONDS", 0.5)
    old, frozen, new, trial = seen(), seen(state="T"), seen("b", main=20), Trial()
    with load(web) as running:
        # systemd's watchdog sends SIGCONT after SIGABRT: for a moment all seems well.
        assert not trial.look("master-stop", old, frozen, running)
        assert poll(lambda: trial.look("master-stop", old, old, running) or trial.back is not None, 10)
        assert trial.noticed is not None
        assert trial.restarted is None
        assert not trial.look("master-stop", old, Seen(), running)
        assert poll(lambda: trial.look("master-stop", old, new, running), 10)
    assert trial.noticed < trial.restarted < trial.back


def test_waiting_ends_at_its_deadline():
    start = time.monotonic()
    assert not poll(lambda: False, 0.3)
    assert 0.3 <= time.monotonic() - start < 3


def test_the_kernels_tables_are_read():
    assert drill_memory.table_of("RssAnon:\t  1024 kB\nName:\tx\n\nanon 5\n") == {"RssAnon": 1024, "anon": 5}
    assert drill_memory.unreclaimable("anon 10\nfile 100\npagetables 2\nslab_reclaimable 50\n") == 12


def test_the_module_is_shipped_with_what_it_imports():
    text = Path(drill_fault.__file__).read_text()
    assert "from ansible.module_utils.drill import" in text
    assert "from plugins" not in text
