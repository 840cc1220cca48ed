"""A release meets no visitor before it has proven itself; the switch loses nothing; what goes bad is taken back."""

from __future__ import annotations

import pytest

from tests.outside import lost

pytestmark = pytest.mark.usefixtures("well")

SLUG = "/api/markets/will-solar-double-its-output"
LIVE = 'if __import__("os").environ.get("SITEKEEPER_SETTINGS", "").endswith("gunicorn.json"):\n    '
LEAK = (
    "_kept = []\n\n\n@app.before_request\ndef leak():\n"
    "    _kept.append(bytearray(__import__('os').urandom(1024)) * 1024)\n"
)
BROKEN = {"import": ("import nowhere_to_be_found\n", "nowhere_to_be_found"), "leak": (LEAK, "it leaks")}
GOES_BAD = (
    "import time\n_born = time.monotonic()\n"
    + LIVE
    + "app.view_functions['health.health'] = lambda: ('ill', 503 if time.monotonic() > _born + 15 else 200)\n"
)
WRITE = "python3 -c \"import os; open(os.path.expanduser('~/hook.txt'), 'a').write(os.getcwd() + chr(10))\""


def test_deploys_in_a_row_lose_nothing_and_are_seen_from_outside(
    deploy, playbook, checkout, visitors, current, released, root
):
    before = current()
    with visitors() as load:
        first = playbook("deploy", app_source=checkout.path)
        assert first.code == 0, first.output
        between = current()
        second = deploy(release_before_switch=[WRITE], release_after_switch=[WRITE])
        assert second.code == 0, second.output
    assert lost(load.stop()) == {}
    assert len({before, between, current()}) == 3, "each was another release"
    assert [one["commit"] for one in released() if one["action"] == "deploy"][-2:] == [checkout.commit, ""]
    assert checkout.commit[:12] in root.check_output("sitectl releases")
    assert [one["result"] for one in released() if one["action"] == "deploy"][-2:] == ["live"] * 2
    hooks = root.check_output("cat /var/lib/currents/hook.txt").splitlines()
    assert hooks == [f"/srv/currents/releases/{current()}/code"] * 2, "both ran in the new release, as the app's user"


def test_a_dry_run_says_what_it_would_restart_and_restarts_nothing(playbook, show):
    run = show("currents.service", "InvocationID")
    done = playbook("deploy", "--check", app_threads=3)
    assert done.code == 0, done.output
    assert "Would restart: currents.service" in done.output
    assert "/etc/currents/gunicorn.json changed" in done.output
    assert show("currents.service", "InvocationID") == run


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_release_is_refused_with_its_cause_and_nobody_noticed(deploy, visitors, current, show, root, kind):
    before, run = current(), show("currents.service", "InvocationID")
    settings = root.check_output("sha256sum /etc/currents/app.env /etc/currents/gunicorn.json")
    change, cause = BROKEN[kind]
    with visitors() as load:
        done = deploy(change, app_environment={"CURRENTS_HERO_SECONDS": "7"}, app_threads=3)
    assert done.code != 0
    assert cause in done.output
    assert f"{before} serves as before" in done.output
    assert lost(load.stop()) == {}
    assert current() == before
    assert show("currents.service", "InvocationID") == run, "it was not even restarted"
    on_disk = root.check_output("sha256sum /etc/currents/app.env /etc/currents/gunicorn.json")
    assert on_disk == settings, "after a crash the old release starts with what it had"


def test_a_release_that_goes_bad_after_the_switch_is_taken_back_by_itself(deploy, current, released, site, poll, root):
    before = current()
    done = deploy(GOES_BAD)
    assert done.code == 0, done.output
    bad = [one["release"] for one in released() if one["action"] == "deploy"][-1]
    poll(lambda: released()[-1]["action"] == "take back", 200, "taken back")
    poll(lambda: site.healthy() and current() == before, 60, "the release before")
    assert "not well for" in released()[-1]["why"]
    assert root.file(f"/srv/currents/releases/{bad}/BAD").exists, "kept for a look"


def test_a_rollback_loses_no_visitor_and_the_database_goes_back_when_asked_for(
    deploy, playbook, current, visitors, site, released, root
):
    before, votes = current(), site.get(SLUG).json["votes"]["yes"]
    done = deploy()
    assert done.code == 0, done.output
    left = current()
    assert site.post(f"{SLUG}/vote", b'{"choice": "yes"}', "application/json").status == 201
    said = root.check_output("sitectl rollback --check")
    assert "rows lost by that: 1 of currents.db:votes" in said
    with visitors() as load:
        done = playbook("rollback", rollback_database="yes")
    assert done.code == 0, done.output
    assert lost(load.stop()) == {}
    assert current() == before
    assert site.get(SLUG).json["votes"]["yes"] == votes
    assert released()[-1]["action"] == "rollback"
    assert f"{left}  bad" in root.check_output("sitectl releases")
