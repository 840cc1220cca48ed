"""The services of systemd that run an app, or that somebody made for it: what an adoption may stop and disable."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from ansible.module_utils.adopt_host import Host, Process, is_inside

#: What is in our own units, and in nobody else's.
OWN = "/usr/local/lib/sitekeeper/"
#: Commands that serve an app without naming its script.
_SERVE = re.compile(r"gunicorn|uwsgi(-core)?|waitress-serve|flask|hypercorn|uvicorn")
_SCRIPT = re.compile(r"\.(py|sh)$")
#: ``app:app``, which is app.py.
_MODULE = re.compile(r"(?<![\w./])([A-Za-z_][\w.]*):[A-Za-z_]\w*")


def neighbours_of(unit: str, members: Sequence[Process], processes: Mapping[int, Process]) -> tuple[Process, ...]:
    """Return what runs below the same service as an app and is none of it: it would end with the service."""
    own = {one.pid for one in members}
    return tuple(one for one in processes.values() if unit and one.unit == unit and one.pid not in own)


def is_watched(host: Host, unit: str, members: Sequence[Process]) -> bool:
    """Tell whether a service is there for these processes: one that only left them behind ends something else."""
    main = host.main_pid(unit) if unit else None
    return main is None or main in {one.pid for one in members}


def is_transient(root: Path, unit: str) -> bool:
    """Tell whether a service was made by systemd-run: stopped, it is gone."""
    return bool(unit) and (root / "run/systemd/transient" / unit).exists()


def scripts_of(members: Sequence[Process]) -> set[str]:
    """Return the files that processes name as their program: ``app.py``, ``run.sh``, or app.py as ``app:app``."""
    found = set()
    for one in members:
        words = [word for word in one.argv[1:] if _SCRIPT.search(word) and not word.startswith("-")]
        words += [f"{module.replace('.', '/')}.py" for module in _MODULE.findall(" ".join(one.argv))]
        found |= {str(Path(one.cwd, word)) for word in words}
    return found


def settings(text: str, name: str) -> list[str]:
    """Return what a unit file says for a setting, each time that it says it."""
    return re.findall(rf"^\s*{name}\s*=\s*(.*?)\s*$", text.replace("\\\n", " "), re.MULTILINE)


def starts_app(text: str, directory: str, scripts: set[str]) -> bool:
    """Tell whether a unit file starts an app: its own script, or its directory with no other script.

    A path below its directory is no sign: other apps may live there, and a worker of this one is not its server.

    Args:
        text: the unit file.
        directory: where the app lives.
        scripts: the app's, as `scripts_of` says.
    """
    where = [value.strip('"').lstrip("-") for value in settings(text, "WorkingDirectory")][-1:]
    words = [word for value in settings(text, "ExecStart") for word in re.split(r"[\s\"';&|=]+", value) if word]
    here = directory in {str(Path(word)) for word in (*where, *words)}
    base = where[0] if where else directory if here else "/"
    if scripts & {str(Path(base, word)) for word in words}:
        return True
    serves = not words or any(_SERVE.fullmatch(Path(word).name) for word in words)
    return here and serves and not any(_SCRIPT.search(word) for word in words)


def is_somebodys(path: Path) -> bool:
    """Tell whether a unit file was written by somebody, and not by us."""
    text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    return bool(text) and OWN not in text


def unit_files(root: Path, name: str, directory: str, members: Sequence[Process]) -> list[str]:
    """Return the services in /etc/systemd/system that somebody made for an app: of its name, or that start it."""
    found, scripts = [], scripts_of(members)
    for path in filter(is_somebodys, sorted((root / "etc/systemd/system").glob("*.service"))):
        text = path.read_text(encoding="utf-8", errors="replace")
        if path.stem == name or starts_app(text, directory, scripts):
            found.append(path.name)
    return found


def belongs_to_site(process: Process, name: str, site_root: str, root: Path) -> bool:
    """Tell whether what listens is the site that we run, and no old process that lies in its way.

    That is systemd itself, which holds the socket, the front, and what our own unit runs from our releases. Somebody
    may have had a unit of that name before, which runs on when ours has taken its file's place.

    Args:
        process: what listens.
        name: the app's.
        site_root: ``app_root``.
        root: where /etc is.
    """
    if process.pid == 1 or process.unit == f"{name}-front.service":
        return True
    unit = f"{name}.service"
    ours = process.unit == unit and not is_somebodys(root / "etc/systemd/system" / unit)
    return ours and is_inside(process.cwd, site_root)
