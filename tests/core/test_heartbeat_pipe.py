"""Heartbeats of a rank whose launcher does not read them."""

import json
import os
import threading

import pytest

from pangu_core.training.heartbeat import HEARTBEAT_VARIABLE, Heartbeat


@pytest.fixture
def pipe(monkeypatch):
    reader, writer = os.pipe()
    monkeypatch.setenv(HEARTBEAT_VARIABLE, str(writer))
    yield reader, writer
    os.close(reader)
    os.close(writer)


def test_a_full_pipe_keeps_no_rank_from_its_steps(pipe):
    heartbeat = Heartbeat(5_000)
    for step in range(5_000):
        heartbeat.beat("step", step=step)
    *lines, rest = os.read(pipe[0], 1 << 20).split(b"\n")
    assert [json.loads(line)["step"] for line in lines] == list(range(len(lines)))
    assert 100 < len(lines) < 5_000
    assert rest == b""  # no line is torn
    heartbeat.beat("step", step=6_000)
    assert json.loads(os.read(pipe[0], 1 << 20))["step"] == 6_000


def test_the_last_line_waits_for_its_reader(pipe):
    heartbeat = Heartbeat(1)
    for _ in range(5_000):
        heartbeat.beat("step", step=1)
    last = threading.Thread(target=heartbeat.beat, args=("done",), kwargs={"output": "x"})
    last.start()
    text = b""
    while b'"done"' not in text:
        text += os.read(pipe[0], 1 << 20)
    last.join()
    assert json.loads(text.splitlines()[-1])["output"] == "x"
