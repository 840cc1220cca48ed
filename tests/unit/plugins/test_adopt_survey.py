"""What is found of an app that somebody runs by hand, and what stands in the way of adopting it."""

from __future__ import annotations

import os
import signal
from dataclasses import replace

import pytest
from ansible.module_utils.adopt_host import Host, app_directory, databases, family
from ansible.module_utils.adopt_plan import (
    command_of,
    problems_of,
    rows_of,
    survey,
    text_of,
    virtual_environment,
)

from tests.unit.plugins.adopt_tree import APP, hanging_is_a_failure, make_database

NOHUP = ["python3", "app.py"]


def families(tree, pid=10):
    return family(pid, Host(tree.root).processes())


def test_app_under_nohup_is_found_with_all_that_belongs_to_it(tree, wanted):
    environ = {"PATH": "/usr/bin:/bin", "HOME": "/home/ubuntu", "API_KEY": "canary-0123456789abcdef"}
    tree.process(10, 1, NOHUP, environ=environ, files=["/tmp/currents-app.log", "/tmp/currents-app.log"])
    tree.listen(10)
    found = survey(Host(tree.root), wanted)
    assert found.state == "foreign"
    assert (found.directory, found.unit, found.leader.uid) == (APP, "", 1000)
    assert found.leader.groups == (1000, 27)
    assert found.leader.outputs == ("/tmp/currents-app.log", "/tmp/currents-app.log")
    assert found.leader.ignores == (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT), "and not what Python itself ignores"
    assert problems_of(found, wanted) == []
    plan = text_of(found, wanted)
    assert "API_KEY: not in app_environment or app_secrets" in plan
    assert "canary" not in plan
    assert "HOME" not in plan
    assert "API_KEY" not in text_of(found, replace(wanted, environment=["API_KEY"]))


def test_nothing_that_listens_is_refused_with_the_way_out(tree, wanted):
    found = survey(Host(tree.root), wanted)
    assert problems_of(found, wanted) == [
        "nothing listens on port 5555: start the app, correct app_port, or use site.yml for a new site"
    ]


@pytest.mark.parametrize("cwd", ["/srv/currents/releases/code-1/code", "/srv/currents"])
def test_our_own_service_is_adopted_already(tree, wanted, cwd):
    tree.process(10, 1, ["gunicorn"], cwd=cwd, cgroup="/system.slice/currents.service")
    tree.listen(10)
    tree.listen(1)
    found = survey(Host(tree.root), wanted)
    assert (found.state, problems_of(found, wanted), text_of(found, wanted)) == ("adopted", [], "")


def test_broken_off_adoption_is_healed_first_also_when_nothing_listens(tree, wanted):
    tree.file("var/lib/sitekeeper/currents/adopt/plan.json", '{"status": "switching"}')
    found = survey(Host(tree.root), wanted)
    assert found.state == "unfinished"
    assert problems_of(found, wanted) == []
    assert "put back" in text_of(found, wanted)
    assert survey(Host(tree.root), wanted, midway=True).state == "nothing"


def test_reloader_and_its_child_are_one_family_in_the_order_of_age(tree):
    tree.process(20, 1, NOHUP)
    tree.process(10, 20, ["/usr/bin/python3", "app.py"])
    tree.process(11, 10, ["sh", "-c", "thumbnails"])
    tree.listen(10)
    assert families(tree) == [20, 10, 11]


def test_script_that_starts_the_app_again_belongs_to_it(tree):
    tree.process(20, 1, ["bash", "run.sh"], program="/usr/bin/bash")
    tree.process(10, 20, NOHUP)
    assert families(tree) == [20, 10]


@pytest.mark.parametrize(
    ("argv", "cwd", "uid"),
    [
        (["-bash"], APP, 1000),
        (["bash", "-i"], APP, 1000),
        (["tmux", "new"], "/home/ubuntu", 1000),
        (["bash", "run.sh"], APP, 0),
        (["/usr/sbin/cron", "-f"], "/var/spool/cron", 0),
    ],
)
def test_terminal_and_what_is_somebody_elses_stay_out_of_the_family(tree, argv, cwd, uid):
    tree.process(20, 1, argv, cwd=cwd, uid=uid, program="/usr/bin/bash")
    tree.process(10, 20, NOHUP)
    tree.process(12, 20, ["vim", "notes"])
    assert families(tree) == [10]


