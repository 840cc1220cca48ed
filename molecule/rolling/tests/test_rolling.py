"""A deploy over several hosts costs no visitor anything, stops at the first failure, and says who has which release."""

from __future__ import annotations

import re

from tests.outside import lost

#: In the code of an app: true on the second host only.
HERE = '__import__("socket").gethostname().endswith("web2")'
#: Only there the front page of a release on trial does not answer.
NOT_SOUND = f"if {HERE}:\n    app.view_functions['site.home'] = lambda: 1 / 0\n"


def bad_on(host):
    """Return a command that fails on one host after the switch there."""
    return [f"case $(uname -n) in *{host}) echo it is bad here >&2; exit 1;; esac"]


def test_nothing_to_do_drains_nobody(playbook):
    done = playbook("deploy")
    assert done.code == 0, done.output
    assert "drain" not in done.output.lower()
    assert "Finished: 0 changed" in done.output


def test_a_changed_app_goes_from_host_to_host_and_no_visitor_is_lost(playbook, changed, visitors, has):
    before = has()
    with visitors() as load:
        done = playbook("deploy", app_source=changed())
    assert done.code == 0, done.output
    assert lost(load.stop()) == {}
    after = has()
    assert after["web1"] == after["web2"] != before["web1"]
    assert done.output.index("web1 -> balance1") < done.output.index("web2 -> balance1")
    for name, release in after.items():
        assert re.search(rf"(?m)^{name} +{re.escape(release)}$", done.output), done.output


def test_a_release_that_is_not_sound_on_one_host_is_switched_to_on_none(playbook, changed, visitors, has):
    before = has()
    with visitors() as load:
        done = playbook("deploy", app_source=changed(NOT_SOUND))
    assert done.code != 0
    assert "/ of app_smoke_paths: it answers 500" in done.output
    assert "Nothing was switched: web2 failed" in done.output
    assert lost(load.stop()) == {}
    assert has() == before


def test_the_first_host_that_fails_ends_the_roll_and_the_next_was_not_even_restarted(
    playbook, changed, visitors, has, on
):
    before = has()
    invocation = on("web2", "systemctl show currents.service --property=InvocationID")
    with visitors() as load:
        done = playbook("deploy", app_source=changed(), release_after_switch=bad_on("web1"))
    assert done.code != 0
    assert "it is bad here" in done.output
    assert lost(load.stop()) == {}
    assert has() == before, "taken back on the first, as before on the second"
    assert on("web2", "systemctl show currents.service --property=InvocationID") == invocation
    assert re.search(r"(?m)^web1 +\S+ +release \S+ was taken back", done.output), done.output
    assert re.search(r"(?m)^web2 +\S+ +\S+ is proven, and was not switched to", done.output), done.output


def test_a_failure_on_the_second_host_leaves_the_first_with_the_new_release_until_it_goes_back(
    playbook, changed, visitors, has
):
    before = has()
    with visitors() as load:
        done = playbook("deploy", app_source=changed(), release_after_switch=bad_on("web2"))
        assert done.code != 0
        now = has()
        assert (now["web2"], now["web1"] != before["web1"]) == (before["web2"], True), done.output
        back = playbook("rollback", "--limit", "web1")
    assert back.code == 0, back.output
    assert lost(load.stop()) == {}
    assert has() == before


def test_a_killed_run_leaves_a_host_drained_and_the_next_one_heals_it(playbook, changed, killed, states, visitors, has):
    code = changed()
    with visitors() as load:
        killed(app_source=code)
        assert any(drained for _, drained in states().values())
        done = playbook("deploy", app_source=code)
    assert done.code == 0, done.output
    assert lost(load.stop()) == {}
    assert set(states().values()) == {(True, False)}
    assert len(set(has().values())) == 1


def test_what_was_put_into_maintenance_by_hand_stays_there(playbook, on, states):
    tell = "import socket; s = socket.socket(socket.AF_UNIX); s.connect('/run/haproxy/admin.sock'); s.sendall({!r})"
    on("balance1", "python3 -c %s", tell.format(b"set server currents/web1 state maint\n"))
    try:
        assert playbook("deploy").code == 0
        assert states()["web1"] == (False, True)
    finally:
        on("balance1", "python3 -c %s", tell.format(b"set server currents/web1 state ready\n"))
