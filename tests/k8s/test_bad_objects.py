"""The API server refuses the same files, with the same words (tests/cluster/test_crds.py)."""

import re
from pathlib import Path

import pytest

from k8s.spec import parse
from pangu_core.errors import ConfigError

BAD_OBJECTS = sorted((Path(__file__).parent / "bad_objects").glob("*.yaml"))


@pytest.mark.parametrize("path", BAD_OBJECTS, ids=lambda path: path.stem)
def test_each_bad_object_is_refused_in_the_words_of_its_first_line(path):
    said = re.match(r"# Refused(?: by us)?: (.+)\n", path.read_text("utf-8"))
    with pytest.raises(ConfigError) as caught:
        parse(path)
    assert said[1] in str(caught.value)
