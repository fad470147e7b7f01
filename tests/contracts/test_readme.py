"""Both READMEs name only what exists, and say the same."""

import re
from pathlib import Path

import pytest

from controller.cli import VERBS

CHECKOUT = Path(__file__).parents[2]
READMES = ("README.md", "README.zh-CN.md")
PAGES = (*READMES, "CONTRIBUTING.md", "CHANGELOG.md", *sorted(
    str(page.relative_to(CHECKOUT)) for page in (CHECKOUT / "docs").rglob("*.md")
))  # fmt: skip
COMMAND = re.compile(r"(?:^|`)((?:pangu|make) [a-z][a-z0-9-]*)", re.MULTILINE)
LINK = re.compile(r"\]\(([^)#:]+)(?:#[^)]*)?\)")
# A path of the tree in backticks: what the demo makes, and a user's own folders, are elsewhere.
TREE = r"pangu_core|k8s|controller|examples|docs|tests|bench|tools|\.ci"
PATH = re.compile(rf"`((?:{TREE})/[\w./-]*)`")
PLACEHOLDER = re.compile(r"/[A-Z]+\.")


def text_of(name: str) -> str:
    return (CHECKOUT / name).read_text("utf-8")


def blocks(text: str) -> list[str]:
    return re.findall(r"^```\w+\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def make_targets() -> set[str]:
    return set(re.findall(r"^([a-z-]+):", text_of("Makefile"), re.MULTILINE))


@pytest.mark.parametrize("page", [*READMES, "CONTRIBUTING.md"])
def test_every_command_exists(page: str) -> None:
    known = {f"pangu {verb}" for verb in VERBS} | {f"make {target}" for target in make_targets()}
    named = COMMAND.findall(text_of(page))
    assert "make test" in named
    assert set(named) <= known


def test_every_verb_is_in_the_readme() -> None:
    named = set(COMMAND.findall(text_of("README.md")))
    assert {f"pangu {verb}" for verb in VERBS} <= named


@pytest.mark.parametrize("page", PAGES)
def test_every_link_leads_somewhere(page: str) -> None:
    folder = (CHECKOUT / page).parent
    assert [link for link in LINK.findall(text_of(page)) if not (folder / link).exists()] == []


@pytest.mark.parametrize("page", [page for page in PAGES if page != "docs/migration.md"])
def test_every_path_exists(page: str) -> None:
    """docs/migration.md names the original's files as well."""
    paths = [path for path in PATH.findall(text_of(page)) if not PLACEHOLDER.search(path)]
    assert [path for path in paths if not (CHECKOUT / path).exists()] == []


def test_both_readmes_have_the_same_commands_and_examples_in_the_same_order() -> None:
    english, chinese = map(text_of, READMES)
    assert COMMAND.findall(english) == COMMAND.findall(chinese)
    assert blocks(english) == blocks(chinese)
    assert PATH.findall(english) == PATH.findall(chinese)
    own = ("README.md", "README.zh-CN.md")
    links = [
        [link for link in LINK.findall(text) if link not in own] for text in (english, chinese)
    ]
    assert links[0] == links[1]


def test_the_job_in_the_readme_is_the_demos() -> None:
    assert text_of("examples/tiny-cpu.yaml") in blocks(text_of("README.md"))


def test_every_weight_format_is_in_the_readme() -> None:
    from pangu_core.entry.formats import READERS, WRITERS  # brings torch: only where it is needed

    [sentence] = re.findall(r"Formats that `pangu convert`.*?\n\n", text_of("README.md"), re.DOTALL)
    named = set(re.findall(r"`([a-z-]+)`", sentence))
    assert named == set(READERS) == set(WRITERS)


def test_the_python_in_the_readme_uses_what_the_package_exports() -> None:
    import pangu_core

    [example] = [b for b in blocks(text_of("README.md")) if b.startswith("import pangu_core")]
    compile(example, "README.md", "exec")
    names = set(re.findall(r"pangu_core\.(\w+)", example))
    assert names <= set(pangu_core.__all__)


def test_no_page_names_a_folder_of_ones_own() -> None:
    folders = re.compile(r"(?<![\w.])/(?:work|home|root|tmp)/")
    assert [page for page in PAGES if folders.search(text_of(page))] == []
