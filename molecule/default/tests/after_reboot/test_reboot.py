"""After a reboot everything is back without a human."""

from __future__ import annotations

import pytest


def test_site_answers_again(site, poll):
    poll(site.healthy, 120, "health 200 after the reboot")


@pytest.mark.parametrize("unit", ["currents.socket", "currents.service", "cron.service", "logrotate.timer"])
def test_unit_is_back(show, unit, poll):
    poll(lambda: show(unit, "ActiveState") == "active", 60, f"{unit} active")


def test_journal_of_the_boot_before_is_kept(root):
    boots = root.check_output("journalctl --no-pager -q --list-boots").splitlines()
    assert len(boots) >= 2
    before = root.check_output("journalctl --no-pager -q -b -1 -u currents.service -n 3 -o cat")
    assert before, "the app's lines of the boot before"


def test_cron_checks_again(root, poll):
    poll(
        lambda: "verdict=healthy" in root.run("journalctl --no-pager -q -b -t sitectl-currents").stdout,
        130,
        "a healthy check in the journal of this boot",
    )
