"""Where databases go: each has a place of its own, and the plan proposes one that is free."""

from __future__ import annotations

import os
import re
from dataclasses import replace

import pytest
from ansible.module_utils import adopt_places, adopt_plan
from ansible.module_utils.adopt_host import Host
from ansible.module_utils.adopt_plan import problems_of, survey
from ansible.module_utils.site_forms import are_places

from tests.unit.plugins.adopt_tree import make_database


@pytest.fixture
def app(tree, tmp_path):
    """An app with a stale site.db beside its code, while the one that it uses lies elsewhere."""
    make_database(tmp_path / "app/site.db")
    named = {"A": make_database(tmp_path / "one/site.db"), "B": make_database(tmp_path / "two/site.db")}
    environ = {"PATH": "/usr/bin:/bin", **named}
    tree.process(10, 1, ["python3", "app.py"], cwd=str(tmp_path / "app"), uid=os.getuid(), environ=environ)
    tree.listen(10)
    return tmp_path / "app"


def told(tree, wanted, app, shared=("site.db",), **places):
    """Return the problems, with databases outside of the code placed by the directory that they lie in."""
    placed = {str(app.parent / directory / "site.db"): place for directory, place in places.items()}
    wanted = replace(wanted, source=str(app), shared=shared, placed=placed)
    return problems_of(survey(Host(tree.root), wanted), wanted)


def test_two_databases_with_one_place_are_refused_with_both_names(tree, wanted, app):
    (problem,) = told(tree, wanted, app, one="site.db", two="two.db")
    assert f"{app}/site.db and {app.parent}/one/site.db would both go to /var/lib/currents/site.db" in problem
    assert "adopt_databases" in problem
    (problem,) = told(tree, wanted, app, one="same.db", two="same.db/")
    assert f"{app.parent}/one/site.db and {app.parent}/two/site.db would both go to" in problem
    assert told(tree, wanted, app, one="one.db", two="two.db") == []


def test_database_in_the_place_of_an_uploaded_file_is_refused(tree, wanted, app):
    (app / "empty.db").touch()
    (problem,) = told(tree, wanted, app, shared=["site.db", "empty.db"], one="empty.db", two="two.db")
    assert f"{app}/empty.db and {app.parent}/one/site.db would both go to /var/lib/currents/empty.db" in problem
    assert told(tree, wanted, app, one="empty.db", two="two.db") == [], "what is not shared stays where it is"


def test_link_to_a_database_keeps_no_place_from_it(tree, wanted, app):
    (app / "site.db").unlink()
    (app / "site.db").symlink_to(app.parent / "one/site.db")
    assert told(tree, wanted, app, one="site.db", two="two.db") == []


def test_uploads_that_a_link_in_the_code_leads_to_are_not_left_behind_in_silence(tree, wanted, app):
    uploads = app.parent / "volume"
    uploads.mkdir()
    (app / "uploads").symlink_to(uploads)
    (problem,) = told(tree, wanted, app, one="one.db", two="two.db")
    assert f"uploads in the code leads to {uploads}, which would not be taken along" in problem
    assert "app_shared_paths" in problem
    assert told(tree, replace(wanted, exclude=["uploads"]), app, one="one.db", two="two.db") == []


@pytest.mark.parametrize("target", ["app/static", "nowhere", "/proc/1/status"])
def test_links_within_the_code_to_nothing_and_to_what_others_have_are_left_alone(
    tree, wanted, app, target, monkeypatch
):
    (app / "static").mkdir()
    (app / "link").symlink_to(app.parent / target)
    if target.startswith("/"):
        # Whoever runs these tests may be root himself.
        links = adopt_places.links_away
        monkeypatch.setattr(adopt_plan, "links_away", lambda directory, uid, *more: links(directory, uid + 1, *more))
    assert told(tree, wanted, app, one="one.db", two="two.db") == []


def test_database_below_another_ones_place_is_refused(tree, wanted, app):
    (problem,) = told(tree, wanted, app, one="data", two="data/two.db")
    assert "would both go to /var/lib/currents/data" in problem


def test_advice_proposes_places_that_are_free(tree, wanted, app):
    proposed = [
        re.search(r"adopt_databases: \{(\S+): (\S+)\}", problem).groups() for problem in told(tree, wanted, app)
    ]
    assert proposed == [
        (str(app.parent / "one/site.db"), "one-site.db"),
        (str(app.parent / "two/site.db"), "two-site.db"),
    ]
    (problem,) = told(tree, wanted, app, one="two-site.db")
    assert f"adopt_databases: {{{app.parent}/two/site.db: site-2.db}}" in problem


@pytest.mark.parametrize(
    ("places", "accepted"),
    [
        ({"/home/a/site.db": "site.db", "/home/b/site.db": "b/site.db"}, True),
        ({"/home/a/site.db": "site.db", "/home/b/site.db": "site.db"}, False),
        ({"/home/a/site.db": "data", "/home/b/site.db": "data/"}, False),
    ],
)
def test_settings_that_give_two_databases_one_place_are_refused(places, accepted):
    assert are_places(places) is accepted
