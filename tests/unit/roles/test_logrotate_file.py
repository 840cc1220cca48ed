"""The file for logrotate, read and obeyed by logrotate itself."""

from __future__ import annotations

import getpass
import grp
import gzip
import os
import shutil
import subprocess

import pytest

from tests.polling import PATIENCE_SECONDS
from tests.unit.rendering import parse_unit, render


@pytest.fixture
def logrotate(tmp_path):
    """Run logrotate with a file for the logs in a directory of ours, as our own user; return what it said."""
    program = shutil.which("logrotate", path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
    assert program, "logrotate is missing: run tools/setup.sh lab"
    logs = tmp_path / "logs"
    logs.mkdir(mode=0o750)
    # A stand-in for systemctl tells what it was called with.
    systemctl = tmp_path / "bin/systemctl"
    systemctl.parent.mkdir()
    systemctl.write_text(f'#!/bin/sh\necho "$@" >>{tmp_path}/signals\n')
    systemctl.chmod(0o755)

    def run(*words, **settings):
        me = getpass.getuser()
        given = {"app_name": "currents", "app_log_dir": str(logs), "logrotate_user": me, **settings}
        text = render("logrotate", "logrotate.conf.j2", wired=True, **given)
        file = tmp_path / "currents"
        file.write_text(text.replace(f"su {me} {me}", f"su {me} {grp.getgrgid(os.getgid()).gr_name}"))
        file.chmod(0o644)
        command = [program, "--state", str(tmp_path / "state"), *words, str(file)]
        environment = {"PATH": f"{systemctl.parent}:/usr/sbin:/usr/bin:/sbin:/bin"}
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, check=False, timeout=PATIENCE_SECONDS
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    run.logs = logs
    run.signals = tmp_path / "signals"
    return run


def rotated(directory):
    return sorted(path.name for path in directory.iterdir() if path.name.startswith("access.log-"))


def test_logrotate_accepts_the_file(logrotate):
    assert "error" not in logrotate("--debug")


def test_logrotate_would_refuse_a_size_that_it_cannot_read(logrotate):
    with pytest.raises(AssertionError, match="unknown unit"):
        logrotate("--debug", logrotate_max_size="banana")


def test_a_log_that_is_too_large_is_rotated_before_its_day_is_over(logrotate):
    log = logrotate.logs / "access.log"
    log.write_text("a line\n" * 1000)
    logrotate(logrotate_max_size="10M")
    assert rotated(logrotate.logs) == []
    logrotate(logrotate_max_size="1k")
    assert len(rotated(logrotate.logs)) == 1
    assert not log.exists(), "the app makes it anew"


def test_a_line_written_by_a_process_that_still_has_the_old_file_is_kept(logrotate):
    log = logrotate.logs / "access.log"
    with log.open("w") as writer:
        writer.write("before\n" * 1000)
        writer.flush()
        logrotate(logrotate_max_size="1k")
        writer.write("after\n")
    (old,) = rotated(logrotate.logs)
    assert (logrotate.logs / old).read_text() == "before\n" * 1000 + "after\n"


def test_the_app_is_told_once_for_all_of_its_logs(logrotate):
    for name in ("access.log", "app.log"):
        (logrotate.logs / name).write_text("a line\n" * 1000)
    logrotate(logrotate_max_size="1k")
    assert logrotate.signals.read_text() == "kill --kill-who=main --signal=USR1 currents.service\n"


def test_the_log_before_is_compressed_and_the_oldest_go(logrotate):
    names = [f"access.log-202601{day:02}-{1767225600 + day * 86400}" for day in range(1, 6)]
    for name in names[:-1]:
        with gzip.open(logrotate.logs / f"{name}.gz", "wt") as old:
            old.write(name)
    (logrotate.logs / names[-1]).write_text("the log before\n")
    (logrotate.logs / "access.log").write_text("a line\n" * 1000)
    logrotate(logrotate_max_size="1k", logrotate_keep=3)
    *compressed, newest = rotated(logrotate.logs)
    assert compressed == [f"{name}.gz" for name in names[-2:]]
    assert gzip.decompress((logrotate.logs / compressed[-1]).read_bytes()) == b"the log before\n"
    assert not newest.endswith(".gz")


def test_logs_are_rotated_with_the_rights_of_the_app_s_user():
    # As root, logrotate would follow links that the app has put into its own directory.
    lines = render("logrotate", "logrotate.conf.j2", wired=True, app_name="currents").splitlines()
    assert "    su currents currents" in lines


def test_an_empty_or_missing_log_is_no_fault(logrotate):
    logrotate("--force")
    (logrotate.logs / "access.log").touch()
    logrotate("--force")
    assert rotated(logrotate.logs) == []


def test_the_sizes_are_looked_at_each_hour():
    timer = parse_unit(render("logrotate", "timer.conf.j2", wired=True))
    assert timer["Timer.OnCalendar"] == ["", "hourly"], "the empty value takes the distribution's daily away"
