"""Rewrite tests/golden/rendered from examples/; the difference is for a person to read."""

from pathlib import Path

from k8s.render import render
from k8s.spec import parse
from k8s.text import pretty_documents

ROOT = Path(__file__).parents[1]


def main() -> None:
    """Render every example into its golden file."""
    target = ROOT / "tests" / "golden" / "rendered"
    target.mkdir(parents=True, exist_ok=True)
    for example in sorted((ROOT / "examples").glob("*.yaml")):
        manifests = [manifest for each in parse(example) for manifest in render(each)]
        (target / example.name).write_text(pretty_documents(manifests), encoding="utf-8")
        print(example.name)


if __name__ == "__main__":
    main()
