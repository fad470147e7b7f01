"""Size budgets: a file fits in a sitting, a function on a screen.

Files may have 400 lines, functions 60. What outgrows that is split, the limit is not raised.
"""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

FILE_LINES = 400
FUNCTION_LINES = 60


def problems(path: Path) -> Iterator[str]:
    """What in one file is over budget."""
    text = path.read_text(encoding="utf-8")
    lines = text.count("\n")
    if lines > FILE_LINES:
        yield f"{path}: {lines} lines, at most {FILE_LINES}: split it along its nouns"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            if length > FUNCTION_LINES:
                yield f"{path}:{node.lineno}: {node.name} has {length} lines, at most {FUNCTION_LINES}"


def main() -> int:
    """Check every tracked or new Python file; print what is over budget."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.py"]
    names = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    found = [problem for name in names if Path(name).is_file() for problem in problems(Path(name))]
    print("\n".join(found) or f"{len(names)} files within {FILE_LINES} lines")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