@pytest.mark.parametrize(
    ("argv", "leads", "script"),
    [
        (["/bin/bash", "--init-file", "/home/ubuntu/.vscode-server/shellIntegration-bash.sh"], False, False),
        (["bash", "--rcfile", "/home/ubuntu/rc", "-i"], False, False),
        (["zsh", "-o", "nopromptsp", "-l"], False, False),
        (["bash", "-O", "extglob"], False, False),
        (["-su"], True, False),
        (["fish", "-C", "cd currents"], True, False),
        (["bash", "-euo", "pipefail", "run.sh"], False, True),
        (["bash", "--noprofile", "run.sh"], False, True),
        (["bash", "--", "run.sh"], False, True),
        (["bash", "-lc", "while true; do python3 app.py; done"], True, True),
    ],
)
def test_shell_is_a_script_only_by_its_file_or_command(tree, argv, leads, script):
    tree.process(20, 1, argv, program="/usr/bin/bash", leads=leads)
    tree.process(10, 20, NOHUP)
    tree.process(12, 20, ["vim", "notes"])
    assert families(tree) == ([20, 10, 12] if script else [10])


def test_script_that_a_terminal_was_opened_for_belongs_to_the_app(tree, tmp_path):
    (tmp_path / "run.sh").touch()
    tree.process(20, 1, ["bash", "run.sh"], cwd=str(tmp_path), program="/usr/bin/bash", leads=True)
    tree.process(10, 20, NOHUP, cwd=str(tmp_path))
    assert families(tree) == [20, 10]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"cgroup": "/system.slice/docker-0123.scope"}, "runs in a container"),
        ({"namespace": "pid:[2]"}, "runs in a container"),
        ({"cgroup": "/user.slice/user-1000.slice/user@1000.service/app.slice/site.service"}, "own systemd runs it"),
        ({"program": "/usr/bin/node", "argv": ["node", "x.js"]}, "no Python program"),
        ({"argv": ["gunicorn: master [app:app]"]}, "is no command"),
        ({"cwd": "/home/ubuntu/other"}, "lives in /home/ubuntu/other"),
    ],
)
def test_what_cannot_be_adopted_is_refused_with_its_reason(tree, wanted, change, words):
    tree.process(10, 1, change.pop("argv", NOHUP), environ={"PATH": "/usr/bin:/bin"}, **change)
    tree.listen(10)
    (problem,) = problems_of(survey(Host(tree.root), wanted), wanted)
    assert words in problem


def test_title_over_the_command_is_no_matter_when_a_unit_starts_it(tree, wanted):
    tree.process(10, 1, ["gunicorn: master [app:app]"], cgroup="/system.slice/currents.service")
    tree.listen(10)
    found = survey(Host(tree.root), wanted)
    assert found.unit == "currents.service"
    assert problems_of(found, wanted) == []


def test_two_unrelated_listeners_and_a_front_are_refused(tree, wanted):
    tree.process(10, 1, NOHUP, environ={"PATH": "/usr/bin:/bin"})
    tree.process(11, 1, NOHUP, environ={"PATH": "/usr/bin:/bin"}, cwd="/home/alice")
    tree.listen(10)
    tree.listen(11, inode=778)
    told = " ".join(problems_of(survey(Host(tree.root), wanted), replace(wanted, front=True)))
    assert "2 unrelated processes" in told
    assert "front: none" in told


def test_command_of_a_relative_path_counts_from_its_directory(tree, tmp_path):
    (tmp_path / "venv/bin").mkdir(parents=True)
    (tmp_path / "venv/bin/python").symlink_to("/bin/sh")
    tree.process(10, 1, ["venv/bin/python", "app.py"], cwd=str(tmp_path))
    one = Host(tree.root).process(10)
    assert command_of(one) == str(tmp_path / "venv/bin/python")
    assert virtual_environment(one) == ""
    (tmp_path / "venv/pyvenv.cfg").write_text("")
    assert virtual_environment(one) == str(tmp_path / "venv")


@pytest.mark.parametrize(
    ("argv", "cwd", "where"),
    [
        (NOHUP, APP, APP),
        (["python3", f"{APP}/app.py"], "/", APP),
        (["python3", "-u", "web/app.py"], APP, f"{APP}/web"),
        (["python3", f"{APP}/venv/bin/gunicorn", "app:app"], APP, APP),
    ],
)
def test_app_lives_where_its_script_lies(tree, argv, cwd, where):
    tree.process(10, 1, argv, cwd=cwd)
    assert app_directory(Host(tree.root).process(10)) == where


