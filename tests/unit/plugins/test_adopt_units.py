"""Which services of systemd an adoption stops and disables: those of the app, and nobody else's."""

from __future__ import annotations

from dataclasses import replace

import pytest
from ansible.module_utils.adopt_host import Host
from ansible.module_utils.adopt_plan import problems_of, survey, text_of

from tests.unit.plugins.adopt_tree import APP


def run_below(tree, unit, **also):
    """Let the app run below a service; return its control group."""
    group = f"/system.slice/{unit}"
    tree.process(10, 1, ["python3", "app.py"], environ={"PATH": "/usr/bin:/bin"}, cgroup=group, **also)
    tree.listen(10)
    return group


def systemd(main):
    """Return a systemctl that names this main process of every service."""
    return lambda words: (0, f"{main}\n", "") if "MainPID" in words else (1, "", f"{words} is not foreseen")


@pytest.mark.parametrize(("where", "there"), [("", ""), ("", "/below"), ("/below", "")])
def test_service_that_runs_others_too_is_refused_and_not_the_apps(tree, wanted, where, there):
    run_below(tree, f"supervisor.service{where}")
    group = f"/system.slice/supervisor.service{there}"
    tree.process(5, 1, ["/usr/bin/supervisord", "-n"], cwd="/", uid=0, cgroup=group)
    tree.process(6, 1, ["python3", "other.py"], cwd="/srv/other", cgroup="/system.slice/supervisor.service.d")
    found = survey(Host(tree.root), wanted)
    (problem,) = problems_of(found, wanted)
    assert "process 10 (python3 app.py) runs below supervisor.service with others (/usr/bin/supervisord -n)" in problem
    assert "take it out of there, start it by hand" in problem
    assert found.unit == ""
    assert "started by supervisor.service" in text_of(found, wanted)


@pytest.mark.parametrize(("main", "refused"), [(10, False), (0, True), (99, True)])
def test_service_that_does_not_watch_the_app_is_refused(tree, wanted, main, refused):
    run_below(tree, "rc-local.service")
    found = survey(Host(tree.root, systemd(main)), wanted)
    assert [("runs below rc-local.service" in one) for one in problems_of(found, wanted)] == [True] * refused
    assert found.unit == ("" if refused else "rc-local.service")


def test_service_of_the_app_alone_is_adopted_and_shown(tree, wanted):
    group = run_below(tree, "site.service")
    tree.process(11, 10, ["sh", "-c", "thumbnails"], cgroup=group)
    found = survey(Host(tree.root), wanted)
    assert (found.unit, problems_of(found, wanted)) == ("site.service", [])
    assert "site.service: runs the app; stopped and disabled" in text_of(found, wanted)


def test_service_that_is_gone_once_it_is_stopped_is_refused(tree, wanted):
    run_below(tree, "run-u42.service")
    tree.file("run/systemd/transient/run-u42.service", "[Service]\n")
    (problem,) = problems_of(survey(Host(tree.root), wanted), wanted)
    assert "run-u42.service was made by systemd-run and is gone once it is stopped" in problem
    assert "start the app by hand" in problem


@pytest.mark.parametrize(
    ("text", "mine"),
    [
        (f"WorkingDirectory={APP}\nExecStart=/usr/bin/python3 app.py", True),
        (f"WorkingDirectory=-{APP}/\nExecStart={APP}/venv/bin/gunicorn -w 2 app:app", True),
        (f"WorkingDirectory={APP}\nExecStart=/usr/bin/python3 \\\n  -u ./app.py", True),
        (f"ExecStart=/usr/bin/python3 {APP}/app.py", True),
        (f'ExecStart=/bin/bash -c "cd {APP} && exec python3 app.py"', True),
        (f"ExecStart={APP}/venv/bin/gunicorn --chdir={APP} app:app", True),
        (f"WorkingDirectory={APP}\nExecStart=/usr/bin/python3 worker.py", False),
        (f"WorkingDirectory={APP}\nExecStart={APP}/venv/bin/celery -A tasks worker", False),
        (f"WorkingDirectory={APP}/blog\nExecStart=/usr/bin/python3 app.py", False),
        (f"ExecStart=/usr/bin/python3 {APP}/blog/app.py", False),
        (f"# was once WorkingDirectory={APP}\nExecStart=/usr/bin/python3 app.py", False),
        (f"ExecStart=/usr/bin/rsync {APP}/app.log backup:", False),
    ],
)
def test_unit_file_is_the_apps_by_its_directory_and_script_and_not_by_a_path_below(tree, wanted, text, mine):
    tree.process(10, 1, ["python3", "app.py"])
    tree.listen(10)
    tree.file("etc/systemd/system/site.service", f"[Service]\n{text}\n")
    assert survey(Host(tree.root), wanted).units == (("site.service",) if mine else ())


def test_neighbours_of_an_app_in_a_home_directory_keep_their_services(tree, wanted):
    tree.process(10, 1, ["python3", "app.py"], cwd="/home/ubuntu")
    tree.listen(10)
    tree.file("etc/systemd/system/blog.service", "[Service]\nWorkingDirectory=/home/ubuntu/blog\n")
    tree.file("etc/systemd/system/site.service", "[Service]\nWorkingDirectory=/home/ubuntu\nExecStart=python3 app.py\n")
    found = survey(Host(tree.root), replace(wanted, source="/home/ubuntu"))
    assert found.units == ("site.service",)
    assert "site.service: disabled, a copy is kept" in text_of(found, wanted)


OURS = "[Service]\nExecStartPre=+/usr/local/lib/sitekeeper/before-start.sh\n"


@pytest.mark.parametrize(
    ("unit", "cwd", "file", "state"),
    [
        ("", "/srv/currents", OURS, "foreign"),
        ("", "/srv/currents/releases/code-1/code", OURS, "foreign"),
        ("currents.service", "/srv/currents/releases/code-1/code", OURS, "adopted"),
        ("currents.service", "/srv/currents", "[Service]\nWorkingDirectory=/srv/currents\n", "foreign"),
        ("currents.service", APP, OURS, "foreign"),
        ("other.service", "/srv/currents", OURS, "foreign"),
        ("currents-front.service", "/", OURS, "adopted"),
    ],
)
def test_only_what_our_own_services_run_is_adopted_already(tree, wanted, unit, cwd, file, state):
    group = f"/system.slice/{unit}" if unit else "/user.slice/user-1000.slice/session-3.scope"
    tree.process(10, 1, ["python3", "app.py"], cwd=cwd, cgroup=group)
    tree.listen(10)
    tree.file("etc/systemd/system/currents.service", file)
    assert survey(Host(tree.root), wanted).state == state


@pytest.mark.parametrize("directory", ["/srv/currents", "/srv/currents/app", "/srv", "/var/lib/currents/app"])
def test_app_that_lives_where_the_new_site_will_is_refused(tree, wanted, directory):
    tree.process(10, 1, ["python3", "app.py"], cwd=directory, environ={"PATH": "/usr/bin:/bin"})
    tree.listen(10)
    wanted = replace(wanted, source=directory)
    (problem,) = problems_of(survey(Host(tree.root), wanted), wanted)
    assert problem.startswith(f"the app lives in {directory}, and the new site will in /")
    assert "move its directory" in problem
