import json

import numpy as np
import pytest

from pangu_core.errors import ConfigError
from pangu_core.legacy import compat, generating

LINE = "generate_samples_Pangu --load {load} --seq-length 64 --finetune"


def test_each_line_of_a_file_is_continued_into_a_file_beside_it(legacy, released, tmp_path):
    (tmp_path / "in").write_text("四川的省会是?\n\n你好啊\n", encoding="utf-8")
    line = f"{LINE} --top_k 1 --out-seq-length 4 --sample-input-file {{path}}"
    assert legacy(line, load=released, path=tmp_path / "in").code == 0
    rows = (tmp_path / "in.out").read_text(encoding="utf-8").split("\n\n")
    assert [row.splitlines()[0] for row in rows if row] == [
        "Input is: 四川的省会是?",
        "Input is: 你好啊",
    ]
    greedy = line.replace("--top_k 1", "--greedy") + " --sample-output-file {path}.greedy"
    legacy(greedy, load=released, path=tmp_path / "in")
    assert (tmp_path / "in.greedy").read_bytes() == (tmp_path / "in.out").read_bytes()


def test_texts_from_nothing_are_json_lines_that_differ(legacy, released, tmp_path):
    line = f"{LINE} --num-samples 3 --out-seq-length 5 --genfile {{path}}"
    assert legacy(line, load=released, path=tmp_path / "out.jsonl").code == 0
    rows = [json.loads(row) for row in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [set(row) for row in rows] == [{"text", "length", "finished"}] * 3
    assert len({row["text"] for row in rows}) > 1
    assert all(row["length"] == 5 or row["finished"] for row in rows)


def test_seed_and_temperature_have_an_effect(legacy, released):
    def text(flags):
        prompt = "你好啊".encode().hex()
        line = f"{LINE} --top_k 50 --out-seq-length 8 --sample-input {prompt} {flags}"
        return legacy(line, load=released).out

    assert text("--seed 1") == text("--seed 1") != text("--seed 2")
    assert text("--seed 1 --temperature 0.01") != text("--seed 1")


def test_a_prompt_longer_than_the_sequence_is_named(legacy, released):
    line = f"{LINE.replace('64', '4')} --sample-input {'四川的省会是哪里'.encode().hex()}"
    result = legacy(line, load=released)
    assert (result.code, "must be shorter than --seq-length (4)" in result.err) == (2, True)


def test_the_other_ranks_of_a_launcher_have_nothing_to_do(legacy, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    assert legacy(LINE, load="nowhere").code == 0


def test_prompts_are_asked_for_until_the_word_stop(legacy, released, monkeypatch):
    answers = iter(["你好啊", "stop"])
    monkeypatch.setattr("builtins.input", lambda question: next(answers))
    monkeypatch.setattr(generating, "PROMPTS", generating.PROMPTS.with_name("prompts.txt"))
    result = legacy(f"{LINE} --out-seq-length 2", load=released)
    assert result.out.count("Input is: 你好啊") == 1


def test_the_old_draw_takes_scores_for_probabilities():
    scores = np.array([100.0, 5.0, 3.0, 2.0, 1.0])
    draws = [compat.draw(scores[1:], 3, np.random.RandomState(seed)) for seed in range(400)]
    # Scores of 5, 3 and 2; the id 0, which is 5's here, is unknown and redrawn.
    assert set(draws) == {1, 2}
    assert 0.5 < draws.count(1) / len(draws) < 0.7
    assert compat.draw(scores, 1, np.random.RandomState(0)) == 0


def test_the_old_draw_fails_at_a_negative_score_and_says_so():
    with pytest.raises(ConfigError, match="leave --compat-sampling out"):
        compat.draw(np.array([0.1, 2.0, -1.0]), 3, np.random.RandomState(0))


def test_the_old_draw_ends_after_50_tokens_and_can_be_repeated(legacy, released):
    line = f"{LINE} --compat-sampling --top_k 3 --sample-input {'你'.encode().hex()}"
    first, second = (legacy(line, load=released).out for _ in range(2))
    assert first == second
    assert first != legacy(line.replace("--compat-sampling", ""), load=released).out


def test_the_old_cap_of_50_tokens_is_kept(released):
    class Counting:
        device = "cpu"

        def new_cache(self, rows, capacity):
            return None

        def extend(self, tokens_BT, positions_BT, cache, last_B):
            scores = np.zeros((1, 99))
            scores[0, 10 + int(positions_BT[0, -1]) % 80] = 1.0
            return generating.torch.tensor(scores)

    def added(length):
        return compat.continue_tokens(
            Counting(),
            [7, 8],
            eod_id=9,
            top_k=1,
            sequence_length=length,
            random=np.random.RandomState(0),
        )

    assert added(1024) == list(range(11, 61))
    assert added(20) == list(range(11, 28))
