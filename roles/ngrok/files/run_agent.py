"""Run the ngrok agent: keep its token out of the log, and keep a refused agent from hammering the edge.

The agent repeats its token in full when the edge refuses it (ERR_NGROK_105 and 107), at every log level and once more
on its standard output. So its output passes through here, and every secret of its configuration is blanked out.

An agent that ends by itself (token refused, too many agents, address still online) is started again by systemd, but
not at once: this program stays for a while before it follows. One that is killed is followed at once.
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

SECRET = re.compile(r"""^\s*(?:authtoken|api_key):\s*["']?([^"'\s]+)""", re.MULTILINE)
ERROR = re.compile(r"ERR_NGROK_(\d+)")
ONLINE = "client session established"
# An agent that ends sooner than this after its start will do so again.
EARLY_SECONDS = 30.0
REFUSED_STATUS = 1  # what the agent exits with when the edge refuses it; a crash of its own gives 2

TOKEN = "the token is refused: set ngrok_authtoken to a valid one and run the tunnel playbook"
TOO_OLD = "this agent is too old for the account: raise ngrok_version and run the tunnel playbook"
ADVICE = {
    "105": TOKEN,
    "107": TOKEN,
    "4018": TOKEN,
    "108": "too many agents are online for this account: stop the one that is not needed",
    "120": TOO_OLD,
    "121": TOO_OLD,
    "320": "the domain is not of this account: correct ngrok_domain and run the tunnel playbook",
    "334": "the address is still online: an old session ends by itself, another agent must be stopped",
}


def secrets_of(configuration: str) -> list[str]:
    """Find the values that must not be logged in the text of an agent's configuration."""
    return SECRET.findall(configuration)


def redact(text: str, secrets: list[str]) -> str:
    """Return `text` with every one of `secrets` blanked out."""
    for secret in secrets:
        text = text.replace(secret, "[redacted]")
    return text


def delay_after(status: int, lived_seconds: float, refused_seconds: float) -> float:
    """Decide how many seconds to wait before the next try, after an agent has ended with `status`.

    A negative status is the signal that killed the agent, as in `subprocess`.
    """
    refused = status == REFUSED_STATUS or (status >= 0 and lived_seconds < EARLY_SECONDS)
    return refused_seconds if refused else 0.0


def advise(error: str) -> str:
    """Say what ngrok's error number means for the operator."""
    return f"ERR_NGROK_{error}: {ADVICE.get(error, 'see https://ngrok.com/docs/errors/')}"


def explain(status: int, error: str, delay: float) -> str:
    """Say in one sentence why the agent ended and what to do."""
    cause = f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"
    if status == REFUSED_STATUS and error:
        cause = f"was refused with {advise(error)}"
    return f"The ngrok agent {cause}; " + (f"next try in {delay:.0f} s" if delay else "next try at once")


def notify(status: str) -> None:
    """Show `status` in `systemctl status`; without systemd this does nothing (sd_notify(3))."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        channel.connect(address)
        channel.send(f"STATUS={status}".encode())


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--agent", default="ngrok", help="the agent's program; looked up on PATH")
    parser.add_argument("--refused-delay", type=float, default=30.0, help="seconds")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Run the agent once; return its status, or 128 and the number of the signal that killed it."""
    given = parse(argv)
    secrets = secrets_of(given.config.read_text(encoding="utf-8"))
    stopping = threading.Event()
    started = time.monotonic()
    with subprocess.Popen(
        [given.agent, "start", "--all", "--config", str(given.config)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
    ) as agent:

        def stop(_number: int, _frame: object) -> None:
            stopping.set()
            agent.terminate()

        signal.signal(signal.SIGTERM, stop)
        signal.signal(signal.SIGINT, stop)
        error = ""
        for line in agent.stdout or ():
            # An agent that has been online before does not end when it is refused: it tries again, ever more slowly.
            if numbers := ERROR.findall(line):
                error = numbers[-1]
                notify(f"ngrok refuses the agent with {advise(error)}")
            elif ONLINE in line:
                notify("connected to ngrok")
            print(redact(line, secrets), end="", flush=True)
        status = agent.wait()
    if not stopping.is_set():
        delay = delay_after(status, time.monotonic() - started, given.refused_delay)
        sentence = explain(status, error, delay)
        print(sentence, flush=True)
        notify(sentence)
        stopping.wait(delay)
    return status if status >= 0 else 128 - status


if __name__ == "__main__":
    sys.exit(main())
