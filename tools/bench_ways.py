"""The ways to deploy that the bench compares: the playbook, the script that people write first, and plain Ansible."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import resource
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import yaml

from lab.ssh import ADDRESS, USER, ssh_argv
from tools.bench_part import ROOT, BenchError
from tools.bench_site import APP, THREADS, WELL_SECONDS, WORKERS, Bench, Site, poll

WAYS = ROOT / "tools" / "ways"
#: What the rivals need besides the site's packages: rsync, and what Ansible's module pip needs.
PACKAGES = "rsync,python3-venv,python3-packaging"
#: Where the rivals' apps listen; the site has its own port.
PORTS = {"script": 5601, "ansistrano": 5602}
#: The line that each redeploy changes.
MARK = "REVISION = "
UNIT = """[Unit]
Description=The app as {name} deploys it
[Service]
User={user}
StateDirectory={name}
WorkingDirectory={code}
ExecStart={venv}/bin/gunicorn --bind 0.0.0.0:{port} --worker-class gthread {numbers} app:app
Restart=always
[Install]
WantedBy=multi-user.target
"""
_PHASES = re.compile(r"^Phase +time +changed +failed$\n((?:.+\n)+)", re.MULTILINE)
_PHASE = re.compile(r"^(.+?) +([0-9.]+) s +\d+ +\d+$")


@dataclasses.dataclass(frozen=True)
class Run:
    """What a command took.

    Attributes:
        seconds: of the whole process.
        cpu_seconds: of this computer's processors, that of its children included.
        output: all that it printed.
        answered_seconds: until what it deployed answered a visitor; 0 where it deploys nothing.
    """

    seconds: float
    cpu_seconds: float
    output: str
    answered_seconds: float = 0.0


def timed(words: Sequence[str], environment: Mapping[str, str]) -> Run:
    """Run a command, its output to the terminal as it comes. Raises BenchError when it fails."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    with subprocess.Popen(
        words,
        cwd=ROOT,
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        assert process.stdout
        lines = []
        for line in process.stdout:
            sys.stderr.write(line)
            lines.append(line)
    seconds, after = time.monotonic() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    if process.returncode != 0:
        raise BenchError(f"status {process.returncode} of: {shlex.join(words)}")
    cpu_seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Run(round(seconds, 2), round(cpu_seconds, 2), "".join(lines))


@contextlib.contextmanager
def cold() -> Iterator[dict[str, str]]:
    """Give the environment of an Ansible that finds no open connection, and close those that it opens.

    An operator who deploys twice a day finds none either, and ssh's login is a part of what a script takes.
    """
    # A short name: the path of a socket may have 104 bytes.
    with tempfile.TemporaryDirectory(prefix="cp") as directory:
        yield {"ANSIBLE_SSH_CONTROL_PATH_DIR": directory}
        for path in Path(directory).iterdir():
            subprocess.run(
                ["ssh", "-O", "exit", "-o", f"ControlPath={path}", ADDRESS], capture_output=True, check=False
            )


def phases(output: str) -> dict[str, float]:
    """Return the seconds of each phase, from the table at the end of a run; empty without one."""
    found = _PHASES.search(output)
    rows = (_PHASE.match(line) for line in found[1].splitlines()) if found else ()
    return {row[1].strip(): float(row[2]) for row in rows if row}


def changed(output: str) -> int | None:
    """Return how many things a run says it changed; None where it does not say."""
    found = re.search(r"^Finished: (\d+) changed, \d+ failed", output, re.MULTILINE)
    return int(found[1]) if found else None


