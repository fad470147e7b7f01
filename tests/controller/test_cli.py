import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from controller import cli
from controller.cli import main
from pangu_core.entry import process

ROOT = Path(__file__).parents[2]
TINY = str(ROOT / "examples" / "tiny-cpu.yaml")


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch):
    monkeypatch.setenv("PYDANTIC_DISABLE_PLUGINS", "__all__")
    monkeypatch.delenv(cli.DEBUG_VARIABLE, raising=False)


def test_the_verbs_are_these(capsys):
    assert list(cli.VERBS) == [
        "validate",
        "render",
        "run",
        "submit",
        "status",
        "logs",
        "suspend",
        "resume",
        "scale",
        "cancel",
        "rerun",
        "delete",
        "cp",
        "doctor",
        "controller",
        "preprocess",
        "convert",
        "split",
        "merge",
        "export",
        "verify",
        "generate",
        "serve",
        "report",
        "legacy",
    ]
    assert main(["--help"]) == 0
    listed = capsys.readouterr().out
    assert all(f"  {verb} " in listed for verb in cli.VERBS)


def test_validate_says_what_the_job_would_do(capsys):
    assert main(["validate", TINY]) == 0
    assert capsys.readouterr().out == (
        "PanguJob tiny-cpu: valid; stages: preprocess, train, merge\n"
    )


def test_render_prints_yaml_of_all_stages_or_of_one(capsys):
    assert main(["render", TINY]) == 0
    kinds = [each["kind"] for each in yaml.safe_load_all(capsys.readouterr().out)]
    assert kinds.count("Job") == 2
    assert main(["render", TINY, "--stage", "train", "--attempt", "3"]) == 0
    names = {each["metadata"]["name"] for each in yaml.safe_load_all(capsys.readouterr().out)}
    assert names == {"tiny-cpu-train-3", "tiny-cpu-train-3-store", "tiny-cpu-workspace"}


def test_set_overrides_one_field(capsys):
    assert main(["render", TINY, "--stage", "train", "--set", "train.steps=7"]) == 0
    (_, config_map, *_) = yaml.safe_load_all(capsys.readouterr().out)
    assert yaml.safe_load(config_map["data"]["config.yaml"])["train"]["steps"] == 7


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["vlidate"], "error: pangu: vlidate: is no command; did you mean validate?\n"),
        (["xyz"], "error: pangu: xyz: is no command; see pangu --help\n"),
        (
            ["validate", TINY, "--set", "train.stpes=1"],
            "error: train.stpes: 1: is not a known key; did you mean steps?\n",
        ),
        (
            ["validate", TINY, "--set", "train.steps"],
            "error: --set: train.steps: must read path=value; e.g. --set train.steps=10\n",
        ),
    ],
)
def test_an_error_is_one_line_with_four_parts(capsys, arguments, message):
    assert main(arguments) == 2
    assert capsys.readouterr().err == message


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["validate"], "error: pangu validate: 'FILE': Missing argument 'FILE'; see "),
        (["validate", "--nope", TINY], "error: pangu validate: --nope: is no option; see "),
        (["validate", "--sett", TINY], "error: pangu validate: --sett: is no option; did you mean"),
    ],
)
def test_a_wrong_use_of_the_command_exits_2_with_the_option_alone(capsys, arguments, message):
    assert main(arguments) == 2
    assert capsys.readouterr().err.startswith(message)


def test_debug_shows_where_an_error_comes_from(capsys, monkeypatch):
    monkeypatch.setenv(cli.DEBUG_VARIABLE, "")  # put back after the test
    assert main(["--debug", "validate", "nowhere.yaml"]) == 2
    assert "Traceback" in capsys.readouterr().err
    assert cli.DEBUG_VARIABLE == process.DEBUG_VARIABLE


def test_a_bug_of_ours_shows_no_traceback_either(capsys, monkeypatch):
    monkeypatch.setitem(cli.VERBS, "validate", ("controller.nowhere:validate", ""))
    assert main(["validate", TINY]) == 1
    assert capsys.readouterr().err.startswith("error: ModuleNotFoundError: ")


@pytest.mark.parametrize(
    "verb", ["preprocess", "convert", "split", "merge", "export", "generate", "serve"]
)
def test_data_plane_verbs_become_their_entry_module(monkeypatch, verb):
    started = []
    monkeypatch.setattr(os, "execv", lambda *command: started.append(command))
    main([verb, "--input", "a b", "--help"])
    command = [sys.executable, "-m", f"pangu_core.entry.{verb}", "--input", "a b", "--help"]
    assert started == [(sys.executable, command)]


def test_the_control_plane_never_loads_torch():
    program = (
        "import json, sys\n"
        "from controller.cli import main\n"
        f"codes = [main(['validate', {TINY!r}]), main(['render', {TINY!r}])]\n"
        "print(json.dumps([codes, [m for m in ('torch', 'numpy', 'fsspec') if m in sys.modules]]))\n"
    )
    out = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, cwd=ROOT)
    assert json.loads(out.stdout.splitlines()[-1]) == [[0, 0], []]


def test_no_verb_loads_torch():
    program = (
        "import importlib, json, sys\n"
        "from controller.cli import VERBS\n"
        "for place, _ in VERBS.values(): importlib.import_module(place.partition(':')[0])\n"
        "print(json.dumps([m for m in ('torch', 'numpy', 'fsspec') if m in sys.modules]))\n"
    )
    out = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, cwd=ROOT)
    assert json.loads(out.stdout) == []


def test_help_and_validate_load_only_what_they_need():
    program = (
        "import json, sys\n"
        "from controller.cli import main\n"
        "main(['--help'])\n"
        "first = [m for m in ('pydantic', 'yaml', 'jinja2') if m in sys.modules]\n"
        f"main(['validate', {TINY!r}])\n"
        "slow = ('jinja2', 'fsspec', 'aiohttp', 'botocore')\n"
        "print(json.dumps([first, [m for m in slow if m in sys.modules]]))\n"
    )
    out = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, cwd=ROOT)
    assert json.loads(out.stdout.splitlines()[-1]) == [[], []]


def test_a_reader_that_goes_away_is_no_error():
    program = f"import sys; from controller.cli import main; sys.exit(main(['render', {TINY!r}]))"
    reading, writing = os.pipe()
    os.close(reading)
    out = subprocess.run(
        [sys.executable, "-c", program], stdout=writing, stderr=subprocess.PIPE, cwd=ROOT
    )
    os.close(writing)
    assert (out.returncode, out.stderr) == (1, b"")
