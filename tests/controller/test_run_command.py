"""``pangu run``: what it prints, how it exits, what it leaves behind."""

import json
from pathlib import Path

import pytest
import yaml

from controller import run_command
from controller.reconcile import reconcile
from k8s.spec import parse_job
from pangu_core.errors import ConfigError, WorkspaceError

JOB = """
apiVersion: pangu-finetune.io/v1alpha1
kind: PanguJob
metadata: {name: novel}
spec:
  image: none
  workspace: {size: 1Gi}
  model: {preset: tiny}
  data: {input: corpus.txt}
  train: {steps: 1, globalBatchSize: 2, restarts: {limit: 0}}
"""
GOOD = {
    "preprocess": "print('tokens')",
    "train": 'say(code=0, output="runs/novel/checkpoints/step-1", manifest_sha256="ab")',
    "merge": 'say(code=0, output="runs/novel/model")',
}
CHECKPOINT = '(work / "runs/novel/checkpoints/step-1")'


def test_a_job_runs_to_its_end_and_says_where_the_results_are(
    tmp_path, monkeypatch, fake_render, capsys
):
    monkeypatch.setattr(run_command, "render_stage", fake_render(GOOD))
    assert run_command.run_job(parse_job(JOB), tmp_path) == 0
    told = capsys.readouterr().out
    assert "merge -> runs/novel/model" in told
    assert told.index("preprocess: attempt 1 starts") < told.index("train: attempt 1 starts")
    stored = json.loads((tmp_path / "runs/novel/status.json").read_text())
    assert (stored["kind"], stored["status"]["phase"]) == ("PanguJob", "Complete")
    assert stored["status"]["stages"][1]["manifestSha256"] == "ab"


def test_a_job_that_asks_for_a_service_says_how_to_start_one_here(
    tmp_path, monkeypatch, fake_render, capsys
):
    monkeypatch.setattr(run_command, "render_stage", fake_render(GOOD))
    assert run_command.run_job(parse_job(JOB, ["serve={}"]), tmp_path) == 0
    model = tmp_path.resolve() / "runs/novel/model"
    assert f"serve it: pangu serve --model {model} --name novel" in capsys.readouterr().out


TOKENS = '(work / "tokens")'
AS_A_STAGE = {
    **GOOD,
    "preprocess": f"known = {TOKENS}.exists(); {TOKENS}.touch(); say(code=0, skipped=known)",
    "train": f"{CHECKPOINT}.mkdir(parents=True, exist_ok=True); {GOOD['train']}",
}


def test_a_second_start_looks_at_every_output_again(tmp_path, monkeypatch, fake_render, capsys):
    monkeypatch.setattr(run_command, "render_stage", fake_render(AS_A_STAGE))
    run_command.run_job(parse_job(JOB), tmp_path)
    capsys.readouterr()
    assert run_command.run_job(parse_job(JOB), tmp_path) == 0
    told = capsys.readouterr().out
    assert "preprocess: attempt 2 starts" in told
    assert "merge: attempt 2 starts" in told
    assert "train: attempt" not in told
    (tmp_path / "runs/novel/checkpoints/step-1").rmdir()
    assert run_command.run_job(parse_job(JOB), tmp_path) == 0
    assert "train: attempt 2 starts" in capsys.readouterr().out


def test_training_looks_again_at_tokens_that_were_written_anew(
    tmp_path, monkeypatch, fake_render, capsys
):
    monkeypatch.setattr(run_command, "render_stage", fake_render(AS_A_STAGE))
    run_command.run_job(parse_job(JOB), tmp_path)
    (tmp_path / "tokens").unlink()
    capsys.readouterr()
    assert run_command.run_job(parse_job(JOB), tmp_path) == 0
    assert "train: attempt 2 starts" in capsys.readouterr().out


def test_changed_settings_train_again(tmp_path, monkeypatch, fake_render):
    monkeypatch.setattr(run_command, "render_stage", fake_render(GOOD))
    run_command.run_job(parse_job(JOB), tmp_path)
    run_command.run_job(parse_job(JOB, ["train.steps=2"]), tmp_path)
    stored = json.loads((tmp_path / "runs/novel/status.json").read_text())
    assert [s["attempt"] for s in stored["status"]["stages"]] == [2, 2, 2]
    assert stored["metadata"]["generation"] == 2
    kept = yaml.safe_load((tmp_path / "runs/novel/job.yaml").read_text())
    assert kept["spec"]["train"]["steps"] == 2


def test_a_failure_names_the_reason_and_the_log(tmp_path, monkeypatch, fake_render, capsys):
    bad = {**GOOD, "train": 'say(code=3, error="DataError", message="no text"); sys.exit(3)'}
    monkeypatch.setattr(run_command, "render_stage", fake_render(bad))
    assert run_command.run_job(parse_job(JOB), tmp_path) == 3
    told = capsys.readouterr().out
    assert "train: attempt 1 ended (DataError, exit code 3" in told
    assert told.count("no text") == 1
    assert f"train failed; its output: {tmp_path}/runs/novel/logs/*-train-1-*.log" in told


@pytest.mark.parametrize("name", ["file", "nowhere"])
def test_a_workspace_that_is_no_folder_is_refused_with_its_whole_path(tmp_path, monkeypatch, name):
    (tmp_path / "file").touch()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=f"{tmp_path}/{name}: must be a folder that exists"):
        run_command.run_job(parse_job(JOB), Path(name))
    assert not (tmp_path / "nowhere").exists()


def test_a_workspace_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "runs").touch()
    with pytest.raises(WorkspaceError, match="must accept reads and writes"):
        run_command.run_job(parse_job(JOB), tmp_path)


def test_a_service_cannot_be_run(tmp_path):
    text = """
apiVersion: pangu-finetune.io/v1alpha1
kind: PanguService
metadata: {name: novel}
spec: {image: none, workspace: {claimName: c}, model: runs/novel/model}
"""
    with pytest.raises(ConfigError, match="text: 0 PanguJobs: must hold exactly one PanguJob"):
        parse_job(text)


def test_a_start_after_a_crash_goes_on_with_the_next_attempt_for_free(
    tmp_path, monkeypatch, fake_render
):
    slow = 'time.sleep(60 if "preprocess-1/" in os.environ["PANGU_CONFIG"] else 0)'
    programs = {**GOOD, "preprocess": slow}
    monkeypatch.setattr(run_command, "render_stage", fake_render(programs))
    monkeypatch.setattr("controller.local.runtime.reconcile", dying_after(3))
    with pytest.raises(MemoryError):
        run_command.run_job(parse_job(JOB), tmp_path)
    monkeypatch.setattr("controller.local.runtime.reconcile", reconcile)
    assert run_command.run_job(parse_job(JOB), tmp_path) == 0
    status = json.loads((tmp_path / "runs/novel/status.json").read_text())["status"]
    assert status["stages"][0]["attempt"] == 2
    assert status["history"][0]["cause"] == "ObjectsGone"
    assert status["charges"] == []


def dying_after(calls):
    """A reconcile that works so many times."""
    count = iter(range(calls))

    def work(observed, now):
        if next(count, None) is None:
            raise MemoryError
        return reconcile(observed, now)

    return work
