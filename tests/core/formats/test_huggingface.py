"""The exported folder run by transformers: our logits, our tokens, our ids."""

import copy
import importlib
import json
import logging
import os
import pickle
import warnings
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch

from pangu_core.checkpoint.formats.form import Weights
from pangu_core.checkpoint.formats.huggingface.writing import write_folder
from pangu_core.checkpoint.manifest import MODEL, Header, key_of
from pangu_core.checkpoint.reader import silent
from pangu_core.checkpoint.stream import Incoming
from pangu_core.config.model import ModelConfig
from pangu_core.config.stages import RunIdentity
from pangu_core.data.tokenizer import load_tokenizer
from pangu_core.generation.decoding import Decoder
from pangu_core.generation.language_model import LanguageModel
from pangu_core.generation.settings import GenerationSettings
from pangu_core.model.gpt import Build, PanguModel
from pangu_core.model.weights import initialise

PROMPTS = [
    "四川的省会是?",
    "今天天气不错",
    "上联:瑞风播福泽,事业具昌盛千家乐",
    "中国和美国和日本的首都分别是哪里?",
    "你好",
    "人民日报",
    "我国经济持续快速发展",
    "北京大学计算机系的教授",
    "春眠不觉晓,处处闻啼鸟",
    "问:地球有多大?\n答:",
    "这部电影非常好看",
    "1998年1月1日",
    "小明有 3 个苹果",
    "江南style",
    "人工智能",
    "他说:“我不知道。”",
    "长江是中国最长的河流",
    "深圳",
    "服务员的态度很差,房间也不干净",
    "从前有座山",
]
NEW_TOKENS = 8


@pytest.fixture(scope="module")
def transformers(tmp_path_factory):
    """The library, offline, with a cache of its own for the code in our folders."""
    os.environ["HF_HOME"] = str(tmp_path_factory.mktemp("hf"))
    os.environ["HF_HUB_OFFLINE"] = "1"
    library = importlib.import_module("transformers")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # jieba's source has invalid escapes
        jieba = importlib.import_module("jieba")
    jieba.setLogLevel(logging.ERROR)
    return library


@pytest.fixture(scope="module")
def ours(corpora):
    """A small random network with the published vocabulary."""
    config = ModelConfig(
        num_layers=3, hidden_size=32, num_heads=4, sequence_length=64, init_std=0.2
    )
    network = PanguModel(config, Build())
    initialise(network, seed=5)
    with torch.no_grad():  # biases and LayerNorms that matter
        for name, parameter in network.named_parameters():
            if parameter.dim() == 1:
                generator = torch.Generator().manual_seed(len(name))
                parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    return SimpleNamespace(model=LanguageModel(network), tokenizer=load_tokenizer(corpora))


def weights_of(ours, **model):
    config = ours.model.config.model_copy(update=model)
    header = Header(model=config, run=RunIdentity(name="hf", uid="hf"))
    tensors = {
        key_of(MODEL, name): Incoming(tuple(tensor.shape), "fp32", tensor.detach)
        for name, tensor in ours.model.network.named_parameters()
    }
    return Weights(header=header, tensors=tensors, step=7, vocabulary=ours.tokenizer.path)


@pytest.fixture(scope="module")
def folder(ours, tmp_path_factory):
    # A dot in the name, which once broke the import of a folder's code.
    target = tmp_path_factory.mktemp("export") / "pangu-2.6B"
    write_folder(weights_of(ours), target, replace_old=False, report=silent)
    return target


@pytest.fixture(scope="module")
def theirs(transformers, folder):
    load = transformers.AutoModelForCausalLM.from_pretrained
    return load(folder, trust_remote_code=True, dtype="float32").eval()


@pytest.fixture(scope="module")
def tokenizer(transformers, folder):
    return transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=True)


def continue_theirs(theirs, batch, **settings):
    """The new ids of each row; eos does not end one."""
    start = batch["input_ids"].shape[1]
    settings |= {"max_new_tokens": NEW_TOKENS, "do_sample": False, "eos_token_id": None}
    return theirs.generate(**batch, **settings)[:, start:].tolist()


