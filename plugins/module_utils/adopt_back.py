"""The way back from a change-over: the old process as it was, with the rows that came in. Runs on the host, as root."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from ansible.module_utils import adopt_database as database
from ansible.module_utils.adopt_host import Host, Run
from ansible.module_utils.adopt_originals import Originals, flat, remembered, start_again, unused
from ansible.module_utils.adopt_plan import KEPT
from ansible.module_utils.adopt_wanted import AdoptError, Wanted

#: Until the old process, put back, answers.
BACK_SECONDS = 120.0
POLL_SECONDS = 0.05


@contextlib.contextmanager
def step(what: str, told: list[str]) -> Iterator[None]:
    """Let a step of the way back fail, whatever the reason, and add that to what the operator is told."""
    try:
        yield
    except Exception as error:
        told.append(f"{what} failed: {error}")


class WayBack(Originals):
    """What puts an old app back, from what is on disk.

    Args:
        wanted: what the settings say of it.
        run: runs a command; returns status, output and error output.
        host: the host.
    """

    def __init__(self, wanted: Wanted, run: Run, host: Host | None = None) -> None:
        self.wanted, self.host = wanted, host or Host(run=run)
        super().__init__(self.host.root / KEPT / wanted.name / "adopt", run, self.host.root)
        self.service, self.socket = f"{wanted.name}.service", f"{wanted.name}.socket"

    def systemctl(self, *words: str) -> str:
        """Run systemctl. Raises AdoptError with what it says."""
        status, out, err = self.run(("systemctl", *words))
        if status != 0:
            raise AdoptError(f"systemctl {' '.join(words)} failed: {err.strip() or out.strip()}")
        return out.strip()

    def show(self, unit: str, name: str) -> str:
        """Return a property of a unit."""
        return self.systemctl("show", unit, "-p", name, "--value")

    def until(self, true: Callable[[], object], seconds: float) -> bool:
        """Ask until it is true or the time is over; tell which."""
        deadline = time.monotonic() + seconds
        while not (result := bool(true())) and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)
        return result

    def heal(self) -> str:
        """Put the old process back where a change-over was broken off; return what was done, or nothing.

        Raises:
            AdoptError: it does not listen again; says why.
        """
        if self.recalled().get("status") != "switching":
            return ""
        done = self.put_back()
        if not self.host.listeners(self.wanted.port):
            raise AdoptError(done)
        return done

    def put_back(self) -> str:
        """Make everything as it was before the change-over, from what is on disk; return what was done and what failed.

        Rows that came in through the new service are taken along. A step that fails keeps no other from its turn: what
        matters most is that the old app runs again.
        """
        plan = self.recalled()
        done: list[str] = []
        with step("stopping the new service", done):
            self.systemctl("disable", "--now", self.socket, self.service)
        if plan.get("started") and self.host.listeners(self.wanted.port):
            # What was taken along could not be written down, and the old app has its own rows since.
            done.append(f"port {self.wanted.port} is in use: no rows were taken along from {self.wanted.data_dir}")
        elif plan.get("started"):
            for path, place in plan["databases"].items():
                with step(f"taking rows along from {place}", done):
                    done.append(self.bring_back(Path(place), Path(path)))
            with step("writing down that rows were taken along", done):
                # Never once more: from here on the old app writes again.
                self.remember(started=False)
        with step("putting unit files back", done):
            self.restore_units()
        seconds = 0.0
        with step("starting the old app", done):
            if plan["unit"]:
                self.systemctl("start", plan["unit"])
            elif not self.host.listeners(self.wanted.port):
                start_again(remembered(plan["leader"]))
            seconds = BACK_SECONDS
        with step("bringing lines of cron back", done):
            self.restore_lines(self.wanted.name)
        back = self.until(lambda: self.host.listeners(self.wanted.port), seconds)
        with step("writing down that the old app is back", done):
            self.remember(status="put back")
        what = plan["unit"] or " ".join(plan["leader"]["argv"][:3])
        if back:
            done.append(f"the old app was put back as it was: {what}")
        else:
            by_hand = f"start it by hand, as {self.kept}/plan.json says, and run this again"
            done.append(f"the old app does NOT listen again; {by_hand}: {what}")
        return "\n".join(line for line in done if line)

    def bring_back(self, place: Path, path: Path) -> str:
        """Take rows of the new database along to the old one, which nobody has written to since; say what was done.

        Where that would take rows away, the old database stays as it is, and the new one is kept beside it.
        """
        if not place.exists():
            return ""
        databases = self.kept / "databases"
        try:
            database.check(place)
            if not (reason := self.reason_to_keep_both(place, path)):
                # The old database is the only one with the rows of the last moments before the change-over.
                database.copy(path, unused(databases / f"before%{flat(str(path))}"))
                database.copy(place, path)
                return ""
            copy = unused(databases / f"new%{path.name}")
            database.copy(place, copy)
        except (database.DatabaseError, OSError) as error:
            return f"{error}; the old database is as it was, and what the new release wrote is still in {place}"
        return f"the new release has {reason}: what it wrote is in {copy}, not in the old one"

    def reason_to_keep_both(self, place: Path, path: Path) -> str:
        """Return what the new release did to its database that the old one must not take over. Raises DatabaseError."""
        if database.schema(place) != database.schema(path):
            return f"changed the tables of {path.name}"
        if missing := database.fewer(database.counts(path), database.counts(place)):
            return f"taken rows away from {path.name} ({'; '.join(missing)})"
        return ""
