"""``pangu generate`` from flags to what stands on the terminal."""

import io
import json
import sys
from functools import partial

import pytest

from pangu_core.entry import generate as command
from pangu_core.entry import local_model
from pangu_core.errors import CheckpointError, ConfigError
from pangu_core.generation import text
from pangu_core.generation.settings import GenerationSettings

SHORT = ["--max-new-tokens", "6", "--top-k", "4", "--seed", "3"]
RULES = GenerationSettings(max_new_tokens=6, top_k=4, seed=3)


@pytest.fixture(scope="module")
def folder(model, tokenizer, tools, tmp_path_factory):
    return str(tools.save(tmp_path_factory.mktemp("model"), model, tokenizer.path))


@pytest.fixture
def expected(model, tokenizer):
    return lambda *prompts: [c.text for c in text.generate(model, tokenizer, prompts, RULES)]


def test_a_prompt_is_continued(folder, expected, capsys):
    command.run(["--model", folder, "--prompt", "四川", *SHORT])
    assert capsys.readouterr().out == expected("四川")[0] + "\n"


def test_several_prompts_are_answered_in_order(folder, expected, capsys, tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_text("你好啊\n\nhello\n", encoding="utf-8")
    command.run(["--model", folder, "--prompt", "四川", "--prompts-file", str(path), *SHORT])
    prompts = ["四川", "你好啊", "hello"]
    blocks = [f"> {p}\n{t}\n\n" for p, t in zip(prompts, expected(*prompts), strict=True)]
    assert capsys.readouterr().out == "".join(blocks)


def test_json_has_an_object_for_each_prompt(folder, expected, capsys):
    command.run(["--model", folder, "--prompt", "四川", "--prompt", "hello", "--json", *SHORT])
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["text"] for row in rows] == expected("四川", "hello")
    assert [row["prompt"] for row in rows] == ["四川", "hello"]
    assert set(rows[0]) == {"prompt", "text", "ids", "finish_reason", "num_prompt_tokens"}


def test_each_piped_line_is_a_prompt(folder, expected, capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("四川\n\nhello\n"))
    command.run(["--model", folder, *SHORT])
    assert capsys.readouterr().out == "".join(f"{expected(p)[0]}\n" for p in ("四川", "hello"))


def test_a_conversation_goes_on_after_a_prompt_that_is_too_long(model, tokenizer, capsys):
    prompts = iter(["你好啊" * 40, "四川"])

    def ask() -> str:
        try:
            return next(prompts)
        except StopIteration:
            raise EOFError from None

    command.converse(command.Session(partial(local_model.write, model, tokenizer), RULES), ask)
    shown = capsys.readouterr()
    second = RULES.model_copy(update={"seed": 4})  # the second turn has the seed after the first's
    [completion] = text.generate(model, tokenizer, ["四川"], second)
    assert shown.out == f"{completion.text}\n\n"
    assert "prompt 1" in shown.err


def test_stop_strings_and_greedy_are_passed_on(folder, model, tokenizer, capsys):
    rules = GenerationSettings(greedy=True, max_new_tokens=6)
    [whole] = text.generate(model, tokenizer, ["四川"], rules)
    stop = whole.text[2:4]
    flags = ["--greedy", "--max-new-tokens", "6", "--stop", stop]
    command.run(["--model", folder, "--prompt", "四川", *flags])
    assert capsys.readouterr().out == whole.text[: whole.text.index(stop)] + "\n"


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ([], "neither --model nor --service"),
        (["--model", "x", "--service", "http://y"], "--model and --service"),
        (["--service", "y"], "--service: y: must be an http address"),
        (["--service", "http://y", "--dtype", "float16"], "--device and --dtype"),
        (["--model", "x", "--api-key-file", "y"], "--api-key-file: given"),
        (["--service", "http://y", "--api-key-file", "nowhere"], "--api-key-file: nowhere"),
        (["--model", "x", "--tempreature", "1"], "--temperature"),
        (["--model", "x", "--top-k", "many"], "'many' is not a valid integer"),
        (["--model", "x", "--top-p", "2"], "top_p: 2.0"),
        (["--model", "x", "--prompts-file", "nowhere.txt"], "--prompts-file: nowhere.txt"),
    ],
)
def test_wrong_flags_are_named(flags, words):
    with pytest.raises(ConfigError) as caught:
        command.run(flags)
    assert words in str(caught.value)


def test_piped_bytes_that_are_no_text_are_refused():
    lines = io.TextIOWrapper(io.BytesIO("四川\n".encode("gb18030")), encoding="utf-8")
    with pytest.raises(ConfigError, match="standard input"):
        list(command.piped_prompts(lines))


def test_a_file_without_prompts_is_refused(tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_text("\n \n")
    with pytest.raises(ConfigError, match="must hold a prompt"):
        command.read_prompts(path)


def test_a_missing_model_ends_with_its_message_and_code(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["generate", "--model", "nowhere", "--prompt", "a"])
    with pytest.raises(SystemExit) as ended:
        command.main()
    assert ended.value.code == CheckpointError.exit_code
    assert "error: model: nowhere: must be a checkpoint folder" in capsys.readouterr().err
