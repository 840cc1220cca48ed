"""What the monitor role puts on a host, rendered by Ansible's own engine and read as cron and sitectl read it."""

from __future__ import annotations

import json
import re
import subprocess

import pytest

from tests.unit import rendering

GIVEN = {"monitor_name": "currents", "monitor_url": "http://127.0.0.1:5555/health"}


def read(path):
    return rendering.role_file("monitor", path)


def render(template, **given):
    """Render one of the role's templates for the app of the examples."""
    return rendering.render("monitor", template, **GIVEN, **given)


def parse_cron(text):
    """Read a file of /etc/cron.d as strictly as cron does: its variables and its one job."""
    assert text.endswith("\n"), "cron ignores a last line without a line break"
    variables, jobs = {}, []
    for line in text.splitlines():
        if not line or line.startswith("#"):
            continue
        if setting := re.fullmatch(r"([A-Z]+)=(.*)", line):
            assert not jobs, "a variable counts only for the jobs below it"
            variables[setting[1]] = setting[2].strip('"')
            continue
        fields = line.split(None, 6)
        assert len(fields) == 7, line
        assert all(re.fullmatch(r"[\d*/,-]+", field) for field in fields[:5]), line
        jobs.append({"when": " ".join(fields[:5]), "user": fields[5], "command": fields[6]})
    (job,) = jobs
    return variables, job


@pytest.fixture(scope="module")
def cron():
    return parse_cron(render("monitor.cron.j2"))


def test_the_job_runs_each_minute_as_root(cron):
    _, job = cron
    assert (job["when"], job["user"]) == ("* * * * *", "root")


def test_the_jobs_environment_is_complete(cron):
    variables, _ = cron
    assert variables["SHELL"] == "/bin/sh"
    assert variables["MAILTO"] == ""
    assert {"/usr/sbin", "/usr/bin", "/sbin", "/bin"} <= set(variables["PATH"].split(":"))


def test_the_command_is_locked_and_limited_from_outside(cron):
    _, job = cron
    assert job["command"] == ("flock -n /run/sitectl-currents.cron timeout -k 5 50 sitectl --site currents check")
    assert "%" not in job["command"], "cron reads % as the end of the command"


def test_the_program_ends_before_timeout_ends_it(cron):
    from sitectl.check import CHECK_SECONDS

    _, job = cron
    grace, limit = re.search(r"timeout -k (\d+) (\d+) ", job["command"]).groups()
    assert int(limit) > CHECK_SECONDS
    assert int(limit) + int(grace) < 60


def test_the_command_line_runs_in_cron_s_shell(cron, tmp_path):
    variables, job = cron
    # Where the role installs it, moved: cron finds it only through the PATH that the file sets.
    program = tmp_path / "usr-local-bin" / "sitectl"
    program.parent.mkdir()
    program.write_text('#!/bin/sh\necho "ran $*"\n')
    program.chmod(0o755)
    command = job["command"].replace("/run/", f"{tmp_path}/")
    environment = {**variables, "PATH": variables["PATH"].replace("/usr/local/bin", str(program.parent))}
    done = subprocess.run(
        [variables["SHELL"], "-c", command], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout == "ran --site currents check\n"


def test_the_cron_file_s_name_is_one_that_cron_reads():
    name = read("vars/main.yml")["__monitor_cron_file"].replace("{{ monitor_name }}", "currents")
    assert re.fullmatch(r"/etc/cron\.d/[a-zA-Z0-9_-]+", name)


def installed(path):
    """Return how the role's own tasks write `path`."""
    (file,) = [
        file
        for task in read("tasks/install.yml")
        for file in task.get("config_files", {}).get("files", [])
        if file["path"] == path
    ]
    return file


def test_the_cron_file_is_root_s_and_plain():
    file = installed("{{ __monitor_cron_file }}")
    assert (file.get("owner", "root"), file["mode"]) == ("root", "0644")


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"monitor_host_header": "www.example.org"},
        {"monitor_operations_socket": "/run/currents/operations.sock"},
        # as `--extra-vars monitor_timeout_seconds=5` hands them over
        {"monitor_timeout_seconds": "5", "monitor_failures_before_restart": "3"},
    ],
)
def test_the_program_accepts_the_settings_the_role_writes(given):
    from sitectl.settings import parse

    settings = parse(render("settings.json.j2", **given), "settings")
    assert settings.unit == "currents.service"
    assert settings.timeout_seconds == float(given.get("monitor_timeout_seconds", 10))
    assert settings.host_header == given.get("monitor_host_header")
    assert str(settings.operations_socket) == given.get("monitor_operations_socket", "None")
    assert str(settings.release_dir) == "/srv/currents"


def test_the_site_s_monitor_finds_the_socket_where_the_app_s_master_makes_it():
    from sitekeeper.settings import Settings

    app = Settings(**json.loads(rendering.render("app", "gunicorn.json.j2", wired=True)))
    settings = json.loads(rendering.render("monitor", "settings.json.j2", wired=True))
    assert settings["operations_socket"] == app.operations_socket == "/run/currents/operations.sock"
    assert settings["maintenance_file"] == app.maintenance_file == "/etc/currents/maintenance.json"


def test_the_settings_are_refused_before_they_are_installed():
    assert installed("{{ __monitor_settings_dir }}/{{ monitor_name }}.json")["validate"].endswith("validate %s")
