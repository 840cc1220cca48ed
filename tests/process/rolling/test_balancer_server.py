"""A host is drained and filled at the real haproxy; and what its admin socket says is read from text."""

from __future__ import annotations

import threading

import pytest
from ansible.module_utils.haproxy_admin import AbsentError, Admin, RefusedError, parse_stat, parse_state

from plugins.modules.balancer_config import down, running
from plugins.modules.balancer_server import Task, drain, fill, why_not_drained
from tests.polling import PATIENCE_SECONDS
from tests.unit.roles.front_site import eventually
from tools.load import Ask, Load


def task(server="web1", wait=10, **more):
    return Task("currents", server, wait, sleep=lambda _: threading.Event().wait(0.01), **more)


def answering(site, count=20):
    return {site.get()[1] for _ in range(count)}


def test_a_drained_host_gets_no_visitors_and_a_filled_one_gets_them_again(site, admin):
    assert answering(site) == {"web1", "web2"}
    done = drain(admin, task())
    assert (done.changed, done.failed) == (True, False)
    assert done.text.endswith("nobody left at it")
    assert answering(site) == {"web2"}
    assert fill(admin, task()).changed
    assert answering(site) == {"web1", "web2"}


def test_draining_waits_for_the_last_visitor_to_be_served(site, admin):
    admin.tell("currents", "web2", "drain")
    served = []
    visitor = threading.Thread(target=lambda: served.append(site.get("/held")))
    visitor.start()
    eventually(lambda: site.apps["web1"].seen == ["/held"], "the visitor at web1")
    admin.tell("currents", "web2", "ready")
    drained = []
    draining = threading.Thread(target=lambda: drained.append(drain(admin, task(wait=20))))
    draining.start()
    eventually(lambda: admin.servers("currents")["web1"].drained, "drained")
    assert not drained, "somebody is still there"
    site.apps["web1"].go_on.set()
    draining.join(PATIENCE_SECONDS)
    visitor.join(PATIENCE_SECONDS)
    assert served == [(200, "web1")]
    assert "nobody left" in drained[0].text


def test_who_does_not_leave_is_waited_for_until_the_deadline_and_told(site, admin):
    admin.tell("currents", "web2", "drain")
    visitor = threading.Thread(target=lambda: site.get("/held"))
    visitor.start()
    eventually(lambda: site.apps["web1"].seen == ["/held"], "the visitor at web1")
    admin.tell("currents", "web2", "ready")
    done = drain(admin, task(wait=0.2))
    assert (done.changed, done.failed) == (True, False)
    assert "1 requests still at it" in done.text
    site.apps["web1"].go_on.set()
    visitor.join(PATIENCE_SECONDS)


def test_the_last_host_that_serves_is_not_drained(site, admin):
    assert drain(admin, task("web2")).changed
    done = drain(admin, task("web1"))
    assert not done.changed
    assert "the last one that serves" in done.text
    assert answering(site) == {"web1"}


def test_what_somebody_has_put_into_maintenance_stays_there(site, admin):
    admin.tell("currents", "web1", "maint")
    for act in (drain, fill):
        done = act(admin, task())
        assert (done.changed, "maintenance by hand" in done.text) == (False, True)
    assert admin.servers("currents")["web1"].maintenance


def test_a_host_that_a_killed_run_left_drained_is_filled_without_a_wait(site, admin):
    drain(admin, task())
    assert fill(admin, task(wait=0)).changed
    assert not fill(admin, task(wait=0)).changed, "the next run has nothing to heal"


def test_a_dry_run_only_says_it(site, admin):
    assert drain(admin, task(check=True)).changed
    assert not admin.servers("currents")["web1"].drained
    drain(admin, task())
    assert fill(admin, task(check=True)).changed
    assert admin.servers("currents")["web1"].drained


