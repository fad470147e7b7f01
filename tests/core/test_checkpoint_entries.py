"""split, merge, verify, convert, export: by hand with flags, and as stages from a config file."""

import json
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from pangu_core.checkpoint.manifest import Layout
from pangu_core.checkpoint.reader import Checkpoint
from pangu_core.checkpoint.store import Store
from pangu_core.entry import convert, export, merge, split, verify
from pangu_core.layout import whole
from pangu_core.loading import dump_yaml

RUN = {"name": "small", "uid": "r1", "attempt": 1}


@pytest.fixture
def call(monkeypatch):
    """Call an entry's command; logging stays pytest's."""
    monkeypatch.setattr("pangu_core.log.set_up", lambda who: None)

    def invoke(entry, *arguments):
        return CliRunner().invoke(entry.main, [str(a) for a in arguments])

    return invoke


@pytest.fixture
def stage(call, tmp_path, monkeypatch):
    """Run an entry as its pod does; returns its termination message."""
    message = tmp_path / "termination"
    monkeypatch.setenv("PANGU_WORKSPACE", str(tmp_path))
    monkeypatch.setenv("PANGU_CONFIG", str(tmp_path / "config.yaml"))
    monkeypatch.setenv("PANGU_TERMINATION_PATH", str(message))

    def run(entry, **values):
        (tmp_path / "config.yaml").write_text(dump_yaml({"run": RUN, **values}))
        call(entry)
        return json.loads(message.read_text())

    return run


@pytest.fixture
def checkpoints(small, tmp_path):
    """A folder of checkpoints: step 5 at tp 2 x dp 3, with moments."""
    root = tmp_path / "checkpoints"
    small.save_as(Store(root), 5, small.tensors(), Layout(2, 3))
    return root


def contents(folder):
    checkpoint = Checkpoint.open(folder)
    shapes = {stored.key: stored.shape for stored in checkpoint.manifest.slices}
    return {key: checkpoint.read(key, whole(shape)) for key, shape in shapes.items()}


def same_bytes(first, second):
    return first.keys() == second.keys() and all(
        torch.equal(first[key], second[key]) for key in first
    )


def test_split_and_merge_return_the_first_bytes(call, checkpoints, small, tmp_path):
    folders = [checkpoints]
    for number, tp in enumerate((4, 8, 1, 2, 1)):
        folders.append(tmp_path / f"out{number}")
        result = call(split, *folders[-2:], "--tp", tp, "--optimizer")
        assert result.exit_code == 0, result.output
        assert Checkpoint.open(folders[-1]).manifest.layout == Layout(tp, 1)
    assert same_bytes(contents(folders[-1]), small.tensors())


def test_merge_makes_one_file_that_the_library_can_read(call, checkpoints, tmp_path):
    assert call(merge, checkpoints, tmp_path / "model").exit_code == 0
    files = sorted(path.name for path in (tmp_path / "model").iterdir())
    assert files == ["manifest.json", "model-00000.safetensors"]
    manifest = Checkpoint.open(tmp_path / "model").manifest
    assert (manifest.step, manifest.has_optimizer) == (5, False)


def test_a_cast_touches_the_weights_and_not_the_moments(call, checkpoints, small, tmp_path):
    call(merge, checkpoints, tmp_path / "half", "--optimizer", "--dtype", "bf16")
    found, key = contents(tmp_path / "half"), "query_layer.mlp.up.weight"
    assert Checkpoint.open(tmp_path / "half").manifest.dtype == "bf16"
    assert torch.equal(found[f"model/{key}"], small.tensors()[f"model/{key}"].bfloat16())
    assert torch.equal(found[f"exp_avg/{key}"], small.tensors()[f"exp_avg/{key}"])


def test_heads_that_do_not_divide_are_refused(call, checkpoints, tmp_path):
    result = call(split, checkpoints, tmp_path / "out", "--tp", "3")
    assert result.exit_code == 2
    assert "must divide the model's 8 heads; choose one of [1, 2, 4, 8]" in result.output
    assert not (tmp_path / "out").exists()


def test_a_folder_that_is_there_is_not_written_over_by_hand(call, checkpoints, tmp_path):
    (tmp_path / "out").mkdir()
    result = call(merge, checkpoints, tmp_path / "out")
    assert (result.exit_code, "must not exist yet" in result.output) == (2, True)


