"""Proves a release before any visitor meets it: beside the running one, in the same sandbox, on a private socket."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from typing import Any

from siterelease import host
from siterelease.host import ReleaseError
from siterelease.releases import PROOF, Releases, digest, now
from siterelease.settings import Settings

#: The first requests fill caches; growth is what comes after them.
WARM_REQUESTS = 20
CHECK_CONFIG = 'exec ../venv/bin/gunicorn --check-config --config "$SITEKEEPER_CONFIG"'


def inputs_of(settings: Settings, releases: Releases, name: str) -> str:
    """Return the digest of all that a release would start with."""
    return digest([releases.path(name) / "release.json", *settings.inputs])


def is_proven(settings: Settings, releases: Releases, name: str) -> bool:
    """Tell whether a release was proven with the settings that are on disk."""
    return releases.note(name, PROOF).get("inputs") == inputs_of(settings, releases, name)


def run_task(settings: Settings, releases: Releases, name: str, command: str, what: str) -> None:
    """Run a shell command in a release: as the app's user, in its sandbox, with its environment.

    Args:
        settings: of the site.
        releases: its releases.
        name: in which release.
        command: for /bin/sh -e.
        what: names it in the message.

    Raises:
        ReleaseError: it failed; with the end of what it printed.
    """
    # A command of a run that was killed goes on by itself: its script is not written over, its end not taken for ours.
    host.wait_inactive(settings.task_unit, settings.hook_seconds)
    releases.point("trial", name)
    script = settings.run / "sitekeeper" / f"{settings.name}.task"
    script.write_text(f'PATH="$PWD/../venv/bin:$PATH"\n{command}\n', encoding="utf-8")
    script.chmod(0o644)
    status, _ = host.run(["systemctl", "start", settings.task_unit], settings.hook_seconds + 10)
    if status != 0:
        invocation = host.show(settings.task_unit, "InvocationID").get("InvocationID", "")
        raise ReleaseError(f"{what} failed.\n{host.last_lines(settings.task_unit, invocation)}")


def prove(settings: Settings, releases: Releases, name: str) -> dict[str, Any]:
    """Boot a release where no visitor comes, ask it, and note that it is sound.

    Raises:
        ReleaseError: it is not; the message has the cause and the end of its log.
    """
    releases.point("trial", name)
    start = time.monotonic()
    # Not "start": a run that was killed may have left the trial of another release behind, and that would be proven.
    status, said = host.run(["systemctl", "restart", settings.trial_unit], settings.start_seconds + 150)
    invocation = host.show(settings.trial_unit, "InvocationID").get("InvocationID", "")
    try:
        if status != 0:
            raise ReleaseError(f"it does not start: {said.strip().splitlines()[0] if said.strip() else status}")
        boot_seconds = time.monotonic() - start
        facts = examine(settings, releases)
    except ReleaseError as error:
        raise ReleaseError(f"{error}\n{host.last_lines(settings.trial_unit, invocation)}") from error
    finally:
        with contextlib.suppress(ReleaseError):
            host.systemctl("stop", settings.trial_socket, settings.trial_unit, seconds=120)
    proof = {
        "at": now(),
        "inputs": inputs_of(settings, releases, name),
        "boot_seconds": round(boot_seconds, 2),
        **facts,
    }
    releases.write(name, PROOF, proof)
    return proof


def examine(settings: Settings, releases: Releases) -> dict[str, Any]:
    """Ask the release on trial for its health, the smoke paths, and its memory.

    Raises:
        ReleaseError: something is wrong with it.
    """
    address, operations = settings.trial_address, f"{settings.run}/{settings.name}-trial/operations.sock"
    answer = host.wait_well(address, settings.health_path, settings.start_seconds)
    if not answer.well:
        raise ReleaseError(f"{settings.health_path} is not well: {answer.words}")
    for path in settings.smoke_paths:
        answer = host.ask(address, path)
        if not 200 <= answer.status <= 399:
            raise ReleaseError(f"{path} of app_smoke_paths: {answer.words}")
    if settings.trial_requests == 0:
        return {}
    paths = settings.smoke_paths or (settings.health_path,)
    send(address, paths, WARM_REQUESTS)
    before = worker(operations)
    send(address, paths, settings.trial_requests)
    after = worker(operations)
    if before[0] != after[0]:
        raise ReleaseError(f"its worker did not live through {settings.trial_requests} requests")
    growth = after[1] - before[1]
    reference = int(releases.note(releases.pointed("current"), PROOF).get("growth_bytes") or 0)
    allowed = max(reference, 0) + settings.trial_growth_bytes
    if growth > allowed:
        raise ReleaseError(
            f"it leaks: {mib(growth)} more after {settings.trial_requests} requests, and the running release had "
            f"{mib(reference)}. Allowed is {mib(allowed)} (release_trial_growth_max)"
        )
    return {"requests": settings.trial_requests, "growth_bytes": growth}


def send(address: str, paths: Sequence[str], count: int) -> None:
    """Send requests, one after the other; each must be answered without an error of the server.

    Raises:
        ReleaseError: one was not.
    """
    for number in range(count):
        path = paths[number % len(paths)]
        answer = host.ask(address, path)
        if not answer.status or answer.status >= 500:
            raise ReleaseError(f"{path}, request {number + 1} of {count}: {answer.words}")


def worker(operations: str) -> tuple[int, int]:
    """Return pid and memory in bytes of the trial's worker, children included.

    Raises:
        ReleaseError: there is none.
    """
    for one in host.ask_json(operations, "/memory").get("workers", []):
        if one.get("state") == "serves":
            return int(one["pid"]), int(one["with_children_bytes"] or one["rss_bytes"] or 0)
    raise ReleaseError("it has no worker that serves")


def mib(number: int) -> str:
    """Return bytes for people."""
    return f"{number / 1024**2:.1f} MiB"


def check_config(settings: Settings, releases: Releases, name: str) -> None:
    """Let Gunicorn load the configuration and import the app, in the sandbox.

    Raises:
        ReleaseError: it cannot.
    """
    run_task(settings, releases, name, CHECK_CONFIG, "gunicorn --check-config")
