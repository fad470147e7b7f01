"""Prompts to texts: how they end, that streaming agrees, and that characters stay whole."""

import pytest

from pangu_core.generation import text
from pangu_core.generation.settings import GenerationSettings

PROMPTS = ["四川", "今天天气不错", "hello world", "你好啊"]
WAYS = [{"greedy": True}, {"temperature": 3.0, "top_p": 1.0}, {"stop": ("a", "天", "不错")}]


def complete(model, tokenizer, prompts, **settings):
    return text.generate(model, tokenizer, prompts, GenerationSettings(**settings))


def test_the_end_mark_ends_the_text_and_is_not_shown(counting):
    [result] = complete(counting.model(), counting.tokenizer, ["F"])
    assert (result.text, result.ids, result.finish_reason) == ("GHI", (6, 7, 8), "eod")
    assert result.num_prompt_tokens == 1


def test_the_number_of_new_tokens_is_limited(counting):
    [result] = complete(counting.model(), counting.tokenizer, ["ABC"], max_new_tokens=4)
    assert (result.text, result.finish_reason) == ("DEFG", "length")


def test_a_full_position_table_ends_the_text(model, tokenizer):
    results = complete(model, tokenizer, PROMPTS, max_new_tokens=1000, greedy=True)
    lengths = [r.num_prompt_tokens + len(r.ids) for r in results if r.finish_reason == "length"]
    assert lengths
    assert set(lengths) == {model.config.sequence_length}


def test_a_stop_string_is_found_across_tokens_and_cut_off(counting):
    # Ids 20, 21, 22 read a0b, a1b, a2b.
    model = counting.model(ends=False)
    [result] = complete(model, counting.tokenizer, ["R"], stop=("ba2",), max_new_tokens=20)
    assert (result.text, result.finish_reason) == ("STa0ba1", "stop")
    assert result.ids == (18, 19, 20, 21, 22)


def test_what_may_become_a_stop_string_is_shown_once_it_cannot(counting):
    rules = GenerationSettings(stop=("ba1c",), max_new_tokens=5)
    pieces = list(text.stream(counting.model(False), counting.tokenizer, ["R"], rules))
    assert [piece.text for piece in pieces] == ["S", "T", "a0", "ba1", "ba2b"]


def test_finished_rows_leave_the_batch(counting):
    model = counting.model()
    results = complete(model, counting.tokenizer, ["A", "H", "E"], max_new_tokens=100)
    assert [result.text for result in results] == ["BCDEFGHI", "I", "FGHI"]
    assert model.batch_sizes == [3, 3, 2, 2, 2, 1, 1, 1, 1]


def test_an_empty_prompt_begins_a_new_document(counting):
    [result] = complete(counting.model(), counting.tokenizer, [""], max_new_tokens=2)
    assert (result.text, result.num_prompt_tokens) == ("KL", 1)


@pytest.mark.parametrize("way", WAYS)
def test_streamed_text_is_the_text(model, tokenizer, way):
    rules = GenerationSettings(max_new_tokens=15, **way)
    pieces = list(text.stream(model, tokenizer, PROMPTS, rules))
    results = text.generate(model, tokenizer, PROMPTS, rules)
    for number, result in enumerate(results):
        mine = [piece for piece in pieces if piece.prompt == number]
        assert "".join(piece.text for piece in mine) == result.text
        assert [piece.completion for piece in mine if piece.completion] == [result]
        if result.finish_reason != "stop":
            assert result.text == tokenizer.decode(list(result.ids))


@pytest.mark.parametrize("way", WAYS)
def test_a_batch_gives_the_texts_of_single_prompts(model, tokenizer, way):
    batch = complete(model, tokenizer, PROMPTS, max_new_tokens=15, **way)
    assert batch == [
        complete(model, tokenizer, [prompt], max_new_tokens=15, **way)[0] for prompt in PROMPTS
    ]
    assert batch == complete(model, tokenizer, PROMPTS, max_new_tokens=15, batch_size=3, **way)


def test_copies_of_a_prompt_get_texts_of_their_own(model, tokenizer):
    rules = {"max_new_tokens": 10, "temperature": 2.0, "top_p": 1.0}
    first, second = complete(model, tokenizer, ["四川"] * 2, **rules)
    assert first.ids != second.ids
    assert complete(model, tokenizer, ["hello", "四川", "四川"], **rules)[1:] == [first, second]


def test_a_character_of_several_tokens_is_shown_whole(counting, tokenizer):
    # The small vocabulary spells this character in three bytes, each a token.
    ids = tokenizer.encode("龘")
    assert len(ids) > 3

    class Reciting(type(counting.model())):
        def extend(self, tokens_BT, positions_BT, cache, last_B):
            logits = super().extend(tokens_BT % 50, positions_BT, cache, last_B).new_zeros(1, 300)
            said = int(positions_BT[0, -1])
            logits[0, ids[said] if said < len(ids) else 9] = 50
            return logits

    model = Reciting(ends=True)
    model.config = model.config.model_copy(update={"vocab_size": 300})
    pieces = list(text.stream(model, tokenizer, [""], GenerationSettings()))
    assert [piece.text for piece in pieces if piece.text] == ["龘"]
