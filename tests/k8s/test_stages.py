import pytest

from k8s.stages import find, plan
from pangu_core.config.model import PRESETS
from pangu_core.config.stages import ConvertConfig, PreprocessConfig, ReshardConfig, TrainConfig
from pangu_core.errors import ConfigError
from pangu_core.loading import load


def stage_names(job):
    return [stage.name for stage in plan(job)]


@pytest.mark.parametrize(
    ("overrides", "stages"),
    [
        ([], ["preprocess", "train", "merge"]),
        (["model.from=w"], ["convert", "preprocess", "train", "merge"]),
        (
            ["model.from=w", "split={always: true}"],
            ["convert", "split", "preprocess", "train", "merge"],
        ),
        (["export={}"], ["preprocess", "train", "merge", "export"]),
    ],
)
def test_stages_follow_from_the_spec(job, overrides, stages):
    assert stage_names(job(*overrides)) == stages


def test_each_stage_reads_what_the_one_before_wrote(job):
    whole = job("model.from=w", "split={always: true, tensorParallel: 4}", "export={to: out}")
    config = {stage.name: stage.config(1) for stage in plan(whole)}
    assert config["convert"].source == "w"
    assert config["split"].source == config["convert"].target
    assert config["split"].tensor_parallel == 4
    assert config["train"].init_from == config["split"].target
    assert config["train"].token_files == config["preprocess"].output
    assert config["merge"].source == "runs/small/checkpoints"
    assert config["export"].source == config["merge"].target
    assert config["export"].target == "out"


def test_without_split_training_starts_from_the_converted_weights(job):
    stages = {stage.name: stage.config(1) for stage in plan(job("model.from=w"))}
    assert stages["train"].init_from == stages["convert"].target
    assert stages["convert"].model == PRESETS["tiny"]
    assert find(job(), "train").config(1).init_from is None


def test_export_has_a_place_of_its_own(job):
    assert find(job("export={dtype: fp16}"), "export").config(1).target == "runs/small/export"


def test_configs_carry_the_run_and_the_attempt(job):
    run = find(job(), "train").config(7).run
    assert (run.name, run.uid, run.attempt) == ("small", job().uid, 7)


def test_every_config_reads_back_as_itself(job):
    classes = {
        "convert": ConvertConfig,
        "split": ReshardConfig,
        "preprocess": PreprocessConfig,
        "train": TrainConfig,
        "merge": ReshardConfig,
        "export": ConvertConfig,
    }
    for stage in plan(job("model.from=w", "split={always: true}", "export={}")):
        config = stage.config(1)
        assert load(classes[stage.name], config.dump()) == config


def test_a_stage_that_the_job_does_not_have_is_refused(job):
    with pytest.raises(ConfigError, match="choose one of preprocess, train, merge"):
        find(job(), "export")
