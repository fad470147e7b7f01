"""The fence within an attempt: the ranks of a round that was given up commit no more."""

import pytest

from pangu_core.checkpoint import ownership
from pangu_core.config.stages import RunIdentity
from pangu_core.errors import RendezvousError, WorkspaceError

RUN = RunIdentity(name="x", uid="u", attempt=2)


def test_the_latest_claim_holds_and_ends_those_before(tmp_path):
    first = ownership.claim(tmp_path, RUN, "train")
    assert ownership.check(tmp_path, RUN, "train", token=first).claims == {"train": first}
    second = ownership.claim(tmp_path, RUN, "train")
    ownership.check(tmp_path, RUN, "train", token=second)
    with pytest.raises(RendezvousError, match="a later round of this attempt writes here"):
        ownership.check(tmp_path, RUN, "train", token=first)


def test_claims_of_other_stages_do_not_count(tmp_path):
    token = ownership.claim(tmp_path, RUN, "train")
    ownership.claim(tmp_path, RUN, "preprocess")
    assert ownership.check(tmp_path, RUN, "train", token=token).attempts["preprocess"] == 2


def test_a_newer_attempt_is_named_as_such(tmp_path):
    token = ownership.claim(tmp_path, RUN, "train")
    ownership.claim(tmp_path, RUN.model_copy(update={"attempt": 3}), "train")
    with pytest.raises(WorkspaceError, match="a newer attempt"):
        ownership.check(tmp_path, RUN, "train", token=token)


def test_an_owner_file_from_before_claims_is_read(tmp_path):
    (tmp_path / "owner.json").write_text('{"name": "x", "uid": "u", "attempts": {"train": 1}}')
    token = ownership.claim(tmp_path, RUN, "train")
    assert ownership.check(tmp_path, RUN, "train", token=token).attempts == {"train": 2}
