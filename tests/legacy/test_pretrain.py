"""pretrain_gpt2 with the flags of the original's scripts, on a tiny network."""

import json
import os
import shutil
import subprocess
import sys

import pytest
import torch

SIZES = "--num-layers 2 --hidden-size 16 --num-attention-heads 4 --max-position-embeddings 64"
# examples/finetune_pangu_distributed.sh, with steps and paths of this test.
SCRIPT = (
    "pretrain_gpt2.py --model-parallel-size 2 "
    + SIZES
    + r""" \
       --batch-size 2 \
       --seq-length 32 \
       --train-iters 8 \
       --lr-decay-iters 8 \
       --save {save} \
       --load {load} \
       --data-path {data} \
       --vocab-file /userhome/megatron/tokenizer/bpe_4w_pcl/vocab \
       --merge-file gpt2-merges.txt \
       --data-impl mmap \
       --split 949,50,1 \
       --distributed-backend nccl \
       --lr 0.00015 \
       --lr-decay-style cosine \
       --min-lr 1.0e-5 \
       --weight-decay 1e-2 \
       --clip-grad 1.0 \
       --warmup .01 \
       --checkpoint-activations \
       --log-interval 4 \
       --save-interval 4 \
       --eval-interval 1000 \
       --eval-iters 2 \
       --attention-dropout 0.1 \
       --hidden-dropout 0.1 \
       --fp16 \
       --reset-attention-mask \
       --finetune
"""
)
AFRESH = SCRIPT.replace("--fp16", "").replace("--finetune", "")


def tracker(folder):
    return (folder / "latest_checkpointed_iteration.txt").read_text()


def test_the_released_weights_are_tuned_into_folders_of_the_port(
    legacy, released, tokens, contents, tmp_path
):
    result = legacy(SCRIPT, save=tmp_path, load=released, data=tokens)
    assert result.code == 0, result.err
    assert sorted(path.name for path in tmp_path.glob("iter_*")) == ["iter_0000004", "iter_0000008"]
    assert tracker(tmp_path) == "8"
    tuned, first = contents(tmp_path), contents(released)
    assert {value.dtype for value in tuned.values()} == {torch.float16}
    changed = (tuned["model/ln_f.bias"] - first["model/ln_f.bias"]).abs().max()
    assert 0 < changed < 8 * 0.00015 * 1.5
    assert "iteration 8 of 8: loss" in result.log
    assert not (tmp_path / ".pangu-work").exists()
    rows = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert json.loads(rows[-1])["event"] in ("save", "evaluate")


def test_going_on_from_iteration_4_ends_at_the_same_bits(
    legacy, tokens, contents, tmp_path, corpora
):
    whole, again = tmp_path / "whole", tmp_path / "again"
    result = legacy(AFRESH, save=whole, load=whole, data=tokens)
    assert result.code == 0, result.err
    assert "training starts with fresh weights" in result.log
    shutil.copytree(whole / "iter_0000004", again / "iter_0000004")
    (again / "latest_checkpointed_iteration.txt").write_text("4")
    assert legacy(AFRESH, save=again, load=again, data=tokens).code == 0
    first, second = contents(whole, optimizer=True), contents(again, optimizer=True)
    assert all(torch.equal(second[key], value) for key, value in first.items())


def test_without_the_optimizer_it_goes_on_from_the_iteration(
    legacy, tokens, contents, tmp_path, corpora
):
    line = AFRESH + "--no-save-optim --no-load-optim --tensorboard-dir {save}/board"
    assert legacy(line, save=tmp_path, load=tmp_path, data=tokens).code == 0
    longer = line.replace("--train-iters 8", "--train-iters 10")
    assert legacy(longer, save=tmp_path, load=tmp_path, data=tokens).code == 0
    assert tracker(tmp_path) == "10"
    assert any((tmp_path / "board").iterdir())
    assert (
        legacy(
            longer.replace("--no-load-optim", ""), save=tmp_path, load=tmp_path, data=tokens
        ).code
        == 4
    )


@pytest.mark.parametrize(
    ("change", "code", "complaint"),
    [
        (("--finetune", ""), 4, "without it no weights are loaded"),
        (("", ""), 4, "without it no weights are loaded"),
        (("--lr-decay-style cosine", "--lr-decay-style exponential"), 2, "was not brought over"),
        (("--train-iters 8", ""), 2, "--train-iters: nothing: says how long"),
        (("--lr 0.00015", "--lr -1"), 2, "train.optimizer.learningRate"),
        (("--data-path {data}", ""), 2, "--data-path: nothing: names the token files"),
    ],
)
def test_what_cannot_work_is_said_before_training(
    change, code, complaint, legacy, released, tokens, tmp_path
):
    load = tmp_path / "empty" if "tracker" in complaint or code == 4 else released
    result = legacy(SCRIPT.replace(*change), save=tmp_path / "out", load=load, data=tokens)
    assert result.code == code
    assert complaint in result.err


def test_fresh_weights_need_all_sizes(legacy, tokens, tmp_path, corpora):
    line = AFRESH.replace("--load {load}", "").replace("--hidden-size 16", "")
    result = legacy(line, save=tmp_path, load="", data=tokens)
    assert (result.code, "--hidden-size: nothing: says a size" in result.err) == (2, True)


@pytest.mark.parallel
def test_two_ranks_of_a_launcher_write_two_parts(released, tokens, contents, tmp_path):
    line = SCRIPT.format(save=tmp_path, load=released, data=tokens).replace("\\\n", " ")
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [sys.executable, *launcher, "-m", "pangu_core.legacy.pretrain_gpt2"]
    process = subprocess.Popen(
        [*command, *line.split()[1:]],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        said = process.communicate(timeout=400)[1]
    finally:
        process.terminate()  # its ranks end with it
        process.wait()
    assert process.returncode == 0, said[-2000:]
    assert len(list((tmp_path / "iter_0000008").glob("mp_rank_*"))) == 2
    assert contents(tmp_path, optimizer=True)["model/word_embedding.weight"].shape == (40_000, 16)
