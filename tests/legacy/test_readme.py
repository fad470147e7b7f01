"""Each command of the original's README, on tiny files: flags, order and slips as printed there."""

import numpy as np
import pytest
import torch

from pangu_core.checkpoint.formats.mindspore.names import is_transposed, original_of_key
from pangu_core.data.token_files import TokenFile
from pangu_core.errors import CheckpointError

GENERATE = r"""tools/generate_samples_Pangu.py \
--model-parallel-size 1 \
--num-layers 2 \
--hidden-size 16 \
--load {load}/ \
--num-attention-heads 4 \
--max-position-embeddings 64 \
--tokenizer-type GPT2BPETokenizer \
--fp16 \
--batch-size 1 \
--seq-length 64 \
--out-seq-length 8 \
--temperature 1.0 \
--vocab-file megatron/tokenizer/bpe_4w_pcl/vocab \
--num-samples 0 \
--top_k 2 \
--finetune
"""
SPLIT = r"""tools/split_full_model_into_mp_model.py \
--model-parallel-size 1 \
--num-mp-model 2 \
--num-layers 2 \
--hidden-size 16 \
--load {load} \
--mp-model-save {save} \
--num-attention-heads 4 \
--max-position-embeddings 64 \
--tokenizer-type GPT2BPETokenizer \
--fp16 \
--batch-size 1 \
--seq-length 64 \
--model-type Pangu \
--vocab-file megatron/tokenizer/bpe_4w_pcl/vocab \
--finetune
"""
MERGE = r"""tool/merge_mp_partitions.py \
--model-parallel-size 1 \
--mp-model-parallel-size 2 \
--num-layers 2 \
--hidden-size 16 \
--load {load}  \
--num-attention-heads 4 \
--max-position-embeddings 64 \
--tokenizer-type GPT2BPETokenizer \
--fp16 \
--batch-size 1 \
--seq-length 64 \
--model-type Pangu \
--vocab-file megatron/tokenizer/bpe_4w_pcl/vocab \
--reset-attention-mask \
--finetune \ """
PREPROCESS = r"""/tools/preprocess_data_pangu.py \
--input {input} \
--output-prefix {prefix}/ \
--vocab-file /megatron/tokenizer/bpe_4w_pcl/vocab \
--dataset-impl mmap \
--append-eod
"""


def test_text_is_generated(legacy, released):
    result = legacy(GENERATE, load=released)
    assert (result.code, result.err) == (0, "")
    assert result.out.count("Input is: ") == result.out.count("Output is: ") == 3
    assert "--finetune has no effect: weights load without it" in result.log
    assert "the published vocabulary is used" in result.log


def test_the_model_is_split_and_merged_into_the_first_bytes(legacy, released, contents, tmp_path):
    assert legacy(SPLIT, load=released, save=tmp_path / "mp").code == 0
    files = sorted((tmp_path / "mp").glob("iter_0001000/mp_rank_*/model_optim_rng.pt"))
    assert [path.parent.name for path in files] == ["mp_rank_00", "mp_rank_01"]
    result = legacy(MERGE, load=tmp_path / "mp")
    assert result.code == 0
    merged, first = contents(tmp_path / "mp" / "merged"), contents(released)
    assert all(torch.equal(merged[key], value) for key, value in first.items())
    assert len(merged) == len(first)


def test_text_becomes_token_files(legacy, tmp_path, corpora):
    for number in (1, 2):
        text = f"sample {number}\n***\n\n你好啊。\n"
        (tmp_path / f"{number}.txt").write_text(text, encoding="utf-8")
    # The shell puts the files in place of the README's unquoted pattern.
    files = f"{tmp_path}/1.txt {tmp_path}/2.txt"
    line = PREPROCESS.replace("{input}", files)
    assert legacy(line, prefix=tmp_path / "dataset").code == 0
    found = TokenFile.open(tmp_path / "dataset" / "text_document")
    assert found.num_document_bounds - 1 == 4
    tokens = np.fromfile(tmp_path / "dataset" / "text_document.bin", np.uint16)
    assert (tokens == 9).sum() == 4


def test_a_quoted_pattern_and_the_first_name_give_the_same(legacy, tmp_path, corpora):
    (tmp_path / "a.txt").write_text("你好啊", encoding="utf-8")
    line = "preprocess_data --input {folder}/*.txt --output-prefix {folder}/x_ --eod-num 2"
    result = legacy(f"{line} --tokenizer-type GPT2BPETokenizer --keep-newlines", folder=tmp_path)
    assert result.code == 0
    assert "--eod-num has no effect: one end mark" in result.log
    assert np.fromfile(tmp_path / "x_text_document.bin", np.uint16).tolist() == [5772, 173]


def test_the_npy_folder_becomes_a_folder_of_the_port(legacy, contents, weights, tmp_path):
    wanted = {key: tensor.read() for key, tensor in weights.tensors.items()}
    for key, value in wanted.items():
        stored = value.float().t() if is_transposed(key) else value.float()
        np.save(tmp_path / f"{original_of_key(key)}.npy", stored.numpy())
    line = """change_MspCkpt_ToMgt --npy-ckpt-path {npy}/ --model-type Pangu --fp16 --num-layers 2
        --num-attention-heads 4 --hidden-size 16 --max-position-embeddings 64"""
    assert legacy(line, npy=tmp_path).code == 0
    assert (tmp_path / "merged" / "iter_0001000" / "mp_rank_00").is_dir()
    found = contents(tmp_path / "merged")
    assert all(torch.equal(found[key], value) for key, value in wanted.items())


def test_a_folder_without_a_tracker_is_never_random_weights(legacy, tmp_path):
    result = legacy(GENERATE, load=tmp_path)
    assert result.code == CheckpointError.exit_code
    assert "without it no weights are loaded" in result.err


@pytest.mark.parametrize(
    ("old", "new", "code", "complaint"),
    [
        ("--num-layers 2", "--num-layers 31", 4, "write --num-layers 2, or leave it out"),
        ("--load {load}", "", 2, "--load: nothing: names the folder"),
        ("size 2", "size 4", 2, "--mp-model-parallel-size: 4: "),
    ],
)
def test_flags_that_contradict_the_files_are_named(old, new, code, complaint, legacy, released):
    line = MERGE.replace(old, new).replace("size 2", "size 1")
    result = legacy(line, load=released)
    assert (result.code, complaint in result.err) == (code, True), result.err
