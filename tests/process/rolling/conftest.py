from tests.support.rolling_fixtures import admin, site

__all__ = ["admin", "site"]
