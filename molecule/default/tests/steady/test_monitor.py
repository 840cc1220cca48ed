"""Cron runs the check each minute, with the environment that cron gives."""

from __future__ import annotations


def test_cron_runs_the_check_by_itself(root, poll):
    poll(
        lambda: "verdict=" in root.run("journalctl --no-pager -q -t sitectl-currents --since=-70s").stdout,
        75,
        "a line of the check in the journal",
    )


def test_check_of_cron_found_the_site_healthy(root):
    lines = root.check_output("journalctl --no-pager -q -t sitectl-currents -n 1")
    assert "verdict=healthy" in lines


def test_line_of_cron_works_in_an_empty_environment(root):
    # What cron itself gives, and the variables the file sets: nothing of a login.
    lines = root.file("/etc/cron.d/currents-monitor").content_string.splitlines()
    variables = [line for line in lines if "=" in line.split(" ")[0]]
    command = next(line for line in lines if line.startswith("*")).split(None, 6)[6]
    # Cron's own check may be at work and hold the lock. Cron leaves a minute out then; here it is waited for.
    assert "flock -n " in command
    command = command.replace("flock -n ", "flock -w 60 ")
    done = root.run(f"env -i HOME=/root LOGNAME=root {' '.join(variables)} /bin/sh -c %s", command)
    assert done.rc == 0, done.stderr
