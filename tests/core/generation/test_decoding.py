"""The cache and the batch change nothing: each prompt gets what it would get alone."""

import pytest
import torch

from pangu_core.errors import CheckpointError, ConfigError
from pangu_core.generation.decoding import Decoder, ScoresError, check_prompts
from pangu_core.generation.language_model import LanguageModel
from pangu_core.generation.settings import GenerationSettings

PROMPTS = [[11, 42], [100, 7, 30, 31, 32, 33, 200], [55], [9, 9, 9, 150]]
WAYS = [{"greedy": True}, {"top_k": 40, "temperature": 1.5, "repetition_penalty": 1.2}]


def in_chunks(model: LanguageModel, ids: torch.Tensor, size: int) -> torch.Tensor:
    """Logits after every token [B, T, V], read through a cache ``size`` tokens at a time."""
    cache, results = model.new_cache(len(ids), ids.shape[1]), []
    for start in range(0, ids.shape[1], size):
        part = ids[:, start : start + size]
        positions = torch.arange(start, start + part.shape[1]).expand_as(part)
        results.append(model.network(part, positions_BT=positions, cache=cache))
    return torch.cat(results, dim=1)


@pytest.mark.parametrize("size", [24, 1, 7])
def test_cached_logits_are_the_uncached_ones(model, size):
    ids = torch.randint(0, 280, (2, 24), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        difference = in_chunks(model, ids, size) - model(ids)
    assert difference.abs().max() < 1e-5


def test_cached_greedy_tokens_are_the_uncached_ones(model, tools):
    [cached] = tools.decode_ids(model, [[11, 42]], max_new_tokens=20, greedy=True)
    ids = [11, 42]
    for _ in range(20):
        ids.append(int(model(torch.tensor([ids]))[0, -1].argmax()))
    assert cached == ids[2:]


@pytest.mark.parametrize("way", WAYS)
def test_a_ragged_batch_gives_each_prompt_what_it_gets_alone(model, tools, way):
    together = tools.decode_ids(model, PROMPTS, max_new_tokens=20, **way)
    alone = [
        tools.decode_ids(model, [prompt], [row], max_new_tokens=20, **way)[0]
        for row, prompt in enumerate(PROMPTS)
    ]
    assert together == alone


def test_logits_of_a_ragged_batch_are_those_of_each_prompt_alone(model):
    padded = torch.zeros(4, 7, dtype=torch.int64)
    for row, prompt in enumerate(PROMPTS):
        padded[row, : len(prompt)] = torch.tensor(prompt)
    last = torch.tensor([len(prompt) - 1 for prompt in PROMPTS])
    positions = torch.arange(7).expand(4, 7)
    batch = model.extend(padded, positions, model.new_cache(4, 7), last)
    for row, prompt in enumerate(PROMPTS):
        alone = model(torch.tensor([prompt]))[0, -1]
        assert (batch[row] - alone).abs().max() < 1e-5


@pytest.mark.parametrize("way", WAYS)
def test_rows_that_leave_change_nothing_for_the_others(model, tools, way):
    settings = GenerationSettings(max_new_tokens=20, **way)
    decoder, kept = Decoder(model, PROMPTS, [0, 1, 2, 3], settings), []
    leaving = {3: {1}, 7: {0, 3}}
    for number in range(20):
        kept.append(decoder.step()[2])
        decoder.drop(leaving.get(number, set()))
    assert decoder.rows == [2]
    assert [kept] == tools.decode_ids(model, [PROMPTS[2]], [2], max_new_tokens=20, **way)


def test_what_lies_in_the_cache_beyond_the_visible_part_changes_nothing(model, tools):
    settings = GenerationSettings(max_new_tokens=10, greedy=True)
    decoder, tokens = Decoder(model, [PROMPTS[1]], [0], settings), []
    for step in range(10):
        visible = len(PROMPTS[1]) + step
        for buffer in (decoder._cache.keys, decoder._cache.values):
            buffer[:, :, :, visible:] = torch.nan
        tokens.append(decoder.step()[0])
    assert [tokens] == tools.decode_ids(model, [PROMPTS[1]], max_new_tokens=10, greedy=True)


@pytest.mark.parametrize("way", WAYS)
def test_a_row_that_joins_gets_what_it_gets_alone_and_so_do_the_others(model, tools, way):
    settings = GenerationSettings(max_new_tokens=20, **way)
    decoder, texts = Decoder(model, PROMPTS[:2], [0, 1], settings), {0: [], 1: [], 2: []}
    for number in range(20):
        for row, token in decoder.step().items():
            texts[row].append(token)
        if number == 5:
            newcomer = Decoder(model, [PROMPTS[3]], [3], settings)
            first = newcomer.step()
            numbers = decoder.join(newcomer)
            texts[numbers[0]].append(first[0])
    alone = [
        tools.decode_ids(model, [PROMPTS[row]], [row], max_new_tokens=20, **way)[0]
        for row in (0, 1, 3)
    ]
    assert [texts[0], texts[1], texts[2]] == [alone[0], alone[1], alone[2][:15]]


def test_each_row_keeps_its_own_rules(model, tools):
    decoder = Decoder(model, [PROMPTS[0]], [7], GenerationSettings(**WAYS[0]))
    first = [decoder.step()[0]]
    other = Decoder(model, [PROMPTS[1]], [8], GenerationSettings(**WAYS[1]))
    second = [other.step()[0]]
    number = decoder.join(other)[0]
    for _ in range(10):
        texts = decoder.step()
        first.append(texts[0])
        second.append(texts[number])
    assert [first] == tools.decode_ids(model, [PROMPTS[0]], [7], max_new_tokens=11, **WAYS[0])
    assert [second] == tools.decode_ids(model, [PROMPTS[1]], [8], max_new_tokens=11, **WAYS[1])


def test_scores_that_are_not_finite_name_their_rows_and_the_others_go_on(model, tools):
    decoder = Decoder(model, PROMPTS[:3], [0, 1, 2], GenerationSettings(greedy=True))
    tokens = [decoder.step()[2]]
    decoder._cache.values[:, 1, :, 0] = torch.nan
    with pytest.raises(ScoresError, match="not finite") as caught:
        decoder.step()
    assert caught.value.rows == {1}
    decoder.drop(caught.value.rows)
    tokens += [decoder.step()[2] for _ in range(5)]
    assert [tokens] == tools.decode_ids(model, [PROMPTS[2]], [2], max_new_tokens=6, greedy=True)


def test_a_second_request_does_not_see_the_first(model, tools):
    first = tools.decode_ids(model, PROMPTS, max_new_tokens=10, greedy=True)
    tools.decode_ids(model, [PROMPTS[1]] * 4, max_new_tokens=20)
    assert tools.decode_ids(model, PROMPTS, max_new_tokens=10, greedy=True) == first


def test_two_runs_with_a_seed_agree_and_another_seed_differs(model, tools):
    runs = [
        tools.decode_ids(model, [[11]], [stream], max_new_tokens=15, top_p=1.0, temperature=2.0)
        for stream in (1, 1, 2)
    ]
    assert runs[0] == runs[1] != runs[2]


def test_bf16_arithmetic_generates_the_same_alone_and_in_a_batch(tools):
    model = tools.build_model(291, torch.bfloat16)
    together = tools.decode_ids(model, PROMPTS, max_new_tokens=5, greedy=True)
    alone = [tools.decode_ids(model, [p], max_new_tokens=5, greedy=True)[0] for p in PROMPTS]
    assert together == alone


def test_a_penalty_counts_prompt_and_generated_tokens(model, tools):
    rules = {"max_new_tokens": 20, "greedy": True, "repetition_penalty": 1e6}
    [tokens] = tools.decode_ids(model, [PROMPTS[1]], **rules)
    assert len({*PROMPTS[1], *tokens}) == len(PROMPTS[1]) + 20


@pytest.mark.parametrize(
    ("prompt", "words"), [([1] * 32, "32 tokens"), ([3, 400], "3 to 400"), ([-1], "-1")]
)
def test_a_prompt_that_the_model_cannot_read_is_refused(model, prompt, words):
    with pytest.raises(ConfigError, match=words) as caught:
        check_prompts([[1], prompt], model)
    assert caught.value.subject == "prompt 2"


@pytest.mark.parametrize(
    ("ids", "words"),
    [
        (torch.zeros(1, 33, dtype=torch.int64), "33 tokens"),
        (torch.tensor([[0, 400]]), "0 to 400"),
        (torch.tensor([1, 2]), r"\[2\]"),
        (torch.ones(1, 2), "float32"),
        (torch.zeros(1, 0, dtype=torch.int64), "0"),
    ],
)
def test_ids_that_the_model_cannot_read_are_refused(model, ids, words):
    with pytest.raises(ConfigError, match=words):
        model(ids)


def test_scores_that_are_not_finite_are_never_sampled_from(tools):
    model = tools.build_model(60)
    model.network.ln_f.weight.data[0] = torch.nan
    with pytest.raises(CheckpointError, match="not finite"):
        tools.decode_ids(model, [[1, 2]], max_new_tokens=1)
