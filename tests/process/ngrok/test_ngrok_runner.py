from __future__ import annotations

import importlib.util
import os
import signal
import socket
import subprocess
import sys
import time

import pytest

from tests.polling import PATIENCE_SECONDS
from tests.unit.ngrok.rendering import ROLE, TOKEN, render

PROGRAM = ROLE / "files" / "run_agent.py"
REFUSED = f'echo \'err="Your authtoken: {TOKEN}\\r\\nERR_NGROK_107"\'; echo "Your authtoken: {TOKEN}" >&2; exit 1'


def load():
    spec = importlib.util.spec_from_file_location("run_agent", PROGRAM)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def runner(tmp_path):
    """Start the runner with a stand-in for the agent; it is gone at the end."""
    started = []

    def start(script: str, *options: str, version: int = 3, **environment: str) -> subprocess.Popen:
        agent = tmp_path / "ngrok"
        agent.write_text(f"#!/bin/sh\n{script}\n")
        agent.chmod(0o755)
        config = tmp_path / "ngrok.yml"
        config.write_text(render("ngrok.yml.j2", ngrok_config_version=version))
        process = subprocess.Popen(
            [sys.executable, "-I", PROGRAM, "--config", config, *options],
            env={"PATH": f"{tmp_path}:{os.environ['PATH']}", **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("version", [2, 3])
def test_refused_token_is_not_in_the_output(runner, version):
    process = runner(REFUSED, "--refused-delay", "0", version=version)
    output, _ = process.communicate(timeout=PATIENCE_SECONDS)
    assert TOKEN not in output
    assert output.count("[redacted]") == 2
    assert process.returncode == 1


def test_refusal_says_what_to_do(runner):
    output, _ = runner(REFUSED, "--refused-delay", "0").communicate(timeout=PATIENCE_SECONDS)
    assert "ERR_NGROK_107: the token is refused: set ngrok_authtoken" in output


def test_refused_agent_is_followed_late_and_systemd_is_told(runner, tmp_path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        channel.bind(str(tmp_path / "notify"))
        channel.settimeout(PATIENCE_SECONDS)
        process = runner(REFUSED, "--refused-delay", "60", NOTIFY_SOCKET=str(tmp_path / "notify"))
        status = ""
        while "next try" not in status:
            status = channel.recv(4096).decode()
    assert status.startswith("STATUS=The ngrok agent was refused with ERR_NGROK_107")
    assert status.endswith("next try in 60 s")
    assert process.poll() is None


def test_refusal_of_a_running_agent_shows_in_the_status_until_it_is_over(runner, tmp_path):
    script = 'echo "err=ERR_NGROK_108"; echo "client session established"; exec sleep 60'
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        channel.bind(str(tmp_path / "notify"))
        channel.settimeout(PATIENCE_SECONDS)
        process = runner(script, NOTIFY_SOCKET=str(tmp_path / "notify"))
        said = [channel.recv(4096).decode() for _ in range(2)]
    assert said[0].startswith("STATUS=ngrok refuses the agent with ERR_NGROK_108: too many agents")
    assert said[1] == "STATUS=connected to ngrok"
    process.terminate()


def test_stop_during_the_wait_is_obeyed_at_once(runner):
    process = runner(REFUSED, "--refused-delay", "60")
    while "next try in 60 s" not in process.stdout.readline():
        assert process.poll() is None
    process.terminate()
    assert process.wait(timeout=PATIENCE_SECONDS) == 1


def test_killed_agent_is_followed_at_once(runner):
    began = time.monotonic()
    process = runner("kill -9 $$", "--refused-delay", "60")
    output, _ = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 128 + signal.SIGKILL
    assert "was killed by signal 9; next try at once" in output
    assert time.monotonic() - began < 10


def test_stop_reaches_the_agent(runner):
    process = runner('trap "echo stopped; exit 0" TERM; echo up; while :; do sleep 0.1; done', "--refused-delay", "60")
    assert process.stdout.readline() == "up\n"
    process.terminate()
    output, _ = process.communicate(timeout=PATIENCE_SECONDS)
    assert output == "stopped\n"
    assert process.returncode == 0


def test_agent_gets_the_configuration_and_no_token_in_its_words(runner, tmp_path):
    output, _ = runner('echo "$@"; env', "--refused-delay", "0").communicate(timeout=PATIENCE_SECONDS)
    assert output.startswith(f"start --all --config {tmp_path}/ngrok.yml\n")
    assert TOKEN not in output


@pytest.mark.parametrize(
    ("status", "lived", "delay"),
    [(1, 1, 30), (1, 3600, 30), (2, 1, 30), (2, 3600, 0), (0, 1, 30), (0, 3600, 0), (-9, 1, 0), (-9, 3600, 0)],
)
def test_wait_depends_on_how_the_agent_ended(status, lived, delay):
    assert load().delay_after(status, lived, 30) == delay


@pytest.mark.parametrize("quote", ["", '"', "'"])
def test_secrets_are_found_however_they_are_quoted(quote):
    text = f"agent:\n  authtoken: {quote}tok{quote}\n  api_key: {quote}key{quote}\n  log: stdout\n"
    assert load().secrets_of(text) == ["tok", "key"]


def test_every_piece_of_advice_is_a_sentence_of_the_explanation():
    module = load()
    for number, advice in module.ADVICE.items():
        assert advice in module.explain(1, number, 30)
    assert "https://ngrok.com/docs/errors/" in module.explain(1, "999", 30)
