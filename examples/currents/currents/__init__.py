"""The Currents application: pages, a JSON interface, a health endpoint and switchable faults."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flask import Flask

from currents import db, errors, faults, health, site

DEFAULT_HERO_SECONDS = 10
MAX_BODY_BYTES = 64 * 1024


def create_app(environ: Mapping[str, str] | None = None, **config: Any) -> Flask:
    """Build the application.

    Args:
        environ: Where the settings are read from; the process environment when absent.
        config: Flask configuration that wins over the environment. ``CLOCK`` is a function that returns unix
            time in seconds; tests replace it.

    Raises:
        ValueError: A setting has a value that cannot be used. The message names the variable.
    """
    env = os.environ if environ is None else environ
    app = Flask(__name__)
    app.config.update(
        CLOCK=time.time,
        HERO_SECONDS=_hero_seconds(env),
        DATABASE=database_path(env, Path(app.root_path).parent),
        RELEASE=env.get("SITE_RELEASE") or None,
        STARTED=time.monotonic(),
        MAX_CONTENT_LENGTH=MAX_BODY_BYTES,
    )
    app.config.update(config)
    errors.register(app)
    app.teardown_appcontext(db.close)
    app.register_blueprint(site.blueprint)
    app.register_blueprint(health.blueprint)
    if env.get("CURRENTS_ALLOW_FAULTS") == "yes":
        app.register_blueprint(faults.blueprint)
        app.logger.warning("CURRENTS_ALLOW_FAULTS=yes: anyone who reaches this site can break it")
    database = db.Database(Path(app.config["DATABASE"]))
    app.extensions["currents_database"] = database
    try:
        database.prepare()
    except (sqlite3.Error, OSError) as error:
        # A worker that dies while it is imported stops the whole Gunicorn master. Serve 503 instead, and try
        # again with each request until the database is there.
        app.logger.error("the database %s is not usable yet: %s", database.path, error)
    return app


def database_path(env: Mapping[str, str], beside: Path) -> Path:
    """Return where the database lives.

    ``CURRENTS_DATABASE`` wins, then the first directory of systemd's ``STATE_DIRECTORY`` (systemd.exec(5): names
    are separated by colons), then the directory of the app.
    """
    chosen = env.get("CURRENTS_DATABASE", "")
    if chosen:
        return Path(chosen)
    state = env.get("STATE_DIRECTORY", "").split(":")[0]
    return Path(state) / "currents.db" if state else beside / "currents.db"


def _hero_seconds(env: Mapping[str, str]) -> int:
    text = env.get("CURRENTS_HERO_SECONDS", "") or str(DEFAULT_HERO_SECONDS)
    if not text.isdecimal() or int(text) < 1:
        raise ValueError(f"CURRENTS_HERO_SECONDS must be a whole number of seconds from 1 up, not {text!r}")
    return int(text)
