"""The power goes while a release is being watched: the watch begins anew with the next boot."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.needs("power")

REPOSITORY = Path(__file__).resolve().parents[3]

#: Well until the machine has booted once more, and then for a few seconds.
BAD_AFTER_A_BOOT = """import time
_booted = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
_born, _well = time.monotonic(), app.view_functions["health.health"]
if abs(_booted - {booted}) > 10:
    app.view_functions["health.health"] = lambda: ("ill", 503) if time.monotonic() > _born + 15 else _well()
"""
BOOTED = "import time; print(time.time() - time.clock_gettime(time.CLOCK_BOOTTIME))"
#: A boot, the app's start, the 15 s that a release may be ill for, and the restart of the one before.
BACK_SECONDS = 240
WATCH = "currents-watch.service"


def test_a_release_that_dies_after_the_next_boot_is_taken_back(playbook, changed, machine, root, site, poll):
    before = site.get("/health").json["release"]
    # As after many deploys in two minutes: systemd 257 does not forget them when it reads its units again.
    root.check_output("touch /srv/currents/watch.json")
    root.run("for i in 1 2 3 4 5 6; do systemctl restart %s; done", WATCH)
    assert root.run("systemctl start %s", WATCH).rc != 0, "started too often"
    booted = root.check_output("python3 -c %s", BOOTED)
    done = playbook("deploy", app_source=changed(BAD_AFTER_A_BOOT.format(booted=booted)))
    assert done.code == 0, done.output
    bad = site.get("/health").json["release"]
    assert bad != before
    assert root.file("/srv/currents/watch.json").exists, "it is being watched"

    def on_machine(*words: str) -> str:
        # Not over the connection of before, which the power took.
        return subprocess.run(
            [sys.executable, "-m", "lab", "ssh", machine, *words],
            cwd=REPOSITORY,
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        ).stdout

    def current() -> str:
        try:
            answer = site.get("/health", seconds=5)
        except OSError:
            # The machine is away.
            return ""
        return str(answer.json["release"]) if answer.status == 200 else ""

    subprocess.run([sys.executable, "-m", "lab", "cut-power", machine], cwd=REPOSITORY, check=True)
    poll(lambda: current() == before, BACK_SECONDS, "the release before serves")
    records = json.loads(on_machine("sudo /usr/local/lib/sitekeeper/release currents list --json"))["records"]
    assert (records[-1]["action"], records[-1]["previous"]) == ("take back", bad)
    assert "not well for" in records[-1]["why"]
    assert on_machine("systemctl is-active currents-watch.service || true").strip() == "inactive"
