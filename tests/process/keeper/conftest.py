from tests.support.keeper_fixtures import short_path, start

__all__ = ["short_path", "start"]