def copied(source: Path, target: Path) -> Path:
    """Copy code, without what Python left in it; return the copy."""
    return Path(shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__", ".pytest_cache")))


def mark(code: Path, number: int) -> None:
    """Change the one line of the app."""
    page = code / "currents" / "site.py"
    lines = [line for line in page.read_text(encoding="utf-8").splitlines() if not line.startswith(MARK)]
    page.write_text("\n".join([*lines, f"{MARK}{number}"]) + "\n", encoding="utf-8")


def unit_of(name: str) -> str:
    """Return a rival's unit: plain Gunicorn, as many workers and threads as the site has."""
    root = f"/srv/{name}"
    code, venv = {
        "script": (f"{root}/code", f"{root}/venv"),
        "ansistrano": (f"{root}/current", f"{root}/current/venv"),
    }[name]
    numbers = f"--workers {WORKERS} --threads {THREADS}"
    return UNIT.format(name=name, user=USER, code=code, venv=venv, port=PORTS[name], numbers=numbers)


class Deploys:
    """The same app, deployed in each way to a place of its own on one machine."""

    def __init__(self, bench: Bench, site: Site, code: Path) -> None:
        self.bench, self.site, self.code = bench, site, code
        self._count = 0
        self._uv = ""

    def prepare(self) -> None:
        """Bring the rivals' packages, directories and units. Raises BenchError."""
        shell = self.site.shell
        shell.run(f"DEBIAN_FRONTEND=noninteractive apt-get install -qy {PACKAGES.replace(',', ' ')} >/dev/null 2>&1")
        self._uv = shell.run("ls -d /opt/sitekeeper/uv-*").split()[0]
        for name in PORTS:
            shell.run(f"install -d -o {USER} /srv/{name}")
            shell.run(f"cat >/etc/systemd/system/{name}.service <<'END'\n{unit_of(name)}END")
        shell.run("systemctl daemon-reload")

    def deploy(self, way: str) -> Run:
        """Change one line and deploy it: `playbook`, `script` or `ansistrano`; afterwards wait until it is well.

        Raises BenchError when it fails, changes nothing, or the app is not well.
        """
        self._count += 1
        mark(self.code, self._count)
        start = time.monotonic()
        run = {"playbook": self.play, "script": self._script, "ansistrano": self._ansistrano}[way]()
        if way == "playbook":
            if not changed(run.output):
                raise BenchError("a redeploy of changed code changed nothing")
            self.site.wait_well()
        else:
            url = f"http://127.0.0.1:{self.bench.machine.describe()['forwards'][str(PORTS[way])]}/health"
            if not poll(lambda: answers(url), WELL_SECONDS):
                raise BenchError(f"the app that {way} deployed is not well")
        return dataclasses.replace(run, answered_seconds=round(time.monotonic() - start, 2))

    def wait_unwatched(self) -> None:
        """Wait until the last deploy is no longer watched: the watch is the site's work, not the next one's."""
        if not poll(
            lambda: "inactive" in self.site.shell.run(f"systemctl is-active {APP}-watch || true"), WELL_SECONDS
        ):
            raise BenchError("the last deploy is watched for ever")

    def play(self, playbook: str = "playbooks/deploy.yml") -> Run:
        """Run one of our playbooks, or any other with our configuration, as an operator does."""
        with cold() as environment:
            return timed(self.bench.playbook(playbook), environment)

    def _script(self) -> Run:
        access = self.bench.machine.access()
        ssh = ssh_argv(access)[:-1]
        code = self._with_gunicorn()
        words = [str(WAYS / "script.sh"), str(code), f"{USER}@{ADDRESS}", "/srv/script", "script", self._uv]
        return timed(words, {"SSH": shlex.join(ssh)})

    def _ansistrano(self) -> Run:
        variables = {
            "ansistrano_deploy_from": str(self._with_gunicorn()),
            "ansistrano_deploy_to": "/srv/ansistrano",
            "ansistrano_unit": "ansistrano",
            "ansistrano_health_url": f"http://127.0.0.1:{PORTS['ansistrano']}/health",
        }
        more = [word for name, value in variables.items() for word in ("-e", f"{name}={value}")]
        with cold() as environment:
            return timed(
                self.bench.playbook(str(WAYS / "ansistrano" / "deploy.yml"), *more),
                {**environment, "ANSIBLE_CONFIG": str(WAYS / "ansistrano" / "ansible.cfg")},
            )

    def _with_gunicorn(self) -> Path:
        """Return a copy of the code whose requirements name Gunicorn, which the site brings by itself."""
        copy = self.bench.inventory / "code"
        shutil.rmtree(copy, ignore_errors=True)
        copied(self.code, copy)
        defaults = yaml.safe_load((ROOT / "roles/app/defaults/main.yml").read_text(encoding="utf-8"))
        with (copy / "requirements.txt").open("a", encoding="utf-8") as out:
            out.write(f"gunicorn=={defaults['app_gunicorn_version']}\n")
        return copy


def answers(url: str) -> bool:
    """Tell whether a URL answers 200."""
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return answer.status == 200
    except OSError:
        return False
