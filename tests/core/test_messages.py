"""What pods say: short enough for Kubernetes, and readable by another version."""

import json

from hypothesis import given
from hypothesis import strategies as st

from pangu_core.messages import TERMINATION_LIMIT_BYTES, Progress, Termination


@given(st.text(max_size=3000), st.text(max_size=9000))
def test_a_termination_message_fits_and_keeps_its_end(message, trace):
    text = Termination(code=4, message=message, traceback=trace).to_json()
    assert len(text.encode()) <= TERMINATION_LIMIT_BYTES
    back = Termination.from_json(text)
    assert back is not None
    assert back.code == 4
    assert trace.endswith(back.traceback)


def test_a_message_that_is_not_ours_is_none():
    assert Termination.from_json("Killed") is None
    assert Termination.from_json("[1]") is None
    assert Termination.from_json('{"error": "x"}') is None


def test_a_message_with_unknown_keys_is_read():
    assert Termination.from_json('{"code": 3, "later": 1}') == Termination(code=3)
    assert Progress.from_json('{"phase": "step", "step": 5, "later": 1}').step == 5


def test_a_message_goes_where_the_environment_says(tmp_path, monkeypatch):
    monkeypatch.setenv("PANGU_TERMINATION_PATH", str(tmp_path / "message"))
    Termination(code=0, output="runs/x").write()
    assert json.loads((tmp_path / "message").read_text())["output"] == "runs/x"
