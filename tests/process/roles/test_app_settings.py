"""The settings of the app role: Gunicorn's, read by Gunicorn, and the app's environment, read as systemd reads it."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.polling import PATIENCE_SECONDS
from tests.unit.rendering import ROLES, render
from tests.unit.roles.environment_file import read_environment

NUMBERS = {
    "app_port": 5555,
    "app_workers": 4,
    "app_threads": 4,
    "app_timeout_seconds": 10,
    "app_boot_timeout_seconds": 60,
    "app_hang_seconds": 8,
    "app_request_limit_seconds": 300,
    "app_graceful_timeout_seconds": 30,
    "app_max_requests": 2000,
    "app_max_requests_jitter": 500,
}
AS_EXTRA_VARS = {name: str(value) for name, value in NUMBERS.items()}
HOSTILE = {
    "SPACES": "  two  words  ",
    "EMPTY": "",
    "DOUBLE": 'say "hello"',
    "SINGLE": "it's",
    "DOLLAR": "$HOME ${HOME} $$",
    "BACKSLASH": "C:\\new\\table\\",
    "BACKTICK": "`id`",
    "PERCENT": "100% %n %%",
    "HASH": "# no comment",
    "SEMICOLON": "; no comment",
    "EQUALS": "a=b=c",
    "UNICODE": "grüße €",
    "MIXED": '\\"$`\\\\"',
    "LINES": "one\ntwo\n",
    "URL": "postgresql://u:p%40ss@127.0.0.1/db?a=1&b=2",
}
GENERATOR = Path("/usr/lib/systemd/user-environment-generators/30-systemd-environment-d-generator")
WSGI = """
def app(environ, start_response):
    start_response("201 Created", [("Content-Type", "text/plain"), ("Content-Length", "2")])
    return [b"ok"]
