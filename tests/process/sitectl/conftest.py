from tests.support.sitectl_fixtures import app, site, wait_for

__all__ = ["app", "site", "wait_for"]
