"""The deploy lock, with real runs of ansible-playbook and real processes on this computer."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from plugins.module_utils import host_lock, lock_keeper
from tests.polling import PATIENCE_SECONDS

REPOSITORY = Path(__file__).resolve().parents[3]
#: Takes the lock twice, as deploy.yml and then rollback.yml would, says so, and stays until somebody opens the gate.
PLAY = """
- hosts: all
  gather_facts: false
  tasks:
    - &take
      name: Take the deploy lock
      deploy_lock: {name: currents, directory: "{{ place }}"}
    - *take
    - command: touch "{{ place }}/{{ arrived }}"
      changed_when: false
    - command: cat "{{ place }}/gate"
      changed_when: false
"""
PIGEON = """
from ansible.plugins.connection.local import Connection as Local

DOCUMENTATION = "name: pigeon\\nshort_description: brings one letter\\ndescription: [none]\\noptions: {}"


class Connection(Local):
    transport = "pigeon"
"""


def until(condition, seconds=PATIENCE_SECONDS):
    """Poll; return whether it became true in time."""
    deadline = time.monotonic() + seconds
    while not (found := condition()) and time.monotonic() < deadline:
        time.sleep(0.05)
    return bool(found)


class Runs:
    """Runs of a playbook that deploys to this computer."""

    def __init__(self, place):
        self.place = place
        self.lock = place / "currents.deploy.lock"
        (place / "site.yml").write_text(PLAY)
        os.mkfifo(place / "gate")
        self.started = []

    def begin(self, *arguments, connection="local"):
        environment = {name: value for name, value in os.environ.items() if not name.startswith("ANSIBLE_")}
        environment["ANSIBLE_CONFIG"] = str(REPOSITORY / "ansible.cfg")
        arrived = f"arrived{len(self.started)}"
        given = {"place": str(self.place), "ansible_python_interpreter": sys.executable, "arrived": arrived}
        words = [str(Path(sys.executable).with_name("ansible-playbook")), str(self.place / "site.yml")]
        run = subprocess.Popen(
            [*words, "-i", "host,", "-c", connection, "-e", json.dumps(given), *arguments],
            cwd=REPOSITORY,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.started.append(run)
        run.arrived = self.place / arrived
        return run

    def holding(self):
        """Begin a run and wait until it has the lock."""
        run = self.begin()
        assert until(run.arrived.exists), run.communicate(timeout=PATIENCE_SECONDS)[0]
        return run

    def open_gate(self):
        with contextlib.suppress(OSError):  # nobody waits there
            os.close(os.open(self.place / "gate", os.O_WRONLY | os.O_NONBLOCK))

    def through_the_gate(self, run):
        """Open the gate until a run has ended, as it may come there only now; return its output."""

        def ended():
            self.open_gate()
            return run.poll() is not None

        assert until(ended)
        return run.communicate(timeout=PATIENCE_SECONDS)[0]

    def held(self):
        """Tell whether somebody has the lock."""
        with self.lock.open("rb") as file:
            return not host_lock.locked(file.fileno(), fcntl.LOCK_EX)


@contextlib.contextmanager
def ended_at_last(place):
    """Give runs in a directory, and end them all."""
    found = Runs(place)
    yield found
    for run in found.started:
        run.kill()
        run.communicate(timeout=PATIENCE_SECONDS)

    def all_gone():
        # Its worker outlives a killed run, and may only now come to the gate.
        found.open_gate()
        return not mentioning(place)

    assert until(all_gone), mentioning(place)


@pytest.fixture
def runs(tmp_path):
    with ended_at_last(tmp_path) as found:
        yield found


@pytest.fixture(scope="module")
def held(tmp_path_factory):
    """A run that has the lock, and the file that an old one had left there."""
    with ended_at_last(tmp_path_factory.mktemp("held")) as found:
        old = {"who": "old", "from": "-", "since": "2020-01-01T00:00:00Z", "what": "x" * 5000}
        found.lock.write_text(json.dumps(old))
        found.holding()
        yield found


def mentioning(path):
    """Return the command lines of the processes that name a path."""
    lines = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            line = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            lines += [line] if str(path) in line else []
    return lines


def holders(path):
    """Return the processes that have a file open."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if any(str(handle.readlink()) == str(path) for handle in (process / "fd").iterdir()):
                found.append(process)
    return found


