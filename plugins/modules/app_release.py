#!/usr/bin/python
"""Ansible module: one directory per release, complete or marked unfinished, and ``current`` switched atomically."""

from __future__ import annotations

DOCUMENTATION = r"""
module: app_release
short_description: Brings an app's code into a release directory with its own virtual environment
description:
  - A release is C(ROOT/releases/ID) with C(code), C(venv) and C(release.json). Its id is made of its label and of
    a hash over everything that went in, so unchanged code makes no new release.
  - While it is built it holds a file C(UNFINISHED); an unfinished release is never switched to and is built anew.
  - The action plugin of the same name packs the code on the controller and calls this module on the host.
options:
  root: {description: The app's directory., type: path, required: true}
  user: {description: The user who builds; dependencies' build scripts never run as root., type: str, required: true}
  digest: {description: SHA-256 of the code on the controller., type: str, default: ""}
  archive: {description: The code as a tar file on the host., type: path}
  host_path: {description: A directory on the host that holds the code., type: path}
  label: {description: First part of the id., type: str, default: code}
  commit: {description: The commit it was taken from., type: str, default: ""}
  exclude: {description: Shell patterns of what to leave out., type: list, elements: str, default: []}
  uv: {description: The uv program., type: path, required: true}
  python: {description: The interpreter., type: str, default: python3}
  gunicorn_version: {description: The version of Gunicorn to install., type: str, required: true}
  requirements:
    description: Further requirements to install; C(.[server]) is the code's own extra C(server).
    type: list
    elements: str
    default: []
  index_url: {description: Package index instead of the default one., type: str, default: ""}
  shared: {description: Paths in the code that are links into data_dir., type: list, elements: str, default: []}
  data_dir: {description: Where shared paths live., type: path, required: true}
  keep: {description: How many releases to keep., type: int, default: 5}
attributes:
  check_mode: {support: full}
"""

EXAMPLES = r"""
- name: Bring the release
  app_release:
    source_type: directory
    source: ../currents
    root: /srv/currents
    user: currents
    uv: /opt/uv/0.13.9/uv
    gunicorn_version: 27.0.1
    data_dir: /var/lib/currents
"""

RETURN = r"""
release: {description: Id of the release that is current now., type: str, returned: success}
previous: {description: Id of the one before., type: str, returned: success}
"""

import contextlib
import datetime
import hashlib
import json
import os
import pwd
import shutil
import sqlite3
import subprocess
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.code_tree import digest, tree

UNFINISHED = "UNFINISHED"
#: Longer than a slow first download of a large dependency set; a dead index fails much earlier (UV_HTTP_TIMEOUT).
BUILD_TIMEOUT_SECONDS = 900
#: One request to the package index.
INDEX_TIMEOUT_SECONDS = 30
ERROR_LINES = 20
#: https://www.sqlite.org/fileformat.html, section 1.3
SQLITE_MAGIC = b"SQLite format 3\0"


class BuildError(Exception):
    """A release could not be built; the message is for the operator."""


def release_id(label: str, parts: dict[str, Any]) -> str:
    """Return ``label-hash``, the same for the same inputs whatever the time and the host."""
    content = json.dumps(parts, sort_keys=True).encode()
    safe = "".join(c if c.isalnum() or c in "._" else "-" for c in label)[:40].strip("-.") or "code"
    return f"{safe}-{hashlib.sha256(content).hexdigest()[:12]}"


def to_prune(releases: dict[str, float], keep: int, never: Sequence[str]) -> list[str]:
    """Return the releases to delete: all but the newest ``keep``, and never those named.

    Args:
        releases: id and time of creation in seconds.
        keep: how many to leave, at least one.
        never: ids that stay whatever their age, such as the current one.
    """
    newest = sorted(releases, key=lambda name: releases[name], reverse=True)
    return [name for name in newest[max(keep, 1) :] if name not in never]


