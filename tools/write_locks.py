"""Rewrite the images' locked requirements from pyproject.toml: newest versions, with hashes.

Torch is left out, and with it what only torch needs: its CUDA and CPU builds have hashes of their
own, so the images install it by a line of its own, after the lock.
"""

import os
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[1]
IMAGES: Final = ROOT / "images"
EXTRAS: Final[dict[str, tuple[str, ...]]] = {"controller": (), "core": ("core", "remote", "serve")}
# Holds for 3.12 too: of every file of a release the hash is there.
OLDEST_PYTHON: Final = "3.11"
NEVER: Final = "torch ; sys_platform == 'never'\n"


def lock(image: str, text: str, *options: str) -> None:
    """Write one image's file from requirements."""
    command = [sys.executable, "-m", "uv", "pip", "compile", "--quiet", "--no-header"]
    command += ["--no-emit-index-url", "--generate-hashes", "--upgrade"]
    command += [f"--python-version={OLDEST_PYTHON}", "--python-platform=linux", *options]
    target = IMAGES / image / "requirements.txt"
    head = "# Written by tools/write_locks.py from pyproject.toml; do not edit it here.\n"
    done = subprocess.run(
        [*command, "-"], input=text, capture_output=True, text=True, check=False, cwd=ROOT,
        env={**os.environ, "UV_NO_PROGRESS": "1"},
    )  # fmt: skip
    if done.returncode:
        sys.exit(done.stderr)
    target.write_text(head + done.stdout, encoding="utf-8")
    print(target.relative_to(ROOT))


def main() -> None:
    """Write all files."""
    about = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    project = about["project"]
    with tempfile.NamedTemporaryFile("w", suffix=".txt", encoding="utf-8") as override:
        override.write(NEVER)
        override.flush()
        for image, extras in EXTRAS.items():
            wanted = [*project["dependencies"]]
            for extra in extras:
                wanted += project["optional-dependencies"][extra]
            lock(image, "\n".join(wanted), f"--override={override.name}")
    lock("wheel", "\n".join(about["build-system"]["requires"]))


if __name__ == "__main__":
    main()