def test_a_second_deploy_is_refused_at_once_and_told_whose_the_first_is(held):
    second = held.begin()
    output = second.communicate(timeout=PATIENCE_SECONDS)[0]
    assert second.returncode == 2
    who = json.loads(held.lock.read_text())["who"]
    told = (
        rf"    Another deploy of currents is at work: {re.escape(who)}, since 20\S+Z \(\d+ (s|min) ago\), "
        r"playbook site\.yml\.\n    Wait for it to end; if its controller is gone this ends by itself within 75 s\.\n"
    )
    assert re.search(told, output), output
    assert not second.arrived.exists()
    # Of the first there is no end before the gate opens.
    assert held.held()


def test_a_dry_run_blocks_nobody_and_is_warned(held):
    dry = held.begin("--check")
    output = dry.communicate(timeout=PATIENCE_SECONDS)[0]
    assert dry.returncode == 0, output
    assert "Another deploy of currents is at work" in output
    assert held.held()


def test_an_old_file_is_no_lock_and_its_words_go(held):
    assert json.loads(held.lock.read_text())["who"] != "old"


def test_what_holds_the_lock_holds_nothing_else(held):
    (holder,) = holders(held.lock)
    opened = {str(handle.readlink()) for handle in (holder / "fd").iterdir()}
    assert {name for name in opened if not name.startswith("anon_inode:")} == {os.devnull, str(held.lock)}
    assert (holder / "cwd").readlink() == Path("/")
    fields = (holder / "stat").read_text().rpartition(")")[2].split()
    assert fields[3] == holder.name, "a session of its own: no terminal's end reaches it"


def test_a_killed_controller_leaves_no_lock_and_neither_does_the_end_of_a_run(runs):
    first = runs.holding()
    assert runs.held()
    assert runs.lock.stat().st_mode & 0o777 == 0o600, "other users cannot open it"
    first.kill()
    assert until(lambda: not runs.held()), "nobody else was asked to do anything"
    runs.open_gate()
    second = runs.holding()
    output = runs.through_the_gate(second)
    assert second.returncode == 0, output
    assert re.search(r"ok=4 +changed=0", output), output
    assert until(lambda: not runs.held()), "the lock ends with its run"


def test_of_two_deploys_at_once_one_runs(runs):
    both = [runs.begin(), runs.begin()]
    assert until(lambda: any(run.poll() is not None for run in both)), "one is refused"
    assert sorted(run.poll() is None for run in both) == [False, True]
    assert until(lambda: any(run.arrived.exists() for run in both))
    assert sum(run.arrived.exists() for run in both) == 1


def test_a_dry_run_takes_nothing(runs):
    dry = runs.begin("--check")
    assert dry.communicate(timeout=PATIENCE_SECONDS)[0].count("Another deploy") == 0
    assert dry.returncode == 0
    assert not runs.lock.exists()


def test_a_connection_that_does_not_stay_is_refused(runs):
    (runs.place / "connection_plugins").mkdir()
    (runs.place / "connection_plugins/pigeon.py").write_text(PIGEON)
    output = runs.begin(connection="pigeon").communicate(timeout=PATIENCE_SECONDS)[0]
    assert "ansible_connection is pigeon, must be ssh (or local)" in output, output
    assert not runs.lock.exists()


# The channel


def start_of(pid):
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]


