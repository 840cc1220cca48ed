"""A check that is killed: what it leaves of its memory and its lock."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[3]


def test_a_check_killed_during_the_restart_has_used_its_turn_and_frees_the_lock(site, app, wait_for):
    site.configure(failures_before_restart=1, restart_timeout_seconds=30)
    site.fake("systemctl", f"case $1 in show) cat {site.properties};; restart) exec sleep 30;; esac")
    app.behaviour = "500"
    command = [sys.executable, "-m", "sitectl", "--root", str(site.root), "check"]
    check = subprocess.Popen(command, cwd=REPOSITORY, start_new_session=True, stderr=subprocess.DEVNULL)
    wait_for(lambda: bool(site.calls("restart")))
    os.killpg(check.pid, signal.SIGKILL)
    check.wait()

    assert site.run("check") == 1
    assert len(site.calls("restart")) == 1
    assert site.state()["restarts"] == 1
    assert "left of the pause" in site.lines()[-1]
