"""``resumeFrom``: a run takes on another's folder, which the other then does not get back."""

import pytest

from pangu_core.checkpoint import ownership
from pangu_core.config.stages import RunIdentity
from pangu_core.errors import WorkspaceError

OLD = RunIdentity(name="x", uid="old", attempt=7)
NEW = RunIdentity(name="x", uid="new", attempt=1)


def test_a_stranger_is_refused_and_told_of_resume_from(tmp_path):
    ownership.claim(tmp_path, OLD, "train")
    with pytest.raises(WorkspaceError, match="resumeFrom"):
        ownership.claim(tmp_path, NEW, "train")


@pytest.mark.parametrize("earlier", ["old", "x"], ids=["by its uid", "by its name"])
def test_a_run_takes_on_the_folder_that_it_names_and_counts_attempts_anew(tmp_path, earlier):
    token = ownership.claim(tmp_path, OLD, "train")
    run = NEW.model_copy(update={"resume_from": earlier})
    ownership.claim(tmp_path, run, "train")
    owner = ownership.check(tmp_path, run, "train")
    assert (owner.uid, owner.attempts, owner.former) == ("new", {"train": 1}, ("old",))
    with pytest.raises(WorkspaceError, match="owned by run x"):
        ownership.check(tmp_path, OLD, "train", token=token)


def test_another_run_than_the_one_named_stays_a_stranger(tmp_path):
    ownership.claim(tmp_path, OLD, "train")
    with pytest.raises(WorkspaceError):
        ownership.claim(tmp_path, NEW.model_copy(update={"resume_from": "other"}), "train")


def test_two_runs_that_name_each_other_do_not_take_turns(tmp_path):
    one = OLD.model_copy(update={"resume_from": "x"})
    two = NEW.model_copy(update={"resume_from": "x"})
    ownership.claim(tmp_path, one, "train")
    ownership.claim(tmp_path, two, "train")
    with pytest.raises(WorkspaceError):
        ownership.claim(tmp_path, one, "train")
    ownership.claim(tmp_path, two.model_copy(update={"attempt": 2}), "train")
