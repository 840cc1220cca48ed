"""An app that answers, but is not well, is noticed and restarted by the monitor, and by nobody else.

What hangs or dies is cured before the monitor looks: see the scenario restart.
"""

from __future__ import annotations

# Two checks a minute apart, a restart; the rest is for an emulated processor.
NOTICED_SECONDS = 200
DATABASE = "/var/lib/currents/currents.db"


def test_unwell_app_is_noticed_and_restarted(root, show, site, poll):
    run = show("currents.service", "InvocationID")
    root.check_output("chmod 000 %s", DATABASE)
    try:
        assert site.get("/health").status == 503, "the fault took effect"
        assert show("currents.service", "ActiveState") == "active"
        poll(lambda: show("currents.service", "InvocationID") != run, NOTICED_SECONDS, "a new invocation")
    finally:
        root.check_output("chmod 600 %s", DATABASE)
    poll(site.healthy, 60, "the site healthy again")
    lines = root.check_output("journalctl --no-pager -q -t sitectl-currents -o cat --since=-300s")
    assert "action=restart" in lines, "the monitor says why"
    assert "Watchdog timeout" not in root.check_output("journalctl -q --no-pager -u currents.service --since=-300s")
