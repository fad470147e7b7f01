"""``resumeFrom``: whose folder the stages work in, and what they are told."""

import pytest

from k8s.stages import plan
from pangu_core.errors import ConfigError

UID = "5c1f0a9e-1111-4222-8333-0123456789ab"


@pytest.mark.parametrize(("earlier", "folder"), [("novel-1", "novel-1"), (UID, "tiny-cpu")])
def test_a_name_is_that_of_the_folder_and_a_uid_that_of_its_owner(job, earlier, folder):
    found = job(f"resumeFrom={earlier}", "metadata.name=tiny-cpu")
    for stage in plan(found):
        config = stage.config(1)
        assert (config.run.name, config.run.resume_from) == (folder, earlier)
        assert f"runs/{folder}/" in str(config.dump())


def test_what_is_no_name_is_refused(job):
    with pytest.raises(ConfigError, match=r"^resumeFrom: "):
        job("resumeFrom=../other")


@pytest.mark.parametrize("source", ["corpus/", "s3://bucket/corpus/", "https://host/*.txt"])
def test_an_input_that_can_name_no_files_is_refused_before_anything_runs(job, source):
    with pytest.raises(ConfigError, match=r"^data.input: .* is a (folder|pattern)"):
        job(f"data.input={source}")
