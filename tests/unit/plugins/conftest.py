from tests.support.plugin_fixtures import as_anybody, closed, code, machine, tree, wanted, web

__all__ = ["as_anybody", "closed", "code", "machine", "tree", "wanted", "web"]
