"""Rewrite k8s/crds/ from the settings classes and the rules.

The files are a function of the classes: ``texts()`` gives them, and a test compares.
"""

import os
from pathlib import Path
from typing import Final

# The strings below fields are read out of the source only where this is set before the import.
os.environ["PANGU_FIELD_DOCS"] = "1"

from k8s.crd import crds
from k8s.text import compact

FOLDER: Final = Path(__file__).parents[1] / "k8s" / "crds"
HEAD: Final = "# Written by `make golden` from the settings classes; do not edit it here.\n"


def texts() -> dict[str, str]:
    """File name -> text."""
    return {name: HEAD + compact(definition) for name, definition in crds().items()}


def main() -> None:
    """Write the files."""
    FOLDER.mkdir(exist_ok=True)
    for name, text in texts().items():
        (FOLDER / name).write_text(text, encoding="utf-8")
        print(f"{name} ({len(text) / 1000:.0f} kB)")


if __name__ == "__main__":
    main()
