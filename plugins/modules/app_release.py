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
  archive_data: {description: The code as a tar file in Base64; for little code that saves calls., type: str}
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
  wheelhouse:
    description: Wheels and source archives as a tar file on the host; nothing else is installed then.
    type: path
  wheelhouse_digest: {description: SHA-256 of the wheelhouse on the controller., type: str, default: ""}
  shared: {description: Paths in the code that are links into data_dir., type: list, elements: str, default: []}
  data_dir: {description: Where shared paths live., type: path, required: true}
  keep: {description: How many releases to keep., type: int, default: 5}
  switch:
    description:
      - Make the release the current one, and delete old ones.
      - Otherwise the link C(next) leads to it, for somebody who proves it first.
    type: bool
    default: true
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
release: {description: Id of the release that is current now, or next., type: str, returned: success}
previous: {description: Id of the one before., type: str, returned: success}
"""

import base64
import contextlib
import datetime
import fcntl
import io
import json
import os
import pwd
import shutil
import subprocess
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ansible.module_utils.app_look import UNFINISHED, is_complete, release_id, release_parts, version_command
from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.build_steps import advice, install_steps
from ansible.module_utils.code_tree import copy_file, digest, tree

#: Longer than a slow first download of a large dependency set; a dead index fails much earlier.
BUILD_TIMEOUT_SECONDS = 900
#: The package index, without a single byte; with uv's pauses between its tries a dead one fails within 60 s.
INDEX_TIMEOUT_SECONDS = 15
INDEX_RETRIES = 2
ERROR_LINES = 20


class BuildError(ValueError):
    """A release could not be built; the message is for the operator."""


def to_prune(releases: dict[str, float], keep: int, never: Sequence[str]) -> list[str]:
    """Return the releases to delete: all but the newest ``keep``, and never those named.

    Args:
        releases: id and time of creation in seconds.
        keep: how many to leave, at least one.
        never: ids that stay whatever their age, such as the current one.
    """
    newest = sorted(releases, key=lambda name: releases[name], reverse=True)
    return [name for name in newest[max(keep, 1) :] if name not in never]


class Releases:
    """The release directories of one app."""

    def __init__(self, module: AnsibleModule) -> None:
        self.module = module
        self.options = module.params
        self.root = Path(self.options["root"])
        self.directory = self.root / "releases"
        # What is asked for: the release that visitors meet, or the one that is to be proven next.
        self.link = self.root / ("current" if self.options["switch"] else "next")

    def current(self) -> str:
        """Return the id that the link points to, or an empty string."""
        try:
            return self.link.readlink().name
        except OSError:
            return ""

    def complete(self, name: str) -> bool:
        """Tell whether a release is there and finished."""
        return is_complete(self.directory / name)

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
            "UV_HTTP_RETRIES": str(INDEX_RETRIES),
            "UV_PROJECT_ENVIRONMENT": str(cwd.parent / "venv"),
            **({"UV_DEFAULT_INDEX": options["index_url"]} if options["index_url"] else {}),
            **({"UV_OFFLINE": "1"} if options.get("wheelhouse") else {}),
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
            what_to_do = advice(done.stdout, bool(options.get("wheelhouse")), options.get("gunicorn_version", ""))
            raise BuildError(f"`{' '.join(argv)}` failed with {done.returncode}:\n{tail}{what_to_do}")
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
            ValueError, OSError: the code cannot be read or holds something that is no code.
        """
        code.mkdir()
        if self.options["archive"]:
            unpack(self.options["archive"], code)
            return
        if self.options["archive_data"]:
            unpack(io.BytesIO(base64.b64decode(self.options["archive_data"])), code)
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
        user = pwd.getpwnam(self.options["user"])
        if not self.root.exists():
            # Another app on the host has no business in this one's code.
            self.root.mkdir(mode=0o750, parents=True)
            os.chown(self.root, 0, user.pw_gid)
        self.directory.mkdir(exist_ok=True)
        handle = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            # A run that was killed has let go of the deploy lock, but its build may still be at work here; all of its
            # steps end in time.
            fcntl.flock(handle, fcntl.LOCK_EX)
            if not self.complete(name):
                self.build_alone(name, about, user)
        finally:
            os.close(handle)

    def build_alone(self, name: str, about: dict[str, Any], user: pwd.struct_passwd) -> None:
        """Build a release; nobody else builds meanwhile. Raises what `build` does."""
        options = self.options
        release = self.directory / name
        shutil.rmtree(release, ignore_errors=True)
        release.mkdir()
        (release / UNFINISHED).write_text("This release was never finished. The next run builds it anew.\n")
        code, venv = release / "code", release / "venv"
        self.bring(code)
        wheels = release / "wheelhouse" if options.get("wheelhouse") else None
        if wheels:
            unpack(options["wheelhouse"], wheels)
        own(release, user.pw_uid, user.pw_gid)
        self.run([options["uv"], "venv", "--quiet", "--python", options["python"], str(venv)], code, user)
        wanted = options["gunicorn_version"], options["requirements"]
        for step in install_steps(code, options["uv"], venv, *wanted, wheelhouse=wheels):
            self.run(step, code, user)
        if wheels:
            shutil.rmtree(wheels)
        # The app cannot write into its release, so without this every worker would compile its code at every start.
        # A file that does not compile (a template, a test's fixture) is no reason to refuse the release.
        with contextlib.suppress(BuildError):
            self.run([str(venv / "bin/python"), "-m", "compileall", "-q", "."], code, user)
        self.link_shared(code, user)
        own(release, 0, 0)
        if options["host_path"]:
            own(code, 0, user.pw_gid)
        (release / "release.json").write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
        # File systems write names before contents: after a power cut the mark could be gone and the files empty.
        os.sync()
        (release / UNFINISHED).unlink()

    def point(self, link: Path, name: str) -> None:
        """Let a link lead to a release in one step."""
        fresh = link.with_name(f".{link.name}.new")
        fresh.unlink(missing_ok=True)
        fresh.symlink_to(Path("releases") / name)
        fresh.rename(link)

    def prune(self, never: Sequence[str]) -> list[str]:
        """Delete old and unfinished releases; return their names."""
        there = [path for path in self.directory.iterdir() if path.is_dir() and not path.is_symlink()]
        made = {path.name: path.stat().st_mtime for path in there if self.complete(path.name)}
        unfinished = [path.name for path in there if path.name not in made and path.name not in never]
        gone = [*to_prune(made, self.options["keep"], never), *unfinished]
        for name in gone:
            shutil.rmtree(self.directory / name)
        return gone


