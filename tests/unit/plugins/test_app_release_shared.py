"""Shared paths: data that is seeded by the first release and outlives it."""

from __future__ import annotations

import pytest

from plugins.modules.app_release import BuildError
from tests.unit.plugins.release_tree import ME, releases_with

pytestmark = pytest.mark.usefixtures("as_anybody")


def fresh_code(tmp_path, number, **files):
    code = tmp_path / f"release{number}" / "code"
    code.mkdir(parents=True)
    for name, text in files.items():
        path = code / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return code


@pytest.mark.parametrize(("shared", "file"), [("rows", "rows"), ("instance", "instance__rows"), ("a/b", "a__b")])
def test_data_is_seeded_once_and_outlives_the_next_release(tmp_path, shared, file):
    releases = releases_with(tmp_path, shared=[shared])
    first, second = fresh_code(tmp_path, 1, **{file: "seed"}), fresh_code(tmp_path, 2, **{file: "seed of 2"})
    releases.link_shared(first, ME)
    rows = file.replace("__", "/")
    assert (first / shared).readlink() == tmp_path / "data" / shared
    assert (tmp_path / "data" / rows).read_text() == "seed"
    (first / rows).write_text("a visitor's")
    releases.link_shared(second, ME)
    assert (second / shared).readlink() == tmp_path / "data" / shared
    assert (second / rows).read_text() == "a visitor's"


def test_a_shared_path_that_the_code_does_not_bring_is_a_link_for_the_app_to_fill(tmp_path):
    code = fresh_code(tmp_path, 1)
    releases_with(tmp_path, shared=["var/app.db"]).link_shared(code, ME)
    (code / "var" / "app.db").write_text("made by the app")
    assert (tmp_path / "data" / "var" / "app.db").read_text() == "made by the app"


def test_half_a_seed_of_an_interrupted_run_is_not_taken_for_data(tmp_path):
    (tmp_path / "data" / ".instance.seed").mkdir(parents=True)
    (tmp_path / "data" / ".instance.seed" / "half").write_text("")
    releases_with(tmp_path, shared=["instance"]).link_shared(fresh_code(tmp_path, 1, instance__rows="x"), ME)
    assert [p.name for p in (tmp_path / "data" / "instance").iterdir()] == ["rows"]
    assert not (tmp_path / "data" / ".instance.seed").exists()


def test_a_link_in_the_place_of_data_is_refused_and_what_it_leads_to_untouched(tmp_path):
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "rows").write_text("x")
    code = fresh_code(tmp_path, 1)
    (code / "instance").symlink_to(precious)
    releases = releases_with(tmp_path, shared=["instance"])
    with pytest.raises(BuildError, match=f"is a link in the code; put what it leads to at {tmp_path}/data/instance"):
        releases.link_shared(code, ME)
    (tmp_path / "data" / "instance").mkdir()
    releases.link_shared(code, ME)
    assert (code / "instance").readlink() == tmp_path / "data" / "instance"
    assert (precious / "rows").read_text() == "x"