def one_row(ids):
    row = torch.tensor([ids])
    return {"input_ids": row, "attention_mask": torch.ones_like(row)}


@contextmanager
def attending(theirs, name):
    """The model with another attention function for a while."""
    theirs.set_attn_implementation(name)
    assert theirs.config._attn_implementation == name
    try:
        yield
    finally:
        theirs.set_attn_implementation("sdpa")


def test_logits_are_ours(ours, theirs):
    ids = torch.randint(0, 40_000, (2, 64), generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        torch.testing.assert_close(theirs(ids).logits, ours.model(ids), rtol=0, atol=1e-5)


def test_attention_in_plain_operations_gives_the_same_logits(theirs):
    ids = torch.arange(10, 42)[None]
    with torch.inference_mode():
        expected = theirs(ids).logits
    with attending(theirs, "eager"), torch.inference_mode():
        found = theirs(ids).logits
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_greedy_tokens_are_ours_alone_and_padded_on_the_left(ours, theirs, tokenizer):
    ids = [ours.tokenizer.encode(prompt) for prompt in PROMPTS]
    decoder = Decoder(ours.model, ids, [0] * len(ids), GenerationSettings(greedy=True))
    steps = [decoder.step() for _ in range(NEW_TOKENS)]
    expected = [[step[row] for step in steps] for row in range(len(ids))]
    assert len({tuple(row) for row in expected}) > 10
    batch = tokenizer(PROMPTS, padding=True, return_tensors="pt")
    assert continue_theirs(theirs, batch) == expected
    assert [continue_theirs(theirs, one_row(row))[0] for row in ids] == expected
    uncached = continue_theirs(theirs, one_row(ids[0]), use_cache=False)
    assert uncached[0] == expected[0]


def test_the_cache_has_an_entry_for_every_layer_and_changes_no_number(theirs):
    ids = torch.arange(20, 50).reshape(2, 15)
    with torch.inference_mode():
        whole = theirs(ids, use_cache=False)
        first = theirs(ids[:, :9])
        rest = theirs(ids[:, 9:], past_key_values=first.past_key_values)
    assert whole.past_key_values is None
    assert len(first.past_key_values) == theirs.config.num_hidden_layers == 3
    logits = torch.cat([first.logits, rest.logits], dim=1)
    torch.testing.assert_close(logits, whole.logits, rtol=0, atol=1e-5)


def test_a_row_padded_on_the_left_has_the_logits_of_the_row_alone(theirs):
    ids = torch.arange(30, 40)[None]
    padded = torch.cat([torch.full((1, 5), 6), ids], dim=1)
    with torch.inference_mode():
        alone = theirs(ids).logits
        found = theirs(padded, attention_mask=(padded != 6).long()).logits[:, 5:]
    torch.testing.assert_close(found, alone, rtol=0, atol=1e-5)


def test_the_loss_leaves_out_what_is_labelled_minus_100(theirs):
    ids = torch.arange(40, 52)[None]
    labels = ids.clone()
    labels[:, :6] = -100
    with torch.inference_mode():
        result = theirs(ids, labels=labels)
    expected = torch.nn.functional.cross_entropy(result.logits[0, 5:-1], ids[0, 6:])
    torch.testing.assert_close(result.loss, expected)


# The name that every transformers 5 knows.
@pytest.mark.filterwarnings("ignore:`gradient_checkpointing_enable` is deprecated:FutureWarning")
@pytest.mark.parametrize("reentrant", [True, False])
def test_recomputed_gradients_are_the_gradients(transformers, theirs, reentrant):
    config = copy.deepcopy(theirs.config)
    config.embd_pdrop = config.attn_pdrop = config.resid_pdrop = 0.0
    model = type(theirs)(config).train()
    model.load_state_dict(theirs.state_dict())
    ids, found = torch.arange(60, 80)[None], []
    for recompute in (False, True):
        if recompute:
            settings = {"use_reentrant": reentrant}
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=settings)
        model.zero_grad()
        model(ids, labels=ids).loss.backward()
        found.append({name: weight.grad.clone() for name, weight in model.named_parameters()})
    assert model.transformer.h[0].gradient_checkpointing
    assert found[0]["transformer.wqe.weight"].abs().max() > 0
    torch.testing.assert_close(found[1], found[0])


