"""The change-over from a process that somebody started to the service. Runs on the host, as root."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ansible.module_utils import adopt_database as database
from ansible.module_utils.adopt_back import POLL_SECONDS, WayBack, step
from ansible.module_utils.adopt_cron import Line
from ansible.module_utils.adopt_host import Host, Process, Run, is_database
from ansible.module_utils.adopt_originals import flat, remembered, start_again, unused
from ansible.module_utils.adopt_plan import Found, agents_of, crontab, problems_of, survey, text_of
from ansible.module_utils.adopt_wanted import AdoptError, Wanted

#: How long the old processes have to end before they are killed; Flask's server needs none of it.
TERM_SECONDS = 5.0
#: systemd's stop of a unit that somebody wrote.
STOP_SECONDS = 20.0
#: A monitor that was just at work may start the app once more.
STOP_ROUNDS = 3
#: What SQLite puts beside a database; there may be rows in it.
BESIDE = ("-wal", "-shm", "-journal")
TRIAL = "import os, sys; from gunicorn.util import import_app; import_app(sys.argv[1]); os._exit(0)"
TAIL_LINES = 15


@dataclass(frozen=True)
class Site:
    """What the new site is like: the settings ``app_...``, and how long its service may take."""

    user: str
    module: str
    config_dir: str
    health_seconds: float
    outage_seconds: float


class Adoption(WayBack):
    """One adoption, its originals and its state below /var/lib/sitekeeper/NAME/adopt.

    Args:
        wanted: what the settings say of the old app.
        site: what they say of the new one.
        run: runs a command; returns status, output and error output.
        host: the host.
    """

    def __init__(self, wanted: Wanted, site: Site, run: Run, host: Host | None = None) -> None:
        super().__init__(wanted, run, host)
        self.site = site
        #: What was done about a change-over that was broken off.
        self.healed = ""

    # Small steps

    def is_over(self, unit: str) -> bool:
        """Tell whether a unit has stopped."""
        return self.show(unit, "ActiveState") in ("inactive", "failed")

    def journal(self) -> str:
        """Return the last lines of the new service, for error messages; nothing where they cannot be read."""
        with contextlib.suppress(OSError):
            return self.run(("journalctl", "--no-pager", "-q", "-o", "cat", "-n", str(TAIL_LINES), "-u", self.service))[
                1
            ]
        return ""

    def look(self) -> Found:
        """Look at the host anew. Raises AdoptError with everything that stands in the way."""
        found = survey(self.host, self.wanted)
        if problems := problems_of(found, self.wanted):
            raise AdoptError(
                "\n".join(["the app cannot be adopted, nothing was stopped:", *(f"  {one}" for one in problems)])
            )
        return found

    # Before anything is stopped

    def save(self) -> Found:
        """Keep the originals and copy the databases while the app goes on.

        Raises:
            AdoptError: something stands in the way, or copying takes longer than the site may be away; or a change-over
                was broken off, and its old process cannot be put back.
            DatabaseError: a database is damaged.
        """
        self.healed = self.heal()
        found = self.look()
        if found.state != "foreign":
            return found
        self.make_room()
        for name in found.units:
            shutil.copy2(self.units / name, self.kept / "units" / name)
            if (self.units / f"{name}.d").is_dir():
                shutil.copytree(self.units / f"{name}.d", self.kept / "units" / f"{name}.d", dirs_exist_ok=True)
        for path in {line.path for line in found.lines}:
            shutil.copy2(path, self.kept / "crontabs" / flat(path))
        self.remember_found(found, "saved")
        begun = time.monotonic()
        for path in found.databases:
            copy = self.kept / "databases" / flat(path)
            copy.unlink(missing_ok=True)
            self.copied(Path(path), copy)
        if (took := time.monotonic() - begun) > self.site.outage_seconds:
            raise AdoptError(
                f"saving the databases took {took:.0f} s, and the site is down while it is done once more: nothing was "
                f"stopped. Make them smaller, or allow more: -e adopt_outage_seconds={took * 2:.0f}"
            )
        return found

    def remember_found(self, found: Found, status: str) -> None:
        """Write down what the way back needs."""
        names = [*found.units, *([found.unit] if found.unit else [])]
        states = {name: self.show(name, "UnitFileState") for name in names}
        self.remember(
            status=status,
            started=False,
            leader=asdict(found.leader),
            directory=found.directory,
            unit=found.unit,
            units={**self.recalled().get("units", {}), **states},
            databases=dict(found.databases),
            agent_lines=[[line.path, line.text] for line in found.lines if line.agent],
            plan=text_of(found, self.wanted).splitlines(),
        )

    def copied(self, source: Path, copy: Path) -> dict[str, int]:
        """Copy a database, look through the copy and count its rows. Raises DatabaseError."""
        database.copy(source, copy)
        database.check(copy)
        return database.counts(copy)

    def try_out(self) -> None:
        """Load the new release once, as the service would, beside the old app. Raises AdoptError with what it says."""
        release = Path(self.wanted.root, "current")
        properties = {
            "User": self.site.user,
            "Group": self.site.user,
            "WorkingDirectory": str(release / "code"),
            "EnvironmentFile": f"{self.site.config_dir}/app.env",
            "StateDirectory": self.wanted.name,
            "StateDirectoryMode": "0750",
            "ProtectHome": "yes",
            "ProtectSystem": "strict",
            "PrivateTmp": "yes",
            "RuntimeMaxSec": f"{self.site.health_seconds:.0f}",
        }
        words = ["systemd-run", "--quiet", "--wait", "--collect", "--pipe"]
        words += [word for name, value in properties.items() for word in ("-p", f"{name}={value}")]
        status, out, err = self.run((*words, str(release / "venv/bin/python"), "-c", TRIAL, self.site.module))
        if status != 0:
            said = "\n".join((err.strip() or out.strip()).splitlines()[-TAIL_LINES:])
            raise AdoptError(f"the new release does not load {self.site.module}; nothing was stopped:\n{said}")

    # The change-over

    def switch(self, answered: Callable[[], bool]) -> dict[str, Any]:
        """Stop the old app and start the service; put the old one back when the new one does not answer.

        Args:
            answered: tells whether the site has just given good answers; asked again and again after the start.

        Raises:
            AdoptError: it was not changed over; says why, and that the old app runs.
        """
        try:
            found = self.look()
            if found.state != "foreign":
                return {}
            self.try_out()
            self.remember_found(found, "switching")
        except (AdoptError, OSError):
            self.restore_units()
            raise
        try:
            lines = self.retire(found)
            begun = time.monotonic()
            self.stop(found)
            rows = self.bring_data(found)
            self.start(answered)
            seconds = time.monotonic() - begun
            self.systemctl("enable", self.socket, self.service)
        except BaseException as error:
            said = f"{error}\n{self.journal()}".strip()
            back = self.put_back()
            raise AdoptError(f"the site was not changed over: {said}\n{back}") from error
        self.remember(status="done", outage=round(seconds, 2), rows=rows)
        return {"rows": rows, "retired": [line.text for line in lines], "stopped": [one.pid for one in found.members]}

    def retire(self, found: Found) -> list[Line]:
        """Comment out the lines of cron that would start the old app again."""
        lines = [line for line in found.lines if line.acts and not line.agent]
        self.comment_out([(line.path, line.text) for line in lines], self.wanted.name)
        return lines

    def stop(self, found: Found) -> None:
        """End the old app, and what a monitor started in its place. Raises AdoptError when the port stays taken."""
        for name in self.recalled()["units"]:
            if name == found.unit:
                self.systemctl("stop", "--no-block", name)
                self.until(partial(self.is_over, name), STOP_SECONDS)
            # The one of the site's own name too: it would start the new service at a boot in the middle of all this.
            self.systemctl("disable", name)
        drop_ins = self.units / f"{self.service}.d"
        if self.service in self.recalled()["units"] and drop_ins.is_dir():
            # Made for the old unit; they would change the new one.
            shutil.rmtree(drop_ins)
        # Here, since it takes a while, and an app that runs by hand still answers.
        self.systemctl("daemon-reload")
        now = found
        for _ in range(STOP_ROUNDS):
            self.end(now.members)
            now = survey(self.host, self.wanted, midway=True)
            if not now.members:
                break
            if now.directory != found.directory:
                raise AdoptError(f"port {self.wanted.port} was taken by somebody else meanwhile: {now.leader.shown}")
        else:
            raise AdoptError(f"port {self.wanted.port} is taken again and again: {now.leader.shown}")

    def end(self, members: Sequence[Process]) -> None:
        """Ask processes to end, the eldest first, and kill those that do not."""
        for number, seconds in ((signal.SIGTERM, TERM_SECONDS), (signal.SIGKILL, TERM_SECONDS)):
            for one in members:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(one.pid, number)
            if self.until(lambda: not any(self.host.process(one.pid) for one in members), seconds):
                return

    def bring_data(self, found: Found) -> dict[str, dict[str, int]]:
        """Copy databases and shared files, now that nobody writes. Raises DatabaseError, AdoptError."""
        rows = {}
        for path, place in found.databases.items():
            with self.placed(Path(place)) as fresh:
                rows[path] = self.copied(Path(path), fresh)
                if missing := database.fewer(database.counts(Path(path)), rows[path]):
                    raise AdoptError(f"the copy of {path} is not whole: {'; '.join(missing)}")
        for shared in self.shared_files(found.directory) if self.wanted.source_type == "host_path" else ():
            with self.placed(Path(self.wanted.data_dir, shared.relative_to(found.directory))) as fresh:
                shutil.copyfile(shared, fresh, follow_symlinks=False)
        return rows

    def shared_files(self, directory: str) -> Iterator[Path]:
        """Yield the files below app_shared_paths that are no databases: uploads and the like."""
        for name in self.wanted.shared:
            top = Path(directory, name)
            for path in [top, *top.rglob("*")]:
                part = path.name.endswith(BESIDE) or is_database(path)
                if path.is_file() and not path.is_symlink() and not part:
                    yield path

    @contextlib.contextmanager
    def placed(self, target: Path) -> Iterator[Path]:
        """Give a new file to be filled, which then takes the place of one in the app's data.

        Raises:
            AdoptError: a link leads out of the data.
        """
        data = Path(self.wanted.data_dir)
        below = [data / part for part in reversed(target.relative_to(data).parents)]
        for directory in below:
            if directory.is_symlink():
                raise AdoptError(f"{directory} is a link: put the directory itself there")
            directory.mkdir(mode=0o750, parents=True, exist_ok=True)
        fresh = target.with_name(f".{target.name}.adopt")
        fresh.unlink(missing_ok=True)
        # For no other user, from its first byte on.
        os.close(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        try:
            yield fresh
        except BaseException:
            fresh.unlink()
            raise
        for path in (*below, fresh):
            shutil.chown(path, self.site.user, self.site.user)
        if is_database(target):
            self.keep_replaced(target)
        for end in BESIDE:
            # What belongs to a database that lay there before would spoil this one.
            target.with_name(target.name + end).unlink(missing_ok=True)
        fresh.rename(target)

    def keep_replaced(self, target: Path) -> None:
        """Move a database out of its place: of a new release that failed, or of a site that ran here before."""
        kept = unused(self.kept / "databases" / f"replaced%{flat(str(target))}")
        for end in ("", *BESIDE):
            part = target.with_name(target.name + end)
            if part.exists():
                shutil.move(part, kept.with_name(kept.name + end))

    def start(self, answered: Callable[[], bool]) -> None:
        """Start the service and wait for its answers. Raises AdoptError when there are none."""
        self.remember(started=True)
        self.systemctl("start", self.socket)
        self.systemctl("start", "--no-block", self.service)
        deadline = time.monotonic() + self.site.health_seconds
        while not answered():
            restarts = int(self.show(self.service, "NRestarts") or 0)
            if restarts >= STOP_ROUNDS or time.monotonic() > deadline:
                what = "crashes again and again" if restarts else "gives no good answer"
                raise AdoptError(f"{self.service} {what}")
            time.sleep(POLL_SECONDS)

    # The ngrok agent

    def release_tunnel(self) -> list[str]:
        """End the agents that were started by hand, and the lines of cron that start them; return their commands."""
        agents = agents_of(self.host.processes(), self.wanted.port)
        lines = [(path, text) for path, text in self.recalled().get("agent_lines", [])]
        lines = [(path, text) for path, text in lines if text in crontab(Path(path)).split("\n")]
        if agents or self.recalled():
            self.kept.mkdir(mode=0o700, parents=True, exist_ok=True)
            # In place of what an earlier run has ended: the service has its tunnel by now.
            self.remember(agents=[asdict(one) for one in agents], agent_lines_retired=bool(lines))
        self.comment_out(lines, f"{self.wanted.name}-ngrok")
        self.end(agents)
        return [one.shown for one in agents] + [text for _, text in lines]

    def restore_tunnel(self) -> list[str]:
        """Start the agents again that this run has ended, and bring their lines back; return what was done."""
        plan, done = self.recalled(), list[str]()
        for one in map(remembered, plan.get("agents", [])):
            with step(f"starting {one.shown}", done):
                start_again(one)
                done.append(one.shown)
        if plan.get("agent_lines_retired"):
            self.restore_lines(f"{self.wanted.name}-ngrok")
        if plan:
            self.remember(agents=[], agent_lines_retired=False)
        return done
