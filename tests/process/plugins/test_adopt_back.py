"""The way back from a change-over: whatever the new release did, no row that a visitor was told yes for is lost."""

from __future__ import annotations

import os

import pytest
from ansible.module_utils import adopt_back
from ansible.module_utils import adopt_database as database
from ansible.module_utils.adopt_database import DatabaseError
from ansible.module_utils.adopt_wanted import AdoptError

from tests.unit.plugins.adopt_machine import ask, votes

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root gives a process back to its user")
CHANGES_TABLES = "CREATE TABLE IF NOT EXISTS extra (x)"


def fail_after(machine, statement):
    """Change over to a release that does this to its database and is never well; return the adoption and its words."""
    adoption = machine.adoption(seconds=2)
    adoption.save()
    ask(machine.port, "/late")
    with pytest.raises(AdoptError, match="the old app was put back as it was") as failed:
        adoption.switch(machine.never_well(statement))
    machine.wait(lambda: ask(machine.port, "/after") == "old")
    return adoption, str(failed.value)


def test_new_release_that_empties_its_tables_takes_no_row_of_the_old_database(machine):
    adoption, said = fail_after(machine, "DELETE FROM votes")
    assert votes(machine.app / "site.db") >= {"/first", "/late", "/after"}
    copy = adoption.kept / "databases/new%site.db"
    assert "the new release has taken rows away from site.db (votes has 0 rows and had 2)" in said
    assert f"what it wrote is in {copy}, not in the old one" in said
    assert votes(copy) == set()


def test_old_database_is_kept_as_it_was_before_rows_are_taken_along(machine):
    adoption, _ = fail_after(machine, "UPDATE votes SET voter = voter")
    assert "/told-by-the-new-one" in votes(machine.app / "site.db")
    (before,) = (adoption.kept / "databases").glob("before%*")
    assert votes(before) == {"/first", "/late"}


def test_what_the_operator_was_told_of_survives_the_next_runs(machine):
    adoption, said = fail_after(machine, CHANGES_TABLES)
    first = adoption.kept / "databases/new%site.db"
    assert f"what it wrote is in {first}" in said
    adoption, said = fail_after(machine, "CREATE TABLE IF NOT EXISTS other (x)")
    assert f"what it wrote is in {adoption.kept}/databases/new%site.db.2" in said
    machine.adoption().save()
    assert "/told-by-the-new-one" in votes(first)


def test_originals_of_an_earlier_adoption_are_set_aside_and_not_removed(machine):
    adoption, _ = fail_after(machine, CHANGES_TABLES)
    machine.unit.write_text("[Service]\n# mended by hand\n")
    machine.adoption().save()
    (old,) = adoption.kept.parent.glob("adopt.*")
    assert old.stat().st_mode & 0o777 == 0o700
    assert (old / "units/site.service").read_text() == "[Service]\n# somebody's\n"
    assert (adoption.kept / "units/site.service").read_text() == "[Service]\n# mended by hand\n"
    assert adoption.kept.stat().st_mode & 0o777 == 0o700


def test_database_that_lies_in_the_new_place_already_is_moved_and_not_overwritten(machine):
    fail_after(machine, "DELETE FROM votes")
    adoption = machine.adoption()
    adoption.save()
    adoption.switch(machine.answered)
    assert votes(machine.data / "site.db") >= {"/first", "/late", "/after"}
    (replaced,) = (adoption.kept / "databases").glob("replaced%*")
    assert votes(replaced) == set()


def test_next_run_says_what_became_of_the_broken_off_one(machine):
    adoption = machine.adoption(seconds=2)
    adoption.save()
    adoption.put_back = lambda: ""
    with pytest.raises(AdoptError):
        adoption.switch(machine.never_well(CHANGES_TABLES))
    fresh = machine.adoption()
    assert fresh.save().state == "foreign"
    assert f"what it wrote is in {fresh.kept}/databases/new%site.db" in fresh.healed
    assert "the old app was put back as it was" in fresh.healed
    assert machine.adoption().heal() == "", "once is enough"


def test_way_back_without_room_for_a_copy_still_ends_with_the_old_app_and_its_lines(machine, monkeypatch):
    table, copy = machine.table.read_bytes(), database.copy

    def full(source, target):
        if target.name.startswith("new%"):
            raise DatabaseError(f"{source} cannot be copied to {target}: database or disk is full")
        copy(source, target)

    monkeypatch.setattr(database, "copy", full)
    adoption, said = fail_after(machine, CHANGES_TABLES)
    assert "site.service gives no good answer" in said, "what came first is the cause"
    assert "disk is full" in said
    assert f"what the new release wrote is still in {machine.data}/site.db" in said
    assert "/told-by-the-new-one" in votes(machine.data / "site.db")
    assert machine.table.read_bytes() == table
    assert adoption.recalled()["status"] == "put back"


@pytest.mark.parametrize("broken", ["bring_back", "restore_units", "remember"])
def test_step_of_the_way_back_that_fails_keeps_no_other_from_its_turn(machine, monkeypatch, broken):
    table = machine.table.read_bytes()
    adoption = machine.adoption(seconds=2)
    adoption.save()
    never_well = machine.never_well()

    def fails(*_words, **_what):
        raise OSError("no space left")

    def answered():
        monkeypatch.setattr(adoption, broken, fails)
        return never_well()

    with pytest.raises(AdoptError) as failed:
        adoption.switch(answered)
    assert "site.service gives no good answer" in str(failed.value)
    assert "failed: no space left" in str(failed.value)
    machine.wait(lambda: ask(machine.port, "/after") == "old")
    assert machine.table.read_bytes() == table
    told = machine.adoption().heal()
    assert ("is in use: no rows were taken along" in told) is (broken == "remember"), "the old app has its own by now"
    assert "/after" in votes(machine.app / "site.db")


def test_old_app_that_cannot_be_started_is_told_with_what_to_do_and_its_lines_return(machine, monkeypatch):
    table = machine.table.read_bytes()

    def fails(_process):
        raise FileNotFoundError("python3")

    monkeypatch.setattr(adopt_back, "start_again", fails)
    adoption = machine.adoption(seconds=2)
    adoption.save()
    with pytest.raises(AdoptError, match="gives no good answer") as failed:
        adoption.switch(machine.never_well())
    assert "starting the old app failed: python3" in str(failed.value)
    assert f"does NOT listen again; start it by hand, as {adoption.kept}/plan.json says" in str(failed.value)
    assert machine.table.read_bytes() == table
    adoption.remember(status="switching")
    with pytest.raises(AdoptError, match="does NOT listen again"):
        machine.adoption().heal()
