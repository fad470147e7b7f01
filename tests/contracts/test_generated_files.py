"""What ``make golden`` writes is up to date (the manifests are held by tests/k8s/test_render.py)."""

import json
import re
import subprocess
import sys
from pathlib import Path

CHECKOUT = Path(__file__).parents[2]
# The strings below fields are read only by a process that asks for them before its first import.
PRINT_CRDS = "import json, sys; from tools.write_crds import texts; json.dump(texts(), sys.stdout)"
PRINT_PAGE = "import sys; from tools.write_docs import page; sys.stdout.write(page())"


def test_the_configuration_page_is_what_the_source_says():
    command = [sys.executable, "-c", PRINT_PAGE]
    page = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=True).stdout
    assert page == (CHECKOUT / "docs/configuration.md").read_text("utf-8"), "run make golden"


def test_the_crds_are_what_the_source_says():
    command = [sys.executable, "-c", PRINT_CRDS]
    texts = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=True).stdout
    committed = {path.name: path.read_text("utf-8") for path in (CHECKOUT / "k8s/crds").iterdir()}
    assert json.loads(texts) == committed, "run make golden"


def test_every_field_of_the_configuration_page_has_a_meaning():
    rows = re.findall(
        r"^\| `.*", (CHECKOUT / "docs/configuration.md").read_text("utf-8"), re.MULTILINE
    )
    assert len(rows) > 100
    assert [row for row in rows if row.endswith("|  |")] == []