def test_databases_are_found_by_what_is_in_them_open_or_not(tree, tmp_path):
    app = tmp_path / "app"
    closed, opened, named = (make_database(tmp_path / one) for one in ("app/site.db", "data/a.sqlite", "data/b"))
    make_database(app / "venv/lib/tz.db")
    (app / "notes.db").write_text("no database")
    tree.process(10, 1, NOHUP, cwd=str(app), environ={"URL": f"sqlite:///{named}"}, files=[opened, "socket:[1]"])
    host = Host(tree.root)
    assert databases(host, [host.process(10)], str(app)) == sorted([closed, opened, named])


def test_pipe_or_device_among_the_files_does_not_hold_the_look_up(tree, tmp_path):
    app = tmp_path / "app"
    inside = make_database(app / "site.db")
    os.mkfifo(app / "control")
    os.mkfifo(tmp_path / "named")
    tree.process(10, 1, NOHUP, cwd=str(app), environ={"PIPE": str(tmp_path / "named"), "LONG": f"/{'a' * 300}"})
    host = Host(tree.root)
    with hanging_is_a_failure():
        assert databases(host, [host.process(10)], str(app)) == [inside]


def test_whole_host_is_not_searched_for_what_runs_at_its_root(tree, monkeypatch):
    tree.process(10, 1, NOHUP, cwd="/")
    monkeypatch.setattr(os, "walk", lambda top: pytest.fail(f"{top} is searched"))
    host = Host(tree.root)
    assert databases(host, [host.process(10)], "/") == []


def test_each_database_needs_a_place_and_is_told_the_setting_for_it(tree, wanted, tmp_path):
    app = tmp_path / "app"
    inside, outside = make_database(app / "data/site.db"), make_database(tmp_path / "else/votes.db")
    tree.process(10, 1, NOHUP, cwd=str(app), environ={"PATH": "/usr/bin:/bin", "DB": outside})
    tree.process(11, 1, ["python3", "/opt/hero.py"], cwd="/opt", files=[inside])
    tree.listen(10)
    wanted = replace(wanted, source=str(app))
    found = survey(Host(tree.root), wanted)
    told = problems_of(found, wanted)
    assert told[0].startswith("the database data/site.db has no place: add it to app_shared_paths")
    assert f"adopt_databases: {{{outside}: votes.db}}" in told[1]
    assert any("also opened by python3 /opt/hero.py" in text for _, text in rows_of(found, wanted))
    wanted = replace(wanted, shared=["data"], placed={outside: "votes.db"})
    found = survey(Host(tree.root), wanted)
    assert problems_of(found, wanted) == []
    assert found.databases == {inside: "/var/lib/currents/data/site.db", outside: "/var/lib/currents/votes.db"}
    wanted = replace(wanted, shared=[], exclude=["data"])
    assert list(survey(Host(tree.root), wanted).databases) == [outside]


def test_units_that_somebody_installed_are_found_ours_are_not(tree, wanted):
    tree.process(10, 1, NOHUP)
    tree.listen(10)
    tree.file("etc/systemd/system/site.service", f"[Service]\nWorkingDirectory={APP}\n")
    tree.file("etc/systemd/system/other.service", f"[Service]\nWorkingDirectory={APP}-staging\n")
    mine = tree.file("etc/systemd/system/currents.service", "[Service]\nExecStart=/usr/bin/false\n")
    assert survey(Host(tree.root), wanted).units == ("currents.service", "site.service")
    mine.write_text("[Service]\nExecStartPre=+/usr/local/lib/sitekeeper/before-start.sh\n")
    assert survey(Host(tree.root), wanted).units == ("site.service",)


def test_agents_started_by_hand_for_this_port_are_found_no_others(tree, wanted, tmp_path):
    tree.process(10, 1, NOHUP)
    tree.listen(10)
    config = tmp_path / "ngrok.yml"
    config.write_text("tunnels:\n  site:\n    addr: 5555\n")
    ngrok = {"program": "/usr/local/bin/ngrok", "cwd": "/home/ubuntu"}
    tree.process(30, 1, ["ngrok", "http", "5555"], **ngrok)
    tree.process(31, 1, ["ngrok", "http", "8080"], **ngrok)
    tree.process(32, 1, ["ngrok", "start", "--all", f"--config={config}"], **ngrok)
    tree.process(33, 1, ["ngrok", "http", "5555"], cgroup="/system.slice/ngrok.service", **ngrok)
    found = survey(Host(tree.root), wanted)
    assert [one.pid for one in found.agents] == [30, 32]
    assert "stays: there is no ngrok_authtoken" in text_of(found, wanted)
    assert "stopped when the role ngrok takes over" in text_of(found, replace(wanted, tunnel=True))
