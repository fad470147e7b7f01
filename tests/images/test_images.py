"""The images' files agree with the project; building them is for a machine with buildah."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from k8s import names
from pangu_core import __version__
from pangu_core.data.vocabulary import TOKENIZER_VARIABLE
from tools.write_locks import EXTRAS

CHECKOUT = Path(__file__).parents[2]
IMAGES = CHECKOUT / "images"
BOTH = pytest.mark.parametrize("image", ["core", "controller"])


def wanted(image):
    about = tomllib.loads((CHECKOUT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = [*about["dependencies"]]
    for extra in EXTRAS[image]:
        lines += about["optional-dependencies"][extra]
    return [Requirement(line) for line in lines]


def locked(image):
    text = (IMAGES / image / "requirements.txt").read_text(encoding="utf-8")
    return dict(re.findall(r"^([a-z0-9._-]+)==(\S+)", text, re.MULTILINE))


def instructions(image):
    text = (IMAGES / image / "Containerfile").read_text(encoding="utf-8")
    text = re.sub(r"^\s*#.*\n", "", text, flags=re.MULTILINE).replace("\\\n", " ")
    return [line.split(maxsplit=1) for line in text.splitlines() if line.strip()]


def final_stage(image):
    found = instructions(image)
    start = max(i for i, (word, _) in enumerate(found) if word == "FROM")
    return found[start:]


def environment(image):
    texts = [text for word, text in final_stage(image) if word == "ENV"]
    return dict(re.findall(r"(\w+)=(\S+)", " ".join(texts)))


@BOTH
def test_the_lock_has_what_the_project_asks_for(image):
    have = locked(image)
    for each in wanted(image):
        if each.name != "torch":
            name = each.name.lower().replace("_", "-")
            assert each.specifier.contains(have[name]), f"{each}: {have[name]}; run make lock"


@pytest.mark.parametrize("image", ["core", "controller", "wheel"])
def test_every_locked_release_has_its_hashes(image):
    text = (IMAGES / image / "requirements.txt").read_text(encoding="utf-8")
    releases = re.split(r"^(?=[a-z])", text, flags=re.MULTILINE)[1:]
    assert len(releases) >= 5
    assert [each for each in releases if "--hash=sha256:" not in each] == []


@BOTH
def test_no_lock_holds_torch_or_what_comes_with_it(image):
    names_of_cuda = [n for n in locked(image) if n.startswith(("torch", "nvidia", "triton"))]
    assert names_of_cuda == []


def test_the_torch_of_the_image_is_one_that_the_project_takes():
    torch = next(each for each in wanted("core") if each.name == "torch")
    pinned = re.search(r'ARG TORCH="torch==(\S+)"', (IMAGES / "core/Containerfile").read_text())
    assert torch.specifier.contains(pinned[1])


@BOTH
def test_an_image_has_a_number_for_a_user_and_no_entry_point(image):
    stage = dict(final_stage(image))
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", stage["USER"])
    assert "ENTRYPOINT" not in stage


@BOTH
def test_an_image_finds_its_commands_and_its_home(image):
    values = environment(image)
    assert values["PATH"].startswith("/opt/pangu/bin:")
    assert (values["HOME"], values["USER"]) == (names.HOME_MOUNT, "pangu")


def test_what_is_compiled_and_the_vocabulary_lie_where_pods_can_reach_them():
    values = environment("core")
    for name in ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR"):
        assert values[name].startswith(f"{names.HOME_MOUNT}/")
    assert values[TOKENIZER_VARIABLE].endswith("/vocab.model")


@BOTH
def test_an_image_says_which_version_it_is(image):
    arguments = [text for word, text in final_stage(image) if word == "ARG"]
    assert f"VERSION={__version__}" in arguments
    labels = next(text for word, text in final_stage(image) if word == "LABEL")
    assert 'org.opencontainers.image.version="${VERSION}"' in labels