def anchored(run, patience=60):
    """Start a keeper of a run; return it and what its anchor said."""
    words = [sys.executable, "-I", "-S", lock_keeper.__file__, str(run.pid)]
    keeper = subprocess.Popen([*words, *lock_keeper.anchor_command(patience)], stdout=subprocess.PIPE, text=True)
    return keeper, lock_keeper.parse_greeting(keeper.stdout.readline())


@pytest.fixture
def sleeper():
    process = subprocess.Popen(["sleep", "300"])
    yield process
    process.kill()
    process.wait()


@pytest.mark.parametrize("end", ["the run", "the keeper"])
def test_the_anchor_ends_with_the_run_and_with_the_keeper(sleeper, end):
    keeper, (pid, start, _) = anchored(sleeper)
    assert start == start_of(pid)
    assert host_lock.lives({"pid": pid, "start": start})
    (sleeper if end == "the run" else keeper).kill()
    assert keeper.wait(timeout=PATIENCE_SECONDS) == (0 if end == "the run" else -9)
    assert until(lambda: not host_lock.lives({"pid": pid, "start": start}))
    keeper.stdout.close()


def test_the_anchor_waits_for_a_silent_controller_as_long_as_it_is_told_to(sleeper):
    anchor = subprocess.Popen(lock_keeper.anchor_command(1), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    pid, start, _ = lock_keeper.parse_greeting(anchor.stdout.readline())
    for _ in range(4):
        anchor.stdin.write("\n")
        anchor.stdin.flush()
        assert anchor.poll() is None
        time.sleep(0.5)
    anchor.wait(timeout=PATIENCE_SECONDS)
    anchor.stdin.close()
    anchor.stdout.close()
    assert not host_lock.lives({"pid": pid, "start": start})


def test_the_keeper_of_a_run_that_is_gone_ends(sleeper):
    sleeper.kill()
    sleeper.wait()
    keeper, greeting = anchored(sleeper)
    assert greeting
    assert keeper.wait(timeout=PATIENCE_SECONDS) == 0
    keeper.stdout.close()


def test_a_channel_that_does_not_open_is_told_with_ssh_s_own_words(sleeper):
    from ansible.errors import AnsibleActionFail

    from plugins.module_utils.lock_channel import open_channel

    with pytest.raises(AnsibleActionFail, match="no channel for the deploy lock:\nNo route"):
        open_channel(sleeper.pid, ["sh", "-c", "echo hello; echo No route >&2; exit 255"])


@pytest.mark.parametrize("without_pidfd", [False, True])
def test_the_end_of_a_process_is_noticed(sleeper, monkeypatch, without_pidfd):
    if without_pidfd:
        monkeypatch.delattr(os, "pidfd_open")
    ended = lock_keeper.waiter(sleeper.pid)
    assert not ended(0.01)
    sleeper.kill()
    sleeper.wait()
    assert until(lambda: ended(0.1))


# The holder and its words


@pytest.mark.parametrize("pidfd", ["", "del os.pidfd_open\n"], ids=["pidfd", "polling"])
def test_the_holder_ends_with_its_anchor(sleeper, pidfd):
    program = host_lock.WATCH.replace("\ndef lives", f"\n{pidfd}def lives", 1)
    watch = subprocess.Popen([sys.executable, "-I", "-S", "-c", program, str(sleeper.pid), start_of(sleeper.pid)])
    with pytest.raises(subprocess.TimeoutExpired):
        watch.wait(timeout=0.5)
    # Not waited for: the anchor may stay a zombie.
    sleeper.kill()
    assert watch.wait(timeout=PATIENCE_SECONDS) == 0


def test_a_pid_that_another_process_got_is_not_the_anchor(sleeper):
    anchor = {"pid": sleeper.pid, "start": int(start_of(sleeper.pid)) - 1}
    assert not host_lock.lives(anchor)
    words = [sys.executable, "-I", "-S", "-c", host_lock.WATCH, str(anchor["pid"]), str(anchor["start"])]
    assert subprocess.run(words, timeout=PATIENCE_SECONDS, check=False).returncode == 0