def unpack(archive: str | io.BytesIO, into: Path) -> None:
    """Unpack a tar file of our own, written by the action plugin of the same name; raises OSError, TarError."""
    with tarfile.open(archive) if isinstance(archive, str) else tarfile.open(fileobj=archive) as tar:
        # Python 3.14 would otherwise refuse its links to absolute paths.
        tar.extraction_filter = getattr(tarfile, "fully_trusted_filter", None)
        tar.extractall(into)


def own(top: Path, uid: int, gid: int) -> None:
    """Give a tree to a user; links are changed themselves, not what they point to."""
    for path in (top, *top.rglob("*")):
        os.chown(path, uid, gid, follow_symlinks=False)


def interpreter(module: AnsibleModule) -> str:
    """Return the exact version of the interpreter; a release is built anew after the host got another one."""
    rc, out, err = module.run_command(version_command(module.params["python"]))
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
            # Ansible writes what a module was asked into the host's log; code does not belong there.
            "archive_data": {"type": "str", "no_log": True},
            "host_path": {"type": "path"},
            "label": {"type": "str", "default": "code"},
            "commit": {"type": "str", "default": ""},
            "exclude": {"type": "list", "elements": "str", "default": []},
            "uv": {"type": "path", "required": True},
            "python": {"type": "str", "default": "python3"},
            "gunicorn_version": {"type": "str", "required": True},
            "requirements": {"type": "list", "elements": "str", "default": []},
            "index_url": {"type": "str", "default": ""},
            "wheelhouse": {"type": "path"},
            "wheelhouse_digest": {"type": "str", "default": ""},
            "shared": {"type": "list", "elements": "str", "default": []},
            "data_dir": {"type": "path", "required": True},
            "keep": {"type": "int", "default": 5},
            "switch": {"type": "bool", "default": True},
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
    parts = release_parts(options, code, interpreter(module))
    name = release_id(options["label"], parts)
    previous = releases.current()
    build = not releases.complete(name)
    lacks_code = not any(options[source] for source in ("archive", "archive_data", "host_path"))
    if build and (lacks_code or (options["wheelhouse_digest"] and not options["wheelhouse"])):
        module.exit_json(changed=True, need_archive=True, release=name, previous=previous)
    result = {"changed": build or previous != name, "release": name, "previous": previous}
    if not module.check_mode:
        try:
            if build:
                now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
                releases.build(name, {"id": name, "commit": options["commit"], "created": now, **parts})
        except (ValueError, OSError, tarfile.TarError) as error:
            rest = f"{previous} stays as it is" if previous else "there is no release yet"
            module.fail_json(msg=f"release {name} was not built; {rest}.\n{error}")
        if previous != name:
            # Whoever proves releases later finds this one as the one that was asked for.
            releases.point(releases.root / "next", name)
            releases.point(releases.link, name)
        if result["changed"] and options["switch"]:
            result["pruned"] = releases.prune([name, previous])
    module.exit_json(**result)


if __name__ == "__main__":
    main()