def install_steps(
    code: Path, uv: str, venv: Path, gunicorn_version: str, requirements: Sequence[str] = ()
) -> list[list[str]]:
    """Return the commands that fill the virtual environment from what the code brings.

    ``uv.lock`` wins over ``requirements.txt`` over ``pyproject.toml`` or ``setup.py``; code without any of them
    gets Gunicorn alone. Gunicorn comes last, so that the pinned version replaces whatever the app asked for.
    """
    pip = [uv, "pip", "install", "--python", str(venv / "bin/python"), "--compile-bytecode"]
    steps: list[list[str]] = []
    if (code / "uv.lock").exists():
        steps.append([uv, "sync", "--frozen", "--no-dev", "--no-editable", "--compile-bytecode"])
    elif (code / "requirements.txt").exists():
        steps.append([*pip, "-r", "requirements.txt"])
    elif (code / "pyproject.toml").exists() or (code / "setup.py").exists():
        steps.append([*pip, "."])
    if requirements:
        steps.append([*pip, *requirements])
    return [*steps, [*pip, f"gunicorn=={gunicorn_version}"]]


class Releases:
    """The release directories of one app."""

    def __init__(self, module: AnsibleModule) -> None:
        self.module = module
        self.options = module.params
        self.root = Path(self.options["root"])
        self.directory = self.root / "releases"
        self.link = self.root / "current"

    def current(self) -> str:
        """Return the id that ``current`` points to, or an empty string."""
        try:
            return self.link.readlink().name
        except OSError:
            return ""

    def complete(self, name: str) -> bool:
        """Tell whether a release is there, finished, and its interpreter still works after an upgrade of the host."""
        release = self.directory / name
        return (
            (release / "release.json").exists()
            and not (release / UNFINISHED).exists()
            and (release / "venv/bin/python").exists()
        )

    def run(self, argv: Sequence[str], cwd: Path, user: pwd.struct_passwd) -> str:
        """Run a build step as the app's user, without this process's environment.

        Raises:
            BuildError: with the end of what the step printed.
        """
        options = self.options
        environment = {
            "PATH": "/usr/local/bin:/usr/bin:/bin",
            "HOME": str(self.cache(user)),
            "LANG": "C.UTF-8",
            "UV_CACHE_DIR": str(self.cache(user) / "uv"),
            "UV_LINK_MODE": "copy",
            "UV_PYTHON_DOWNLOADS": "never",
            "UV_NO_PROGRESS": "1",
            "UV_SYSTEM_CERTS": "1",
            "UV_HTTP_TIMEOUT": str(INDEX_TIMEOUT_SECONDS),
            "UV_PROJECT_ENVIRONMENT": str(cwd.parent / "venv"),
            **({"UV_DEFAULT_INDEX": options["index_url"]} if options["index_url"] else {}),
        }
        try:
            done = subprocess.run(
                argv,
                cwd=cwd,
                env=environment,
                user=user.pw_uid,
                group=user.pw_gid,
                extra_groups=[],
                umask=0o022,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                timeout=BUILD_TIMEOUT_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise BuildError(f"{Path(argv[0]).name} did not finish within {BUILD_TIMEOUT_SECONDS} s") from error
        if done.returncode != 0:
            tail = "\n".join(done.stdout.strip().splitlines()[-ERROR_LINES:])
            raise BuildError(f"`{' '.join(argv)}` failed with {done.returncode}:\n{tail}")
        return done.stdout

    def cache(self, user: pwd.struct_passwd) -> Path:
        """Return the build cache, owned by the app's user, made when missing."""
        path = Path("/var/cache") / self.root.name
        path.mkdir(mode=0o750, exist_ok=True)
        os.chown(path, user.pw_uid, user.pw_gid)
        return path

    def bring(self, code: Path) -> None:
        """Put the code into a release directory.

        Raises:
            BuildError: the code cannot be read or holds something that is no code.
        """
        code.mkdir()
        if self.options["archive"]:
            with tarfile.open(self.options["archive"]) as tar:
                # The archive is our own, written by the action plugin of the same name. Python 3.14 would otherwise
                # refuse its links to absolute paths.
                tar.extraction_filter = getattr(tarfile, "fully_trusted_filter", None)
                tar.extractall(code)
            return
        source = Path(self.options["host_path"])
        for name, path in tree(source, self.options["exclude"]):
            target = code / name
            target.parent.mkdir(parents=True, exist_ok=True)
            copy_file(path, target)
            if not target.is_symlink():
                # The app's group reads what its owner read before, a settings file of mode 0600 too; nobody writes.
                mode = target.stat().st_mode
                target.chmod((mode & 0o755) | (mode & 0o500) >> 3)

    def link_shared(self, code: Path, user: pwd.struct_passwd) -> None:
        """Replace the shared paths in the code by links into the data directory; what the code brings seeds it once.

        All of it is done as the app's user, who owns both sides now: links in them lead root nowhere.
        """
        data = Path(self.options["data_dir"])
        if self.options["shared"]:
            data.mkdir(mode=0o750, parents=True, exist_ok=True)
            os.chown(data, user.pw_uid, user.pw_gid)
        for name in self.options["shared"]:
            inside, shared = code / name, data / name
            self.run(["mkdir", "-p", "--", str(shared.parent), str(inside.parent)], code, user)
            seed = inside.exists() and not os.path.lexists(shared)
            if seed and inside.is_symlink():
                raise BuildError(f"app_shared_paths: {name} is a link in the code; put what it leads to at {shared}")
            # By a name beside it: from another file system a move is a copy; half of one must not pass for the data.
            beside = shared.with_name(f".{shared.name}.seed")
            self.run(["rm", "-rf", "--", str(beside), *([] if seed else [str(inside)])], code, user)
            for source, target in ((inside, beside), (beside, shared)) if seed else ():
                self.run(["mv", "-T", "--", str(source), str(target)], code, user)
            self.run(["ln", "-sT", "--", str(shared), str(inside)], code, user)

    def build(self, name: str, about: dict[str, Any]) -> None:
        """Build a release beside the running one; an interrupted build leaves it marked unfinished.

        Raises:
            BuildError: a step failed; the running release is untouched.
        """
        options = self.options
        user = pwd.getpwnam(options["user"])
        release = self.directory / name
        shutil.rmtree(release, ignore_errors=True)
        release.mkdir(parents=True)
        (release / UNFINISHED).write_text("This release was never finished. The next run builds it anew.\n")
        code, venv = release / "code", release / "venv"
        self.bring(code)
        own(release, user.pw_uid, user.pw_gid)
        self.run([options["uv"], "venv", "--quiet", "--python", options["python"], str(venv)], code, user)
        for step in install_steps(code, options["uv"], venv, options["gunicorn_version"], options["requirements"]):
            self.run(step, code, user)
        # The app cannot write into its release, so without this every worker would compile its code at every start.
        # A file that does not compile (a template, a test's fixture) is no reason to refuse the release.
        with contextlib.suppress(BuildError):
            self.run([str(venv / "bin/python"), "-m", "compileall", "-q", "."], code, user)
        self.link_shared(code, user)
        own(release, 0, 0)
        if options["host_path"]:
            own(code, 0, user.pw_gid)
        (release / "release.json").write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
        (release / UNFINISHED).unlink()

    def switch(self, name: str) -> None:
        """Point ``current`` to a release in one step."""
        fresh = self.root / ".current.new"
        fresh.unlink(missing_ok=True)
        fresh.symlink_to(Path("releases") / name)
        fresh.rename(self.link)

    def prune(self, never: Sequence[str]) -> list[str]:
        """Delete old and unfinished releases; return their names."""
        there = [path for path in self.directory.iterdir() if path.is_dir() and not path.is_symlink()]
        made = {path.name: path.stat().st_mtime for path in there if self.complete(path.name)}
        unfinished = [path.name for path in there if path.name not in made and path.name not in never]
        gone = [*to_prune(made, self.options["keep"], never), *unfinished]
        for name in gone:
            shutil.rmtree(self.directory / name)
        return gone


def copy_file(path: Path, target: Path) -> None:
    """Copy one file or link; a SQLite database by its backup API, since a copy of a live one is often corrupt.

    Raises:
        BuildError: the database cannot be read.
    """
    if not path.is_symlink():
        with path.open("rb") as content:
            database = content.read(len(SQLITE_MAGIC)) == SQLITE_MAGIC
        if database:
            try:
                with (
                    contextlib.closing(sqlite3.connect(path)) as live,
                    contextlib.closing(sqlite3.connect(target)) as copy,
                ):
                    live.backup(copy)
            except sqlite3.Error as error:
                raise BuildError(f"{path} is no usable database ({error}); name it in app_exclude") from error
            shutil.copystat(path, target)
            return
    shutil.copy2(path, target, follow_symlinks=False)


def own(top: Path, uid: int, gid: int) -> None:
    """Give a tree to a user; links are changed themselves, not what they point to."""
    for path in (top, *top.rglob("*")):
        os.chown(path, uid, gid, follow_symlinks=False)


def interpreter(module: AnsibleModule) -> str:
    """Return the exact version of the interpreter; a release is built anew after the host got another one."""
    rc, out, err = module.run_command([module.params["python"], "-c", "import sys; print(sys.version.split()[0])"])
    if rc != 0:
        module.fail_json(msg=f"app_python: {module.params['python']} does not run on the host: {err.strip()}")
    return str(out).strip()


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "root": {"type": "path", "required": True},
            "user": {"type": "str", "required": True},
            "digest": {"type": "str", "default": ""},
            "archive": {"type": "path"},
            "host_path": {"type": "path"},
            "label": {"type": "str", "default": "code"},
            "commit": {"type": "str", "default": ""},
            "exclude": {"type": "list", "elements": "str", "default": []},
            "uv": {"type": "path", "required": True},
            "python": {"type": "str", "default": "python3"},
            "gunicorn_version": {"type": "str", "required": True},
            "requirements": {"type": "list", "elements": "str", "default": []},
            "index_url": {"type": "str", "default": ""},
            "shared": {"type": "list", "elements": "str", "default": []},
            "data_dir": {"type": "path", "required": True},
            "keep": {"type": "int", "default": 5},
        },
        supports_check_mode=True,
    )
    # The app's user must get through to its release, whatever sudo's mask is.
    os.umask(0o022)
    options = module.params
    releases = Releases(module)
    if options["host_path"] and not Path(options["host_path"]).is_dir():
        module.fail_json(msg=f"app_source: there is no directory {options['host_path']} on the host")
    code = options["digest"]
    if options["host_path"]:
        code = digest(Path(options["host_path"]), options["exclude"], options["shared"])
    parts = {
        "code": code,
        "python": interpreter(module),
        "gunicorn": options["gunicorn_version"],
        "requirements": options["requirements"],
        "shared": options["shared"],
    }
    name = release_id(options["label"], parts)
    previous = releases.current()
    build = not releases.complete(name)
    if build and not options["archive"] and not options["host_path"]:
        module.exit_json(changed=True, need_archive=True, release=name, previous=previous)
    result = {"changed": build or previous != name, "release": name, "previous": previous}
    if not module.check_mode:
        try:
            if build:
                now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
                releases.build(name, {"id": name, "commit": options["commit"], "created": now, **parts})
        except (BuildError, OSError, tarfile.TarError) as error:
            rest = f"{previous} stays current" if previous else "there is no release yet"
            module.fail_json(msg=f"release {name} was not built; {rest}.\n{error}")
        if previous != name:
            releases.switch(name)
        if result["changed"]:
            result["pruned"] = releases.prune([name, previous])
    module.exit_json(**result)


if __name__ == "__main__":
    main()
