"""Lines between agents and store: what is said is heard, and garbage hurts nobody."""

import contextlib
import json
import socket

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pangu_core.rendezvous import store
from pangu_core.rendezvous.client import Client
from pangu_core.rendezvous.membership import Timing
from pangu_core.rendezvous.protocol import (
    LINE_LIMIT_BYTES,
    Beat,
    Outcome,
    ProtocolError,
    Round,
    Rules,
    View,
    decode_beat,
    decode_view,
    encode,
)

ROUND = Round(3, ("a#1", "b#2"), "10.0.0.1", 2000)
BEAT = Beat("g", Rules(2, 2, 4), "a#1", "10.0.0.1", 2000, "running", round=ROUND, seen=3)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


def test_messages_survive_the_wire():
    outcome = Outcome(code=5, error="TrainingError", message="损失", rank=1)
    beat = Beat(**{**vars(BEAT), "outcome": outcome})
    assert decode_beat(encode(beat)) == beat
    answer = View("start", number=3, round=ROUND, outcome=outcome)
    assert decode_view(encode(answer)) == answer


@settings(deadline=None)
@given(st.binary(max_size=60))
def test_bytes_that_are_no_beat_are_refused(line):
    with pytest.raises(ProtocolError):
        decode_beat(line)


@settings(deadline=None)
@given(st.sampled_from([*vars(BEAT), "version", "extra"]), JSON)
def test_a_beat_with_any_field_spoilt_is_read_or_refused(key, value):
    values = {**json.loads(encode(BEAT)), key: value}
    try:
        beat = decode_beat(json.dumps(values).encode())
    except ProtocolError:
        return
    assert beat.id in beat.round.members if beat.state == "running" else True


@pytest.mark.parametrize(
    ("rules", "count", "size"),
    [((2, 2, 4), 3, 2), ((2, 2, 4), 9, 4), ((2, 4, 4), 3, 0), ((1, 1, 3), 3, 3), ((2, 2, 5), 5, 4)],
)
def test_a_world_is_the_largest_multiple_of_the_unit(rules, count, size):
    assert Rules(*rules).fit(count) == size


@pytest.mark.parametrize("rules", [(0, 1, 1), (1, 2, 1), (4, 1, 3), (2, 3, 3)])
def test_rules_that_allow_no_world_are_refused(rules):
    with pytest.raises(ProtocolError):
        Rules(*rules)


@pytest.fixture(scope="module")
def port():
    with store.in_thread(Timing(quiet=0.1)) as bound:
        yield bound


def talk(port, data):
    with socket.create_connection(("127.0.0.1", port), timeout=5) as link:
        link.sendall(data)
        with link.makefile("rb") as answers:
            return answers.readline()


@pytest.mark.parametrize(
    "data", [b"\xff\x00\n", b"[[[\n", b'{"version": 1}\n', b"GET / HTTP/1.1\r\n"]
)
def test_garbage_closes_its_own_connection_only(port, data):
    assert talk(port, data) == b""
    assert decode_view(talk(port, encode(BEAT))).command in ("start", "wait", "drain", "stop")


def test_a_line_without_end_closes_its_connection(port):
    with contextlib.suppress(ConnectionError):  # the store may close before all is sent
        assert talk(port, b"x" * (2 * LINE_LIMIT_BYTES)) == b""
    assert talk(port, encode(BEAT))


def test_agents_that_disagree_about_the_world_are_told_so(port):
    talk(port, encode(BEAT))
    other = Beat(**{**vars(BEAT), "rules": Rules(1, 1, 1), "id": "b#2"})
    answer = decode_view(talk(port, encode(other)))
    assert (answer.command, answer.outcome.code, answer.outcome.error) == ("exit", 2, "ConfigError")
    assert answer.outcome.message.endswith("; render all pods of an attempt from one job file")


def test_a_client_starts_a_round_and_says_goodbye(port):
    beat = Beat("solo", Rules(1, 1, 1), "x#1", "127.0.0.1", 2000, "waiting")
    with Client("127.0.0.1", port, beat_seconds=0.05) as client:
        client.tell(beat)
        while client.view is None or client.view.command != "start":
            assert client.silence_seconds < 30
        assert client.view.round.members == ("x#1",)
        gone = Beat(**{**vars(beat), "state": "gone"})
        assert client.say_gone(gone, wait_seconds=10)