def test_verify_names_the_damaged_tensor_and_exits_with_4(call, checkpoints):
    assert "all intact" in call(verify, checkpoints).output
    path = checkpoints / "step-00000005" / "model-00003.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 128
    path.write_bytes(data)
    result = call(verify, checkpoints)
    assert result.exit_code == 4
    assert "model/query_layer.mlp.down.weight ((3, 6), (16, 32)) has SHA-256" in result.output


def test_verify_says_once_that_a_file_is_truncated(call, checkpoints):
    path = checkpoints / "step-00000005" / "model-00003.safetensors"
    size = path.stat().st_size
    path.write_bytes(path.read_bytes()[:-1000])
    result = call(verify, checkpoints)
    lines = [line for line in result.output.splitlines() if path.name in line]
    assert (result.exit_code, len(lines)) == (4, 1)
    assert f"file has {size - 1000:,} bytes, the header says {size:,}: truncated" in lines[0]


def test_a_source_of_no_known_format_is_refused(call, tmp_path):
    result = call(convert, tmp_path, tmp_path / "out")
    assert (result.exit_code, "must hold weights of one of" in result.output) == (2, True)


def test_one_path_alone_is_a_usage_error(call, checkpoints):
    assert call(merge, checkpoints).exit_code == 2


def test_the_stages_of_a_job_follow_one_another(stage, checkpoints, small, tmp_path):
    steps = [(convert, "converted"), (split, "split"), (merge, "model"), (export, "export")]
    chain = ["checkpoints", *(name for _, name in steps)]
    for (entry, name), (source, target) in zip(steps, pairwise(chain), strict=True):
        more = {"tensorParallel": 4} if entry is split else {}
        message = stage(entry, source=source, target=target, **more)
        assert (message["code"], message["output"], message["skipped"]) == (0, name, False)
        assert message["manifest_sha256"] == Checkpoint.open(tmp_path / name).manifest_sha256
    assert same_bytes(contents(tmp_path / "export"), small.tensors(optimizer=False))


def test_a_stage_whose_output_is_there_is_skipped(stage, checkpoints):
    assert not stage(merge, source="checkpoints", target="model")["skipped"]
    assert stage(merge, source="checkpoints", target="model")["skipped"]


def test_a_newer_checkpoint_makes_the_stage_run_again(stage, checkpoints, small, tmp_path):
    stage(merge, source="checkpoints", target="model")
    small.save_as(Store(checkpoints), 6, small.tensors(seed=6), Layout())
    assert not stage(merge, source="checkpoints", target="model")["skipped"]
    assert Checkpoint.open(tmp_path / "model").manifest.step == 6
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(("tmp-", "repl"))]


def test_another_run_of_the_same_name_touches_nothing(stage, checkpoints, tmp_path):
    stage(merge, source="checkpoints", target="model")
    before = (tmp_path / "model" / "manifest.json").read_bytes()
    stranger = {**RUN, "uid": "r2"}
    message = stage(split, source="checkpoints", target="model", run=stranger)
    assert (message["code"], message["error"]) == (6, "WorkspaceError")
    assert "runs/small: owned by run small (r1)" in message["message"]
    assert (tmp_path / "model" / "manifest.json").read_bytes() == before


def test_attempts_are_fenced_for_each_stage_by_itself(stage, checkpoints, tmp_path):
    second = {**RUN, "attempt": 2}
    assert stage(merge, source="checkpoints", target="model", run=second)["code"] == 0
    assert stage(merge, source="checkpoints", target="model")["code"] == 6
    assert stage(split, source="checkpoints", target="split")["code"] == 0
    owner = json.loads((tmp_path / "runs" / "small" / "owner.json").read_text())
    assert (owner["name"], owner["uid"]) == ("small", "r1")
    assert owner["attempts"] == {"merge": 2, "split": 1}
    assert set(owner["claims"]) == {"merge", "split"}


def test_a_stage_never_replaces_what_is_no_checkpoint(stage, checkpoints, tmp_path):
    Path(tmp_path / "model").mkdir()
    (tmp_path / "model" / "thesis.txt").write_text("mine")
    message = stage(merge, source="checkpoints", target="model")
    assert (message["code"], message["error"]) == (2, "ConfigError")
    assert (tmp_path / "model" / "thesis.txt").read_text() == "mine"


def test_a_killed_stage_leaves_nothing_that_the_next_keeps(stage, checkpoints, tmp_path):
    leftover = tmp_path / "tmp-model-0123456789ab"
    leftover.mkdir()
    (tmp_path / "tmp-model-2-0123456789ab").mkdir()  # another target's
    stage(merge, source="checkpoints", target="model")
    assert not leftover.exists()
    assert (tmp_path / "tmp-model-2-0123456789ab").exists()
