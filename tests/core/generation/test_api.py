"""The stable Python interface over checkpoints on disk."""

import pytest
import torch

import pangu_core
from pangu_core.errors import CheckpointError, ConfigError
from pangu_core.generation.load import load


@pytest.fixture(scope="module")
def checkpoints(model, tokenizer, tools, tmp_path_factory):
    """A folder of two checkpoints of the small model; the newest is step 2."""
    folder = tmp_path_factory.mktemp("run") / "checkpoints"
    for step in (1, 2):
        tools.save(folder, model, tokenizer.path, step)
    return folder


@pytest.fixture
def ids():
    return torch.tensor([[11, 42, 7], [9, 3, 200]])


def test_a_model_is_a_callable_from_ids_to_logits(checkpoints, model, ids):
    loaded = pangu_core.load_model(checkpoints / "step-00000001")
    logits = loaded(ids)
    assert logits.shape == (2, 3, model.config.vocab_size)
    assert logits.dtype == torch.float32
    assert torch.equal(logits, model(ids))


def test_a_folder_of_checkpoints_means_its_newest(checkpoints):
    assert load(checkpoints).folder.name == "step-00000002"


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [("float64", 1e-5), ("bfloat16", 0.5), ("float16", 0.1)]
)
def test_weights_are_cast_to_the_dtype_that_is_asked_for(checkpoints, model, ids, dtype, tolerance):
    loaded = pangu_core.load_model(str(checkpoints), "cpu", dtype)
    assert {p.dtype for p in loaded.network.parameters()} == {getattr(torch, dtype)}
    assert (loaded(ids) - model(ids)).abs().max() < tolerance


def test_text_is_generated_with_the_checkpoints_own_vocabulary(checkpoints, model, tokenizer):
    loaded, own = pangu_core.load_model(checkpoints), pangu_core.load_tokenizer(checkpoints)
    assert own.sha256 == tokenizer.sha256
    rules = {"max_new_tokens": 5, "top_k": 3, "seed": 7}
    [result] = pangu_core.generate(loaded, own, "四川", **rules)
    assert [result] == pangu_core.generate(model, tokenizer, ["四川"], **rules)
    assert len(result.ids) == 5


def test_a_tokenizer_comes_from_a_file_or_a_checkpoint_too(checkpoints, tokenizer):
    for path in (tokenizer.path, checkpoints / "step-00000001"):
        assert pangu_core.load_tokenizer(path).sha256 == tokenizer.sha256


def test_a_damaged_newest_checkpoint_is_passed_over(model, tokenizer, tools, tmp_path):
    for step in (1, 2):
        tools.save(tmp_path, model, tokenizer.path, step)
    flip_a_byte(tmp_path / "step-00000002")
    assert load(tmp_path).folder.name == "step-00000001"


def test_a_damaged_checkpoint_named_itself_is_refused(model, tools, tmp_path):
    folder = tools.save(tmp_path, model, None)
    flip_a_byte(folder)
    with pytest.raises(CheckpointError, match="SHA-256"):
        pangu_core.load_model(folder)


@pytest.mark.parametrize(
    ("wrong", "words"), [({"device": "cuda:99"}, "device: cuda:99"), ({"dtype": "int8"}, "int8")]
)
def test_a_device_or_dtype_that_is_none_is_refused(checkpoints, wrong, words):
    with pytest.raises(ConfigError, match=words):
        pangu_core.load_model(checkpoints, **wrong)


def test_a_folder_without_a_checkpoint_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="must be a checkpoint folder"):
        pangu_core.load_model(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match=r"no manifest\.json"):
        pangu_core.load_model(tmp_path)


def test_unknown_settings_are_refused(model, tokenizer):
    with pytest.raises(ConfigError, match="did you mean top_k"):
        pangu_core.generate(model, tokenizer, "四川", topk=3)


def flip_a_byte(folder) -> None:
    path = next(folder.glob("*.safetensors"))
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)
