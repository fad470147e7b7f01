"""A real job on this machine whose text, copies and export lie on a real S3 service."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pangu_core.checkpoint.manifest import FILE_NAME
from pangu_core.checkpoint.mirror import Mirror
from pangu_core.checkpoint.reader import Checkpoint
from pangu_core.checkpoint.store import find_checkpoint
from pangu_core.layout import whole
from pangu_core.remote.files import Remote

pytestmark = [pytest.mark.parallel, pytest.mark.timeout(600)]

CHECKOUT = Path(__file__).parents[2]
PATIENCE_SECONDS = 280
SETTINGS = (
    "model.hiddenSize=16", "model.numLayers=2", "model.sequenceLength=32",
    "train.steps=8", "train.checkpoint.everySteps=4", "train.globalBatchSize=2",
    "train.microBatchSize=2", "train.evaluate.batches=1", "train.logEverySteps=1",
    "train.tensorParallel=1", "train.nodes.processesPerNode=1",
)  # fmt: skip


def run(workspace: Path, bucket: str, endpoint: str, corpora: Path, *, exports: bool) -> str:
    """``pangu run``; returns what it said."""
    access = f"endpoint: '{endpoint}', secretRef: {{name: keys}}"
    elsewhere = [
        f"data={{input: '{bucket}/corpus/*.txt', split: '95,5,0', {access}}}",
        f"train.checkpoint.copyTo={bucket}/copies",
    ]
    if exports:
        elsewhere.append(f"export={{to: '{bucket}/model', {access}}}")
    overrides = [part for setting in (*SETTINGS, *elsewhere) for part in ("--set", setting)]
    command = [str(Path(sys.executable).with_name("pangu")), "run", "examples/tiny-cpu.yaml"]
    workspace.mkdir()
    result = subprocess.run(
        [*command, "--workspace", str(workspace), *overrides],
        cwd=CHECKOUT,
        env={**os.environ, "PANGU_TOKENIZER": str(corpora / "vocab.model")},
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def starts(workspace: Path) -> list[int]:
    """The steps at which training began."""
    lines = (workspace / "runs/tiny-cpu/metrics.jsonl").read_text().splitlines()
    return [e["step"] for e in map(json.loads, lines) if e["event"] == "start"]


def final(workspace: Path) -> dict[str, bytes]:
    """Every tensor of the final checkpoint, moments included."""
    checkpoint = Checkpoint.open(find_checkpoint(workspace / "runs/tiny-cpu/checkpoints"))
    assert checkpoint.manifest.final
    shapes = {s.key: s.shape for s in checkpoint.manifest.slices}
    return {k: checkpoint.read(k, whole(s)).numpy().tobytes() for k, s in shapes.items()}


def test_a_lost_workspace_comes_back_from_s3_with_the_same_weights(
    tmp_path, bucket, s3_endpoint, corpora
):
    text = (corpora / "peoples_daily.txt").read_text(encoding="utf-8")[:60_000]
    (tmp_path / "daily.txt").write_text(text, encoding="utf-8")
    Remote(bucket, subject="test").upload(tmp_path / "daily.txt", "corpus/daily.txt")
    said = run(tmp_path / "first", bucket, s3_endpoint, corpora, exports=True)
    assert f"export -> {bucket}/model" in said
    assert starts(tmp_path / "first") == [0]
    mirror = Mirror(f"{bucket}/copies")
    assert mirror.names() == ["step-00000008", "step-00000004"]
    assert FILE_NAME in Remote(f"{bucket}/model", subject="test").files()
    before = final(tmp_path / "first")

    shutil.rmtree(tmp_path / "first")
    mirror.prune({"step-00000004"})  # as if the machine had been lost before the last copy
    run(tmp_path / "second", bucket, s3_endpoint, corpora, exports=False)
    assert starts(tmp_path / "second") == [4]
    assert final(tmp_path / "second") == before
    assert mirror.newest() == "step-00000008"