def test_hidden_states_and_probabilities_can_be_had(theirs):
    ids = torch.arange(60, 70)[None]
    with attending(theirs, "eager"), torch.inference_mode():
        result = theirs(ids, output_hidden_states=True, output_attentions=True)
    assert [tuple(state.shape) for state in result.hidden_states] == [(1, 10, 32)] * 4
    assert [tuple(weights.shape) for weights in result.attentions] == [(1, 4, 10, 10)] * 3


def test_an_attention_function_from_outside_gets_every_keyword(transformers, theirs):
    seen = []

    def attend(module, query, key, value, mask, **kwargs):
        seen.append((module.layer_idx, mask, kwargs["instances"], kwargs["scaling"]))
        return query.transpose(1, 2), None

    transformers.AttentionInterface.register("from_outside", attend)
    with attending(theirs, "from_outside"), torch.inference_mode():
        theirs.transformer(torch.arange(9)[None], use_cache=False, instances="theirs")
    assert seen == [(layer, None, "theirs", 8**-0.5) for layer in range(3)]


def test_text_longer_than_the_position_table_is_refused(theirs):
    with pytest.raises(ValueError, match="65 tokens: the model reads at most 64"):
        theirs(torch.arange(65)[None])


def test_half_precision_in_several_files_is_loaded_as_it_is(ours, transformers, tmp_path):
    weights = weights_of(ours)
    half = {
        key: Incoming(tensor.shape, "fp16", tensor.read) for key, tensor in weights.tensors.items()
    }
    header = Header(model=weights.header.model, run=weights.header.run, dtype="fp16")
    target = tmp_path / "half"
    write_folder(
        Weights(header=header, tensors=half),
        target,
        replace_old=False,
        report=silent,
        shard_bytes=20_000,
    )
    assert len(list(target.glob("model-*-of-*.safetensors"))) > 2
    load = transformers.AutoModelForCausalLM.from_pretrained
    model = load(target, trust_remote_code=True)
    assert model.dtype == torch.float16
    names = dict(ours.model.network.named_parameters())
    found = model.transformer.h[2].attn.q_proj.weight
    assert torch.equal(found, names["query_layer.attention.query.weight"].half())
    assert model.lm_head.weight is model.transformer.wte.weight


@pytest.mark.shared
def test_the_tokenizer_gives_the_published_ids_and_text(tokenizer, shared):
    lines = (shared / "golden/tokenizer_pcl.jsonl").read_text("utf-8").splitlines()
    for row in map(json.loads, lines):
        assert tokenizer.encode(row["text"]) == row["ids"]
        assert tokenizer.decode(row["ids"]) == row["decoded"]


def test_special_tokens_are_neither_added_nor_read_from_text(ours, tokenizer):
    text = "你好<eot>你好<pad>"
    assert tokenizer(text)["input_ids"] == ours.tokenizer.encode(text)
    assert tokenizer.encode("你好<eot>", split_special_tokens=False)[-1] == 9
    assert tokenizer.decode([9, 5772, 173, 9], skip_special_tokens=True) == "你好啊"
    ids = (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id)
    assert ids == (9, 9, 6)
    assert (len(tokenizer), tokenizer.vocab_size) == (40_000, 40_000)


def test_what_transformers_saves_loads_again(transformers, theirs, tokenizer, tmp_path):
    target = tmp_path / "saved.again"
    theirs.save_pretrained(target)
    tokenizer.save_pretrained(target)
    again = transformers.AutoTokenizer.from_pretrained(target, trust_remote_code=True)
    load = transformers.AutoModelForCausalLM.from_pretrained
    model = load(target, trust_remote_code=True).eval()
    assert again.encode(PROMPTS[9]) == tokenizer.encode(PROMPTS[9])
    assert pickle.loads(pickle.dumps(again)).encode("你好啊") == [5772, 173]
    ids = torch.arange(30, 60)[None]
    with torch.inference_mode():
        assert torch.equal(model(ids).logits, theirs(ids).logits)
