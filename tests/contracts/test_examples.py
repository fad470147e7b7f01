"""Every file under examples/ is a job or service that a user can start from."""

from pathlib import Path

import pytest

from controller.cli import main

EXAMPLES = sorted((Path(__file__).parents[2] / "examples").glob("*.yaml"))


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.name)
def test_an_example_says_what_it_is_and_is_valid(
    example: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert example.read_text("utf-8").startswith("# ")
    assert main(["validate", str(example)]) == 0
    assert ": valid" in capsys.readouterr().out
