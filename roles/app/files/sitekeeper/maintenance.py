"""Maintenance: a page for visitors in the app's place, for as long as a file says, while the app runs on."""

from __future__ import annotations

import datetime
import html
import json
import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sitekeeper.answers import prefers_json

WSGI = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]

#: The file is looked at no more often.
LOOK_SECONDS = 1.0
#: A longer one is a mistake, or the clock's: what is forgotten must not close a site for good.
LONGEST_SECONDS = 24 * 3600.0
#: How those who must know the truth call themselves: the watchdog, the monitor, deploys.
OWN_AGENTS = ("sitekeeper", "sitectl")
_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Down for maintenance</title>
<style>:root {{ color-scheme: light dark; font: 1.1rem/1.5 system-ui, sans-serif }}
main {{ max-width: 38rem; margin: 15vh auto 0; padding: 0 1rem }}</style>
<main>
<h1>Down for maintenance</h1>
<p>{message}</p>
<p>We expect to be back by <time datetime="{iso}">{time}</time>.</p>
</main>
</html>
"""


@dataclass(frozen=True)
class Notice:
    """What visitors are told. `until` is seconds since 1970: it has to mean the same after a reboot."""

    until: float
    message: str


def parse(text: str) -> Notice:
    """Return what a file says.

    Raises:
        ValueError: it is damaged.
    """
    raw = json.loads(text)
    if not isinstance(raw, dict) or type(raw.get("until")) not in (int, float) or not isinstance(raw["message"], str):
        raise ValueError("it must hold a number `until` and a text `message`")
    if not math.isfinite(raw["until"]):
        raise ValueError("`until` is no moment")
    return Notice(float(raw["until"]), raw["message"])


class Maintenance:
    """The file, as one worker sees it.

    Args:
        path: the file.
        warn: called with a line when the file cannot be used; once, not at each look.
        clock: seconds since 1970.
        steady: a clock that only goes on, in seconds.
    """

    def __init__(
        self,
        path: Path,
        warn: Callable[[str], Any],
        clock: Callable[[], float] = time.time,
        steady: Callable[[], float] = time.monotonic,
    ) -> None:
        self.path = path
        self.warn = warn
        self.clock = clock
        self.steady = steady
        self.looked = float("-inf")
        self.seen: tuple[int, int] | None = None
        self.notice: Notice | None = None
        self.problem = ""

    def now(self) -> tuple[Notice, float] | None:
        """Return what visitors are told and for how many seconds still, or None when the app serves them."""
        moment = self.steady()
        if moment - self.looked >= LOOK_SECONDS:
            # In this order: another thread meanwhile looks for itself, and does not take what was seen before for new.
            self.look()
            self.looked = moment
        if self.notice is None:
            return None
        left = self.notice.until - self.clock()
        return (self.notice, left) if 0 < left <= LONGEST_SECONDS else None

    def look(self) -> None:
        """Read the file if it is another than before; one that cannot be used is as good as none."""
        seen, notice, problem = None, None, ""
        try:
            found = self.path.stat()
            seen = (found.st_ctime_ns, found.st_ino)
            notice = self.notice if seen == self.seen else parse(self.path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            seen = None
        except (OSError, ValueError, KeyError) as error:
            problem = f"{type(error).__name__}: {error}"
        if problem and problem != self.problem:
            self.warn(f"{self.path} cannot be used, the site stays open: {problem}")
        self.seen, self.notice, self.problem = seen, notice, problem

    def around(self, app: WSGI, health_path: str) -> WSGI:
        """Return the app that answers visitors itself during maintenance.

        Who asks for the health path always gets the app's own answer. Where that is the front page, which visitors ask
        for too, only those do who call themselves ours.
        """

        def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
            closed = self.now()
            if closed is None or is_health(environ, health_path):
                return app(environ, start_response)
            notice, left = closed
            body, kind = page(notice, left, environ)
            headers = [("Content-Type", kind), ("Content-Length", str(len(body))), ("Cache-Control", "no-store")]
            start_response("503 Service Unavailable", [*headers, ("Retry-After", str(math.ceil(left)))])
            return [] if environ.get("REQUEST_METHOD") == "HEAD" else [body]

        return application


def is_health(environ: dict[str, Any], health_path: str) -> bool:
    """Tell whether a request is one for the app's health."""
    if environ.get("PATH_INFO") != health_path:
        return False
    return health_path != "/" or str(environ.get("HTTP_USER_AGENT", "")).startswith(OWN_AGENTS)


def page(notice: Notice, left: float, environ: dict[str, Any]) -> tuple[bytes, str]:
    """Return the body and its content type: a page for people, JSON for programs."""
    until = datetime.datetime.fromtimestamp(notice.until, datetime.timezone.utc)
    iso = until.isoformat(timespec="seconds")
    if prefers_json(environ.get("HTTP_ACCEPT", "")):
        answer = {"error": "Service Unavailable", "status": 503, "message": notice.message, "until": iso}
        answer |= {"retry_after_seconds": math.ceil(left), "request_id": environ.get("HTTP_X_REQUEST_ID", "")}
        return json.dumps(answer).encode(), "application/json"
    shown = {"message": html.escape(notice.message), "iso": iso, "time": f"{until:%H:%M} UTC"}
    return _PAGE.format(**shown).encode(), "text/html; charset=utf-8"
