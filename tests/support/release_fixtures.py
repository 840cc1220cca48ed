"""A site's releases on disk, and the host's programs replaced by ones that remember what they were asked."""

from __future__ import annotations

import getpass
import json
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from siterelease import host
from siterelease.releases import Releases
from siterelease.settings import Settings
from siterelease.switch import switch


@dataclass
class Systemd:
    """What stands in for systemd: it does nothing, says that it did, and remembers."""

    asked: list[str] = field(default_factory=list)
    failing: dict[str, str] = field(default_factory=dict)
    """Words of a call -> what it prints when it fails."""
    failing_once: dict[str, str] = field(default_factory=dict)
    """The same for the next such call only."""
    active: str = "active"
    left_behind: dict[str, list[str]] = field(default_factory=dict)
    """Unit -> the states that an earlier run left it in, one for each look."""

    def run(self, argv, seconds):
        words = " ".join(map(str, argv))
        self.asked.append(words)
        for needle in [needle for needle in self.failing_once if needle in words]:
            return 1, self.failing_once.pop(needle)
        for needle, said in self.failing.items():
            if needle in words:
                return 1, said
        return 0, ""

    def show(self, unit, *names):
        left = self.left_behind.get(unit, [])
        state = left.pop(0) if left else (self.active if unit == "currents.service" else "inactive")
        return {"ActiveState": state, "InvocationID": "run", "MainPID": "0", "NRestarts": "0"}


@pytest.fixture
def settings(tmp_path) -> Settings:
    for name in ("srv/releases", "data", "run/sitekeeper", "etc"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "etc/app.env").write_text("A=1\n")
    return Settings(
        name="currents",
        user=getpass.getuser(),
        root=tmp_path / "srv",
        data_dir=tmp_path / "data",
        inputs=(tmp_path / "etc/app.env",),
        health_path="/health",
        smoke_paths=("/", "/login"),
        start_seconds=1,
        trial_requests=10,
        trial_growth_bytes=1024**2,
        watch_seconds=60,
        before_switch=(),
        after_switch=(),
        hook_seconds=5,
        databases=(),
        save_database=True,
        keep=2,
        run=tmp_path / "run",
        state=tmp_path / "state",
    )


@pytest.fixture
def releases(settings) -> Releases:
    return Releases(settings.root)


@pytest.fixture
def build(releases):
    """Put a finished release there and let ``next`` lead to it, as the role app does."""

    def make(name: str) -> Path:
        path = releases.path(name)
        (path / "code").mkdir(parents=True)
        about = {"id": name, "commit": f"commit-of-{name}", "created": f"2026-01-0{len(name)}"}
        (path / "release.json").write_text(json.dumps(about))
        releases.point("next", name)
        return path

    return make


@pytest.fixture
def systemd(monkeypatch) -> Systemd:
    stand_in = Systemd()
    monkeypatch.setattr(host, "run", stand_in.run)
    monkeypatch.setattr(host, "show", stand_in.show)
    return stand_in


@pytest.fixture
def app(monkeypatch):
    """What the app answers, by path; everything else is well."""
    answers: dict[str, host.Answer] = {}
    memory = {"pid": 7, "bytes": 50 * 1024**2, "growth": 0}

    def ask(address, path, seconds=1.0):
        if path == "/memory":
            worker = {"pid": memory["pid"], "state": "serves", "with_children_bytes": memory["bytes"], "rss_bytes": 1}
            memory["bytes"] += memory["growth"]
            return host.Answer(200, json.dumps({"workers": [worker]}).encode(), "")
        return answers.get(path, host.Answer(200, b"{}", ""))

    monkeypatch.setattr(host, "ask", ask)
    return type("App", (), {"answers": answers, "memory": memory})


@pytest.fixture
def running(settings, releases, build, systemd):
    """A site with one release that serves."""
    systemd.active = "inactive"
    build("one")
    switch(settings, releases, "me@here", retry_bad=False, check=False)
    systemd.active = "active"
    systemd.asked.clear()
    return "one"
