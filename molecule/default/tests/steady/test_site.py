"""The site after the second run: what a visitor sees, and what systemd and the kernel hold."""

from __future__ import annotations

import re

import pytest

HERO = re.compile(r'data-hero-id="(\d+)"')


def test_the_second_run_restarted_nothing(root):
    before = root.file("/var/tmp/before-second-run").content_string.split()
    now = root.check_output(
        "systemctl show currents.service currents.socket --property=Id,InvocationID,MainPID"
    ).split()
    assert sorted(before) == sorted(now)


def test_home_page_answers(site):
    answer = site.get("/")
    assert answer.status == 200
    assert "<html" in answer.body


def test_health_tells_of_memory_and_release(site):
    answer = site.get("/health")
    assert answer.status == 200
    assert answer.json["memory"]["rss_bytes"] > 1024**2
    assert answer.json["release"].startswith("code-")


def test_hero_rotates(site, poll):
    first = HERO.search(site.get("/").body)[1]
    poll(lambda: HERO.search(site.get("/").body)[1] != first, 20, "another hero on the home page")


@pytest.mark.parametrize("unit", ["currents.socket", "currents.service", "cron.service", "logrotate.timer"])
def test_unit_runs_and_starts_at_boot(show, unit):
    assert show(unit, "ActiveState") == "active"
    assert show(unit, "UnitFileState") == "enabled"


def test_nothing_crashed_on_the_way(show):
    assert show("currents.service", "NRestarts") == "0"


def test_four_workers_of_the_app_user_serve(root, show):
    master = show("currents.service", "MainPID")
    workers = root.check_output("ps -o user= --ppid %s", master).split()
    assert workers == ["currents"] * 4


def test_a_host_that_cannot_hold_a_memory_limit_is_refused_unless_told_otherwise(playbook, root, entry):
    holds = "memory" in root.file("/sys/fs/cgroup/cgroup.controllers").content_string.split()
    done = playbook("validate", "--limit", entry, service_memory_limits="required")
    assert (done.code == 0) is holds, done.output
    assert ("or set service_memory_limits: best_effort" in done.output) is not holds
    status = root.check_output("sitectl status")
    assert ("no limit of the kernel holds on this host" in status) is not holds


def test_service_is_as_tight_as_promised(root):
    assert root.run("systemd-analyze security --no-pager --threshold=13 currents.service").rc == 0


def test_app_cannot_leave_its_sandbox(root, show):
    # As root, whom no file mode holds back: only the sandbox says no.
    inside = f"nsenter --target {show('currents.service', 'MainPID')} --mount"
    for attempt in ("touch /srv/currents/current/code/x", "touch /etc/x", "ls /home/admin"):
        assert root.run(f"{inside} -- {attempt}").rc != 0, attempt
    assert root.run("ls /home/admin").rc == 0, "outside of the sandbox it is there"
    assert root.run(f"{inside} -- touch /var/lib/currents/x").rc == 0, "its data directory is writable"
    root.check_output("rm /var/lib/currents/x")


def test_app_cannot_read_the_file_of_its_secrets(root, show):
    uid = root.check_output("id -u currents")
    inside = f"nsenter --target {show('currents.service', 'MainPID')} --mount --setuid {uid}"
    assert root.run(f"{inside} -- cat /etc/currents/app.env").rc != 0


def test_release_belongs_to_root_and_is_complete(root):
    assert root.check_output("find -L /srv/currents/current /etc/currents ! -user root -printf '%p '") == ""
    assert not root.file("/srv/currents/current/UNFINISHED").exists


def test_code_of_the_app_is_nobody_elses(root):
    assert root.file("/srv/currents").mode == 0o750
    assert root.file("/srv/currents").group == "currents"


def test_environment_of_the_app_is_read_by_root_alone(root):
    assert root.file("/etc/currents/app.env").mode == 0o600


def test_access_log_is_one_json_object_a_line_whatever_a_visitor_asks_for(root, site, poll):
    site.get("/nothing%0a%22here")
    poll(
        lambda: root.run("grep -c 'nothing%0a' /var/log/currents/access.log").stdout.strip() not in ("", "0"),
        10,
        "the request in the access log",
    )
    assert root.run("python3 -c 'import json; [json.loads(l) for l in open(\"/var/log/currents/access.log\")]'").rc == 0


def test_host_is_prepared(root):
    assert root.user("currents").shell == "/usr/sbin/nologin"
    assert root.file("/var/log/journal").is_directory
    assert root.run("apt-config dump | grep -q 'Unattended-Upgrade \"1\"'").rc == 0


def test_needrestart_never_asks(root):
    assert "restart} = 'a'" in root.file("/etc/needrestart/conf.d/50-sitekeeper.conf").content_string
    # Perl, as the program reads it: a mistake in the file would bring the questions back.
    assert root.run("perl -c /etc/needrestart/conf.d/50-sitekeeper.conf").rc == 0
