"""Program on the controller: keeps a channel to the host open for as long as the run lives. Started by `deploy_lock`.

The run's own processes cannot do that: the worker that runs a task ends with it. So this is a small process in a
session of its own. It ends, and with it the channel, when the run ends in whichever way, by `kill -9` too.
"""

from __future__ import annotations

import contextlib
import os
import select
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import IO

#: How often the other end hears something.
BEAT_SECONDS = 2.5
#: First word of the line with which the other end answers; whatever a login script prints comes before it.
GREETING = "sitekeeper-anchor"

#: The other end, a process of the login user. Its line: GREETING, the controller's address or `-`, /proc/self/stat.
#: A builtin reads that file, so it is the shell's own. PATIENCE seconds of silence end it; a closed channel does, too.
ANCHOR = (
    f'read -r stat </proc/self/stat; from=${{SSH_CONNECTION%% *}}; echo "{GREETING} ${{from:--}} $stat"; '
    "while read -r -t PATIENCE _; do :; done"
)


def anchor_command(patience_seconds: int) -> list[str]:
    """Return the command of the channel's other end; bash, since dash's `read` knows no time limit."""
    return ["bash", "-c", ANCHOR.replace("PATIENCE", str(patience_seconds))]


def parse_greeting(line: str) -> tuple[int, str, str] | None:
    """Return the anchor's pid, start time (clock ticks since boot) and the address it sees; None for another line."""
    words = line.split(maxsplit=2)
    if len(words) != 3 or words[0] != GREETING:
        return None
    # The name in brackets may hold anything; the fields after it begin with the third, and the start time is the 22nd.
    return int(words[2].split()[0]), words[2].rpartition(")")[2].split()[19], words[1]


def waiter(pid: int) -> Callable[[float], bool]:
    """Return a function that waits up to some seconds for the end of a process, and tells whether it has ended."""
    if not hasattr(os, "pidfd_open"):  # a controller without Linux

        def wait(seconds: float) -> bool:
            select.select([], [], [], seconds)
            try:
                os.kill(pid, 0)
            except OSError:
                return True
            return False

        return wait
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return lambda _seconds: True
    return lambda seconds: bool(select.select([handle], [], [], seconds)[0])


def keep(ended: Callable[[float], bool], channel: IO[bytes]) -> None:
    """Let the other end hear something every BEAT_SECONDS, until the run has ended or nobody listens."""
    with contextlib.suppress(BrokenPipeError):
        while not ended(BEAT_SECONDS):
            channel.write(b"\n")
            channel.flush()


def main(arguments: Sequence[str]) -> int:
    """Open the channel with a command, print its greeting, keep it open while the process of a pid lives.

    Args:
        arguments: the pid, then the command.
    """
    ended = waiter(int(arguments[0]))
    with subprocess.Popen(arguments[1:], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as channel:
        assert channel.stdin is not None
        assert channel.stdout is not None
        for line in channel.stdout:
            if parse_greeting(text := line.decode("utf-8", "replace")):
                print(text, end="", flush=True)
                break
        else:
            return channel.wait() or 1
        # Whoever started this reads on until the pipes are closed.
        quiet = os.open(os.devnull, os.O_RDWR)
        os.dup2(quiet, 1)
        os.dup2(quiet, 2)
        keep(ended, channel.stdin)
        # The channel's end is the anchor's; ssh would wait for an answer over a network that is gone.
        channel.terminate()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
