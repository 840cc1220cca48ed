"""An app that runs but does not answer is noticed and restarted by the monitor, and by nobody else."""

from __future__ import annotations

# Two checks a minute apart, ten seconds each to time out, a restart; the rest is for an emulated processor.
NOTICED_AND_BACK_SECONDS = 240


def test_hung_app_is_noticed_and_restarted(root, show, site, poll):
    run = show("currents.service", "InvocationID")
    # Every process stopped: no signal handler, no heartbeat, no answer; systemd still says "active".
    root.check_output("systemctl kill --signal=STOP currents.service")
    assert show("currents.service", "ActiveState") == "active"
    poll(lambda: show("currents.service", "InvocationID") != run, NOTICED_AND_BACK_SECONDS, "a new invocation")
    poll(site.healthy, 60, "the site answers again")
    lines = root.check_output("journalctl --no-pager -q -t sitectl-currents -o cat --since=-300s")
    assert "action=restart" in lines, "the monitor says why"
