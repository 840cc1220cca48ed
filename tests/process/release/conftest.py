from tests.support.release_fixtures import app, build, releases, running, settings, systemd

__all__ = ["app", "build", "releases", "running", "settings", "systemd"]
