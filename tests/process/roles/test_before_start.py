"""The program that runs before each start of an app, with fake system commands: its pauses and its record."""

from __future__ import annotations

import fcntl
import hashlib
import os
import subprocess
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.polling import PATIENCE_SECONDS
from tests.unit.rendering import ROLES

PROGRAM = ROLES / "service/files/before-start.sh"
LONGEST = 60
DOUBLING = [0, 0, 1, 2, 4, 8, 16, 32, 60, 60, 60]


class Host:
    """A host whose clock stands still unless it is told to go on."""

    def __init__(self, root):
        self.root = root
        self.run = root / "run"
        self.starts = self.run / "currents.service.starts"
        self.record = self.run / "currents.service"
        self.uptime = root / "uptime"
        self.slept = root / "slept"
        self.restarts = root / "restarts"
        (root / "bin").mkdir()
        self.fake("systemctl", f'echo "$*" >>{root}/asked\ncat {self.restarts}')
        self.fake("sleep", f'echo "$1" >>{self.slept}')
        self.at(10_000)

    def fake(self, name, script):
        path = self.root / "bin" / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)

    def at(self, seconds):
        self.now = seconds
        self.uptime.write_text(f"{seconds}.37 {seconds * 2}.11\n")

    def start(self, *files, restarts=1, longest=LONGEST, code=0):
        """Run the program once; return for how long it waited."""
        self.restarts.write_text(f"{restarts}\n")
        self.slept.write_text("")
        done = subprocess.run(
            ["/bin/sh", PROGRAM, "currents.service", str(longest), *files],
            env={
                "PATH": f"{self.root}/bin:{os.environ['PATH']}",
                "SITEKEEPER_RUN": str(self.run),
                "SITEKEEPER_UPTIME": str(self.uptime),
            },
            capture_output=True,
            text=True,
            check=False,
            timeout=PATIENCE_SECONDS,
        )
        assert done.returncode == code, done.stderr
        self.said = done.stdout
        return sum(int(line) for line in self.slept.read_text().split())


@pytest.fixture
def host(tmp_path):
    return Host(tmp_path)


def test_the_pauses_of_a_crash_loop_double_up_to_a_minute(host):
    pauses = [host.start(restarts=number) for number in range(len(DOUBLING))]
    assert pauses == DOUBLING


def test_an_app_that_dies_just_before_its_time_is_over_is_in_the_loop_too(host):
    pauses = []
    for number in range(6):
        pauses.append(host.start(restarts=number))
        host.at(host.now + LONGEST)
    assert pauses == DOUBLING[:6]


def test_a_long_life_is_a_new_beginning(host):
    assert [host.start() for _ in range(4)] == [0, 0, 1, 2]
    host.at(host.now + LONGEST + 1)
    assert [host.start() for _ in range(3)] == [0, 0, 1]


def test_a_start_by_hand_is_at_once_and_a_new_beginning(host):
    for _ in range(9):
        host.start()
    assert host.start(restarts=0) == 0
    assert [host.start() for _ in range(3)] == [0, 1, 2]
    assert (host.root / "asked").read_text().splitlines()[-1] == "show --property=NRestarts --value currents.service"


def test_the_journal_says_what_it_waits_for(host):
    for _ in range(4):
        host.start()
    assert host.said == "start 3 in a row that follows a crash: waiting 2 s\n"


@pytest.mark.parametrize(("longest", "pauses"), [(1, [0, 0, 1, 1, 1]), (3, [0, 0, 1, 2, 3])])
def test_the_longest_pause_is_a_setting(host, longest, pauses):
    assert [host.start(restarts=number, longest=longest) for number in range(5)] == pauses


def test_the_life_of_an_app_begins_after_the_pause(host):
    for _ in range(8):
        host.start()
    host.fake("sleep", f'echo "$1" >>{host.slept}\necho "10050.0 0" >{host.uptime}')
    assert host.start() == 60
    assert host.starts.read_text().split()[0] == "10050"


@pytest.mark.parametrize("systemctl", ["exit 1", "echo", "echo oops"])
def test_a_mute_systemd_is_no_start_by_hand(host, systemctl):
    host.fake("systemctl", systemctl)
    assert [host.start() for _ in range(4)] == [0, 0, 1, 2]


@pytest.mark.parametrize(
    "text",
    [
        *("", "\n", "abc def\n", "9990\n", "9990", "9990 x\n", "x 3\n", "08 09\n", "-5 -5\n", "1.5 2\n", "9990 3 4\n"),
        *("99999999999999999999 99999999999999999999\n", "9990+1 3\n", "\x00\x01\xff\n", "* ?\n"),
        "$(touch x) `touch x`\n",
    ],
)
def test_a_damaged_memory_does_no_harm(host, text):
    host.run.mkdir()
    host.starts.write_text(text, encoding="latin-1")
    assert host.start() <= 4
    began, short = host.starts.read_text().split()
    assert (int(began), int(short) <= 4) == (host.now, True)
    assert not list(host.root.rglob("x"))


def sums(*paths):
    return "".join(f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path}\n" for path in paths)


def test_the_record_has_the_sum_of_each_file_and_of_each_module_of_a_directory(host, tmp_path):
    unit, package = tmp_path / "a.service", tmp_path / "package"
    package.mkdir()
    for path in (unit, package / "b.py", package / "a.py", package / "a.pyc", package / "notes.txt"):
        path.write_text(path.name)
    host.start(unit, package)
    assert host.record.read_text() == sums(unit, package / "a.py", package / "b.py")
    unit.write_text("changed")
    host.start(unit)
    assert host.record.read_text() == sums(unit)


def test_a_path_with_blanks_is_one_file(host, tmp_path):
    path = tmp_path / "two words"
    path.write_text("x")
    host.start(path)
    assert host.record.read_text() == sums(path)


def test_a_missing_file_stops_the_start_and_says_which(host, tmp_path):
    host.start(tmp_path / "absent", code=1)


def test_each_app_has_its_own_memory(host):
    for _ in range(3):
        host.start()
    assert sorted(path.name for path in host.run.iterdir()) == ["currents.service", "currents.service.starts"]


def test_an_app_that_is_held_back_starts_when_the_lock_is_free(host):
    host.run.mkdir()
    with (host.run / "currents.service.hold").open("w") as hold:
        fcntl.flock(hold, fcntl.LOCK_EX)
        with ThreadPoolExecutor() as pool:
            start = pool.submit(host.start)
            with pytest.raises(TimeoutError):
                start.result(timeout=1)
            assert not host.record.exists()
            fcntl.flock(hold, fcntl.LOCK_UN)
            start.result(timeout=PATIENCE_SECONDS)
    assert host.record.exists()


def test_shellcheck_finds_nothing():
    subprocess.run(["shellcheck", PROGRAM], check=True, timeout=PATIENCE_SECONDS)