def test_a_host_that_is_not_well_is_not_taken_for_filled(site, admin):
    drain(admin, task())
    site.apps["web1"].well = False

    def told():
        server = admin.servers("currents")["web1"]
        # On a busy computer a check may first have ended for its time.
        return not server.up and server.check.startswith("L7STS 503")

    eventually(told, "DOWN")
    done = fill(admin, task(wait=0.3))
    assert done.failed
    assert "L7STS 503" in done.text


def test_a_host_or_a_site_that_haproxy_does_not_know_yet_is_left_alone(site, admin):
    for done in (drain(admin, task("web9")), fill(admin, task("web9"))):
        assert (done.changed, "not known there yet" in done.text) == (False, True)
    with pytest.raises(RefusedError, match="No such server"):
        admin.tell("currents", "web9", "ready")


def test_where_no_haproxy_runs_that_is_said(tmp_path):
    with pytest.raises(AbsentError, match="no HAProxy"):
        drain(Admin(str(tmp_path / "gone" / "admin.sock")), task())
    with pytest.raises(AbsentError, match="no HAProxy"):
        fill(Admin(str(tmp_path / "admin.sock")), task())


def test_the_process_says_which_configuration_it_has_and_who_is_down(site, admin):
    assert running(admin) == "sitekeeper one"
    assert down(admin, "currents") == ""
    for app in site.apps.values():
        app.well = False
    eventually(lambda: down(admin, "currents"), "all DOWN")
    assert "web1: L7STS 503" in down(admin, "currents")
    assert down(admin, "other") == "no server"
    assert running(Admin(site.socket + ".gone")) == ""


def test_a_request_that_dies_is_repeated_elsewhere_only_when_that_is_safe(site, admin):
    assert site.get("/dies")[0] == 502
    assert sorted(name for name, app in site.apps.items() for _ in app.seen) == ["web1", "web2"], "one each"
    site.get("/dies", "POST")
    assert sum(len(app.seen) for app in site.apps.values()) == 3, "once"


def test_hosts_that_are_restarted_in_their_turn_cost_twenty_visitors_a_second_nothing(site, admin):
    with Load(Ask(f"http://127.0.0.1:{site.port}"), rate=20, seconds=60) as load:
        for name in ("web1", "web2", "web1", "web2"):
            assert drain(admin, task(name)).changed
            site.apps[name].well = False
            site.apps[name].broken = True
            before = len(site.apps[name].seen)
            eventually(lambda name=name: not admin.servers("currents")[name].up, "DOWN while it restarts")
            assert len(site.apps[name].seen) == before, "nobody met it"
            site.apps[name].well = True
            site.apps[name].broken = False
            assert not fill(admin, task(name)).failed
    summary = load.stop().summary()
    assert set(summary.outcomes) == {"ok"}, summary.line()
    assert summary.requests > 10


STAT = """# pxname,svname,scur,type,check_status,check_code,
site,FRONTEND,1,0,,,
site,a,3,2,L7OK,200,
other,a,9,2,L4CON,,
"""
STATE = """1
# be_id be_name srv_id srv_name srv_addr srv_op_state srv_admin_state srv_uweight
3 site 1 a 10.0.0.1 2 0 1
3 site 2 b 10.0.0.2 2 8 1
3 site 3 c 10.0.0.3 0 1 1
3 site 4 d 10.0.0.4 1 0 1
"""


def test_the_state_of_each_server_is_read():
    found = parse_state(STATE, parse_stat(STAT, "site"))
    assert (found["a"].sessions, found["a"].check, found["a"].serves) == (3, "L7OK 200", True)
    assert (found["b"].drained, found["b"].serves) == (True, False)
    assert (found["c"].maintenance, found["c"].up) == (True, False)
    assert found["d"].up is False, "it is only about to be"
    assert parse_state("Can't find backend.\n", {}) == {}
    assert parse_stat("", "site") == {}


def test_a_host_that_is_down_needs_no_drain():
    found = parse_state(STATE.replace("10.0.0.1 2", "10.0.0.1 0"), {})
    assert "DOWN" in why_not_drained("a", found)
