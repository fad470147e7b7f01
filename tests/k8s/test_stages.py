import pytest

from k8s.stages import find, plan
from pangu_core.config.model import PRESETS
from pangu_core.config.stages import (
    ConvertConfig,
    FetchConfig,
    PreprocessConfig,
    ReshardConfig,
    TrainConfig,
)
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
        (["data.input=s3://b/*.txt"], ["fetch", "preprocess", "train", "merge"]),
        (["data.format=tokens", "data.input=runs/a/tokens"], ["train", "merge"]),
        (["model.from=https://h/w"], ["fetch", "convert", "preprocess", "train", "merge"]),
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


def test_token_files_that_are_there_are_what_training_reads(job):
    ready = job("data.format=tokens", "data.input=runs/a/tokens")
    assert find(ready, "train").config(1).token_files == "runs/a/tokens"


@pytest.mark.parametrize("source", ["s3://b/tokens", "[{path: a}]"])
def test_token_files_are_in_the_workspace(job, source):
    with pytest.raises(ConfigError, match="must be one prefix in the workspace"):
        job("data.format=tokens", f"data.input={source}")


def test_export_has_a_place_of_its_own(job):
    assert find(job("export={dtype: fp16}"), "export").config(1).target == "runs/small/export"


def test_configs_carry_the_run_and_the_attempt(job):
    run = find(job(), "train").config(7).run
    assert (run.name, run.uid, run.attempt) == ("small", job().uid, 7)


def test_every_config_reads_back_as_itself(job):
    classes = {
        "fetch": FetchConfig,
        "convert": ConvertConfig,
        "split": ReshardConfig,
        "preprocess": PreprocessConfig,
        "train": TrainConfig,
        "merge": ReshardConfig,
        "export": ConvertConfig,
    }
    for stage in plan(job("model.from=s3://b/w", "split={always: true}", "export={}")):
        config = stage.config(1)
        assert load(classes[stage.name], config.dump()) == config


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("s3://b/weights/old/", "runs/small/fetched/model/old"),
        ("https://h/a/pangu.ckpt?sign=x", "runs/small/fetched/model/pangu.ckpt"),
    ],
)
def test_weights_from_elsewhere_are_converted_where_they_are_fetched_to(job, url, path):
    stages = {stage.name: stage.config(1) for stage in plan(job(f"model.from={url}"))}
    [source] = stages["fetch"].sources
    assert (source.field, source.url, source.folders) == ("model.from", url, True)
    assert source.target == "runs/small/fetched/model"
    assert stages["convert"].source == path


@pytest.mark.parametrize(
    ("url", "pattern"),
    [
        ("s3://b/corpus/20*/*.txt", "runs/small/fetched/data/20*/*.txt"),
        ("s3://b/corpus/a.txt", "runs/small/fetched/data/a.txt"),
        ("https://h/a[1].txt", "runs/small/fetched/data/a[[]1].txt"),
    ],
)
def test_text_from_elsewhere_is_read_where_it_is_fetched_to(job, url, pattern):
    stages = {stage.name: stage.config(1) for stage in plan(job(f"data.input={url}"))}
    [source] = stages["fetch"].sources
    assert (source.url, source.folders) == (url, False)
    assert stages["preprocess"].input == pattern


def test_what_is_exported_elsewhere_is_written_in_the_workspace_first(job):
    config = find(job("export={to: s3://b/out}"), "export").config(1)
    assert (config.target, config.copy_to) == ("runs/small/export", "s3://b/out")
    assert find(job("export={to: out}"), "export").config(1).copy_to is None


def test_only_stages_that_reach_a_store_are_told_how(job):
    access = "secretRef: {name: keys}, endpoint: 'https://minio'"
    whole = job(f"data={{input: 's3://b/*.txt', {access}}}", f"export={{to: s3://b/o, {access}}}")
    told = {stage.name: stage.store for stage in plan(whole)}
    assert {name for name, store in told.items() if store} == {"fetch", "export"}
    assert told["fetch"].secret_ref.name == "keys"


def test_a_stage_that_the_job_does_not_have_is_refused(job):
    with pytest.raises(ConfigError, match="choose one of preprocess, train, merge"):
        find(job(), "export")
