"""What ``make golden`` writes of the chart is up to date."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[2]
CHART = CHECKOUT / "charts" / "pangu-finetune"
# The strings below fields are read only by a process that asks for them before its first import.
PRINT = "import json, sys; from tools.write_chart import texts; json.dump(texts(), sys.stdout)"


@pytest.fixture(scope="module")
def texts() -> dict[str, str]:
    command = [sys.executable, "-c", PRINT]
    done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def test_the_charts_files_are_what_the_source_says(texts):
    assert {n: (CHART / n).read_text("utf-8") for n in texts} == texts, "run make golden"


def test_every_definition_is_in_the_chart(texts):
    definitions = {f"templates/crds/{path.name}" for path in (CHECKOUT / "k8s/crds").iterdir()}
    assert definitions == {name for name in texts if "/crds/" in name}


def test_every_value_has_a_meaning(texts):
    rows = re.findall(r"^\| `.*", texts["README.md"].partition("## Values")[2], re.MULTILINE)
    assert len(rows) > 40
    assert [row for row in rows if row.endswith("|  |")] == []
