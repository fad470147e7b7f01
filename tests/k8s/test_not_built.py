import pytest

from k8s.not_built import NOT_BUILT
from pangu_core.errors import ConfigError

ASKED_FOR = {
    "train.method": ["train.method=lora"],
    "train.lora": ["train.lora={rank: 4}"],
    "model.from": ["model.from=pvc://c/w"],
    "data.input": ["data.input=pvc://c/*.txt", "data.input=[{path: a.txt, weight: 2}]"],
    "data.validation": ["data.validation=valid.txt"],
    "data.format": ["data.format=chat"],
    "data.template": ["data.template=chat.j2"],
    "export.to": ["export={to: pvc://c/out}"],
    "serve.tensorParallel": ["serve={tensorParallel: 2}"],
}


def test_every_entry_of_the_table_is_tried_here():
    assert {entry.path for entry in NOT_BUILT} == set(ASKED_FOR)


@pytest.mark.parametrize(
    ("path", "override"), [(path, each) for path, many in ASKED_FOR.items() for each in many]
)
def test_what_is_not_built_is_refused_by_its_name(job, path, override):
    with pytest.raises(ConfigError) as caught:
        job(override)
    assert str(caught.value).startswith(f"{path}: ")
    assert ": is not built yet; " in str(caught.value)


def test_the_message_says_what_to_use_instead(job):
    with pytest.raises(ConfigError, match=r"^train.method: lora: is not built yet; use full$"):
        job("train.method=lora")
