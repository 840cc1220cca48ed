"""The balancer's configuration as haproxy reads it, and that a reload is never lost; with the real haproxy."""

from __future__ import annotations

import json
import subprocess
import threading

import pytest
from ansible.module_utils.testing import patch_module_args

from plugins.modules import balancer_config
from plugins.modules.balancer_config import running
from tests.polling import PATIENCE_SECONDS
from tests.unit.rendering import ROLES, render, role_file, value_of
from tests.unit.roles.front_site import eventually, haproxy

SERVERS = [{"name": f"web{n}", "address": f"192.0.2.{n}", "port": 5555, "maxconn": 16} for n in (1, 2, 3)]


@pytest.fixture
def take(site, admin, tmp_path, monkeypatch, capsys):
    """Run the module; `systemctl reload` does what `works` says."""

    def run(description, works=True, check=False, wait=10):
        programs = tmp_path / "bin"
        programs.mkdir(exist_ok=True)
        reload = f'echo "$@" >>{tmp_path}/asked; ' + (f"kill -USR2 {site.process.pid}" if works else "true")
        (programs / "systemctl").write_text(f"#!/bin/sh\n{reload}\n")
        (programs / "systemctl").chmod(0o755)
        monkeypatch.setenv("PATH", f"{programs}:/usr/bin:/bin")
        arguments = {
            "unit": "haproxy.service",
            "socket": site.socket,
            "description": description,
            "backend": "currents",
            "wait_seconds": wait,
            "_ansible_check_mode": check,
        }
        with patch_module_args(arguments), pytest.raises(SystemExit):
            balancer_config.main()
        return json.loads(capsys.readouterr().out)

    run.asked = lambda: (tmp_path / "asked").read_text() if (tmp_path / "asked").exists() else ""
    return run


def test_the_configuration_of_several_hosts_is_one_that_haproxy_takes(tmp_path):
    path = tmp_path / "haproxy.cfg"
    path.write_text(render("balancer", "haproxy.cfg.j2", balancer_servers=SERVERS))
    done = subprocess.run([haproxy(), "-c", "-f", path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr


def test_only_root_and_haproxy_s_group_may_drain():
    lines = render("balancer", "haproxy.cfg.j2").splitlines()
    assert "    stats socket /run/haproxy/admin.sock user root group haproxy mode 660 level admin" in lines


def test_the_configuration_is_tried_before_it_takes_its_place():
    (files,) = [
        task["config_files"]["files"] for task in role_file("balancer", "tasks/main.yml") if "config_files" in task
    ]
    assert files[0]["validate"] == "{{ __balancer_program }} -c -f %s"


def test_the_description_changes_with_the_configuration_and_with_nothing_else():
    one, again = (value_of("balancer", "__balancer_description", balancer_servers=SERVERS) for _ in "ab")
    assert one == again != value_of("balancer", "__balancer_description", balancer_servers=SERVERS[:2])


def test_who_a_visitor_is_is_decided_by_the_same_lines_as_at_the_front():
    shared = (ROLES / "front/templates/visitors.cfg.j2").read_text().splitlines()
    rules = [line for line in shared if "http-request" in line or "log-format" in line]
    assert len(rules) >= 6
    for role, template in (("front", "front.cfg.j2"), ("balancer", "haproxy.cfg.j2")):
        rendered = render(role, template).splitlines()
        assert [line for line in rules if line not in rendered] == [], role
    assert "    acl trusted src 192.0.2.0/24" in render(
        "balancer", "haproxy.cfg.j2", balancer_trusted_sources=["192.0.2.0/24"]
    )


def test_what_visitors_say_of_themselves_is_dropped_and_their_address_is_written(site, admin):
    said = {"X-Forwarded-For": "203.0.113.9", "X-Forwarded-Host": "bank.example.org", "SCRIPT_NAME": "/x"}
    assert site.get("/headers", headers=said)[0] == 200
    seen = next(app.headers for app in site.apps.values() if app.headers)
    assert seen["x-forwarded-for"] == "203.0.113.9", "the loopback is believed by default"
    assert "script_name" not in seen


def test_a_changed_configuration_is_a_reload_and_costs_no_visitor_anything(site, admin, take):
    (site.top / "haproxy.cfg").write_text(site.configuration("sitekeeper two"))
    answers, end = [], threading.Event()

    def visit():
        while not end.is_set():
            answers.append(site.get()[0])

    visitor = threading.Thread(target=visit)
    visitor.start()
    said = take("sitekeeper two")
    end.set()
    visitor.join(PATIENCE_SECONDS)
    assert said["changed"], said
    assert said["restarts"] == [{"unit": "haproxy.service", "action": "reload", "why": "its configuration changed"}]
    assert running(admin) == "sitekeeper two"
    assert set(answers) == {200}
    again = take("sitekeeper two")
    assert (again["changed"], again["restarts"]) == (False, [])
    assert take.asked() == "reload haproxy.service\n"


def test_a_reload_that_was_lost_with_an_earlier_run_is_made_good_and_a_dry_run_only_says_so(site, take):
    (site.top / "haproxy.cfg").write_text(site.configuration("sitekeeper two"))
    assert take("sitekeeper two", check=True)["changed"]
    assert take.asked() == ""
    assert take("sitekeeper two")["changed"]


def test_a_haproxy_that_does_not_take_it_fails_the_run(take):
    said = take("sitekeeper two", works=False, wait=0)
    assert said["failed"]
    assert "it did not take the configuration" in said["msg"]


def test_a_site_of_which_nobody_is_well_fails_the_run_with_the_reason(site, admin, take):
    for app in site.apps.values():
        app.well = False
    eventually(lambda: not any(server.up for server in admin.servers("currents").values()), "all down")
    said = take("sitekeeper one", wait=0)
    assert "web1: L7STS 503" in said["msg"]


def test_a_reload_forgets_who_was_drained(site, admin, take):
    admin.tell("currents", "web1", "drain")
    (site.top / "haproxy.cfg").write_text(site.configuration("sitekeeper two"))
    take("sitekeeper two")
    eventually(lambda: not admin.servers("currents")["web1"].drained, "filled")