"""


@pytest.mark.parametrize("given", [{}, AS_EXTRA_VARS])
def test_gunicorn_s_settings_have_the_types_it_needs(given):
    settings = json.loads(render("app", "gunicorn.json.j2", wired=True, **given))
    assert settings == {
        "app_module": "app:app",
        "bind": "0.0.0.0:5555",
        "workers": 4,
        "threads": 4,
        "timeout_seconds": 10,
        "boot_timeout_seconds": 60,
        "hang_seconds": 8,
        "request_limit_seconds": 300,
        "health_path": "/health",
        "graceful_timeout_seconds": 30,
        "memory_high_bytes": 800 * 1024**2,
        "memory_max_bytes": 1024**3,
        "max_requests": 2000,
        "max_requests_jitter": 500,
        "log_dir": "/var/log/currents",
        "runtime_dir": "/run/currents",
        "release_file": "/srv/currents/current/release.json",
        "maintenance_file": "/etc/currents/maintenance.json",
    }


def test_the_guards_are_told_the_limits_of_the_service():
    sizes = {"service_memory_high": "300M", "service_memory_max": "402653184"}
    for trial in (False, True):
        settings = json.loads(render("app", "gunicorn.json.j2", wired=True, trial=trial, **sizes))
        assert (settings["memory_high_bytes"], settings["memory_max_bytes"]) == (300 * 1024**2, 384 * 1024**2)


def test_systemd_reads_every_value_of_the_environment_as_it_was_given():
    text = render("app", "app.env.j2", wired=True, app_environment=HOSTILE)
    assert read_environment(text) == HOSTILE


def test_numbers_and_booleans_of_the_environment_come_out_as_text():
    text = render("app", "app.env.j2", wired=True, app_environment={"A_NUMBER": 2, "A_SWITCH": True})
    assert read_environment(text) == {"A_NUMBER": "2", "A_SWITCH": "True"}


def test_a_secret_wins_over_a_plain_value_of_the_same_name():
    both = {"app_environment": {"KEY": "plain", "OTHER": "o"}, "app_secrets": {"KEY": "secret"}}
    assert read_environment(render("app", "app.env.j2", wired=True, **both)) == {"KEY": "secret", "OTHER": "o"}


def test_an_app_without_environment_gets_an_empty_file():
    assert read_environment(render("app", "app.env.j2", wired=True)) == {}


@pytest.mark.parametrize("text", ["A=x'y'\n", 'A="open\n', 'A="x" y\n', "no variable\n"])
def test_the_reader_refuses_what_it_does_not_know(text):
    with pytest.raises(ValueError, match=r"\w"):
        read_environment(text)


def test_the_reader_agrees_with_systemd_s_own(tmp_path):
    # The generator reads environment.d with the parser of EnvironmentFile=. Unlike a service it then expands $, leaves
    # empty variables out and writes line breaks as \n.
    assert GENERATOR.exists(), "systemd is missing: run tools/setup.sh lab"
    given = {name: value for name, value in HOSTILE.items() if value and not set(value) & {"$", "\n"}}
    path = tmp_path / "environment.d/app.conf"
    path.parent.mkdir()
    path.write_text(render("app", "app.env.j2", wired=True, app_environment=given))
    environment = {"XDG_CONFIG_HOME": str(tmp_path), "HOME": str(tmp_path)}
    shown = subprocess.run(
        [GENERATOR], env=environment, capture_output=True, text=True, check=True, timeout=PATIENCE_SECONDS
    ).stdout
    # What it prints is for a shell.
    quoted = "".join(line for line in shown.splitlines(keepends=True) if line.partition("=")[0] in given)
    script = f'set -a\n{quoted}exec "{sys.executable}" -c "import json, os; print(json.dumps(dict(os.environ)))"\n'
    done = subprocess.run(
        ["/bin/bash", "-c", script], env={}, capture_output=True, text=True, check=True, timeout=PATIENCE_SECONDS
    )
    seen = json.loads(done.stdout)
    assert {name: seen[name] for name in given} == read_environment(path.read_text())


@pytest.fixture
def site(tmp_path):
    """A directory of settings as the role makes it, with everything it names below a directory of ours."""
    settings = json.loads(render("app", "gunicorn.json.j2", wired=True, app_workers=1))
    for name in ("log_dir", "runtime_dir"):
        settings[name] = str(tmp_path / name)
        (tmp_path / name).mkdir()
    settings["release_file"] = str(tmp_path / "release.json")
    (tmp_path / "release.json").write_text('{"id": "v1-0123"}')
    (tmp_path / "gunicorn.json").write_text(json.dumps(settings))
    shutil.copy(ROLES / "app/files/gunicorn.conf.py", tmp_path)
    shutil.copytree(ROLES / "app/files/sitekeeper", tmp_path / "sitekeeper")
    (tmp_path / "app.py").write_text(WSGI)
    return tmp_path


def gunicorn(site, *words):
    program = Path(sys.executable).with_name("gunicorn")
    assert program.exists(), "gunicorn is missing: run make setup"
    return [str(program), "--config", str(site / "gunicorn.conf.py"), *words]


def test_gunicorn_accepts_its_configuration(site):
    done = subprocess.run(
        gunicorn(site, "--check-config"),
        cwd=site,
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_SECONDS,
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_gunicorn_runs_as_configured(site):
    done = subprocess.run(
        gunicorn(site, "--print-config"), cwd=site, capture_output=True, text=True, check=True, timeout=PATIENCE_SECONDS
    )
    shown = dict(line.split("=", 1) for line in done.stdout.splitlines() if "=" in line)
    shown = {name.strip(): value.strip() for name, value in shown.items()}
    wanted = {
        "wsgi_app": "app:app",
        "bind": "['0.0.0.0:5555']",
        "workers": "1",
        "threads": "4",
        "worker_class": "<KeptWorker()>",
        "timeout": "10",
        "graceful_timeout": "30",
        "max_requests": "2000",
        "max_requests_jitter": "500",
        "accesslog": str(site / "log_dir/access.log"),
        "worker_tmp_dir": str(site / "runtime_dir"),
    }
    assert {name: shown.get(name) for name in wanted} == wanted


def test_a_release_that_was_never_recorded_is_no_reason_not_to_start(site):
    (site / "release.json").unlink()
    subprocess.run(
        gunicorn(site, "--check-config"), cwd=site, capture_output=True, check=True, timeout=PATIENCE_SECONDS
    )


@pytest.fixture
def running(site):
    """Real Gunicorn on a socket in the directory; it is gone at the end."""
    path = site / "site.sock"
    with (site / "output").open("w") as output:
        process = subprocess.Popen(
            gunicorn(site, "--bind", f"unix:{path}"), cwd=site, stdout=output, stderr=subprocess.STDOUT
        )
    yield path
    process.terminate()
    try:
        process.wait(timeout=PATIENCE_SECONDS)
    finally:
        process.kill()


def ask(path, request):
    """Send a request as soon as somebody listens; return the answer."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(PATIENCE_SECONDS)
            try:
                connection.connect(str(path))
            except OSError:
                assert time.monotonic() < deadline, path.with_name("output").read_text()
                time.sleep(0.05)
                continue
            connection.sendall(request)
            answer = b""
            while part := connection.recv(4096):
                answer += part
            return answer


def lines_of(path):
    """Return the lines of a log as soon as the first is complete."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not (path.exists() and path.read_text().endswith("\n")):
        assert time.monotonic() < deadline, f"nothing was written to {path}"
        time.sleep(0.05)
    return path.read_text().splitlines()


def test_a_request_is_one_line_of_json_whatever_its_path_and_agent_hold(running, site):
    target = "/a%0a%22b\"c?q='%0d%0a{}"
    agent = 'He said "hi" \\n %(x)s'
    request = f"GET {target} HTTP/1.1\r\nHost: site\r\nUser-Agent: {agent}\r\nConnection: close\r\n\r\n"
    assert ask(running, request.encode()).startswith(b"HTTP/1.1 201 Created\r\n")
    (line,) = lines_of(site / "log_dir/access.log")
    entry = json.loads(line)
    assert (entry["method"], entry["path"], entry["agent"]) == ("GET", target, agent)
    assert (entry["status"], entry["bytes"], entry["release"]) == (201, 2, "v1-0123")
    assert entry["pid"] != os.getpid()
    assert entry["milliseconds"] >= 0
    assert entry["time"].endswith("+00:00")
