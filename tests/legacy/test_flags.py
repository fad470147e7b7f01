import pytest

from pangu_core.errors import ConfigError
from pangu_core.legacy.__main__ import SCRIPTS
from pangu_core.legacy.flags import FLAGS, flags_of
from pangu_core.legacy.parsing import parse

COMMANDS = ["generate", "split", "merge", "preprocess", "pretrain", "convert"]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_flag_is_taken_and_one_without_effect_says_why(command, caplog):
    caplog.set_level("INFO")
    for flag in flags_of(command):
        caplog.clear()
        for name in flag.names:
            options = parse(command, command, [name] if flag.kind is None else [name, "1"])
            assert flag.key in options.given
        lines = [record.message for record in caplog.records]
        says = [f"{flag.name} has no effect: {flag.why}"] * len(flag.names)
        assert lines == ([] if command in flag.used_by else says)


def test_each_flag_is_used_somewhere_or_has_a_reason():
    for flag in FLAGS:
        assert flag.used_by or flag.why, flag.name
        assert set(flag.used_by) <= set(flag.known_to), flag.name


def test_the_defaults_are_the_originals():
    options = parse("pretrain", "pretrain_gpt2", [])
    assert (options["split"], options["warmup"], options["seed"]) == ("969, 30, 1", 0.01, 1234)
    options = parse("generate", "generate_samples_Pangu", [])
    assert (options["top_k"], options["top_p"], options["out_seq_length"]) == (5, 0.0, 1024)


def test_an_unknown_flag_is_refused_with_the_nearest(legacy):
    with pytest.raises(ConfigError, match=r"--hiden-size: is no flag.*did you mean --hidden-size"):
        parse("split", "split", ["--hiden-size", "4"])
    assert legacy("merge_mp_partitions --num-layers many").code == 2


def test_flags_are_not_abbreviated():
    with pytest.raises(ConfigError, match="is no flag of the original"):
        parse("split", "split", ["--num-lay", "4"])


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("tools/generate_samples.py", "did you mean generate_samples_Pangu?"),
        ("examples/finetune_pangu_distributed.sh", "examples/legacy-*.yaml"),
        ("train", "use one of generate_samples_Pangu, "),
    ],
)
def test_a_command_that_never_was_is_refused_with_advice(name, advice, legacy):
    result = legacy(name)
    assert result.code == 2
    assert advice in result.err


def test_help_lists_the_commands_and_their_flags(legacy):
    assert all(script in legacy("--help").out for script in SCRIPTS)
    with pytest.raises(SystemExit) as ended:
        legacy("tools/merge_mp_partitions.py --help")
    assert ended.value.code == 0
