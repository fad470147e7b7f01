"""The service as a process, driven by OpenAI's own client."""

import http.client
import json
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import openai
import pytest

from pangu_core.generation import text
from pangu_core.generation.settings import GenerationSettings
from tests.service.conftest import KEY, NUM_PLACES, NUM_WAITING, POSITIONS

PROMPT = "四川的省会"
# Several hundred tokens each, so many that they are still being written in a while.
LONG = {"model": "small", "prompt": PROMPT, "max_tokens": POSITIONS - 40, "n": 10}


@pytest.fixture
def client(service) -> openai.OpenAI:
    return service.client()


@pytest.fixture(scope="module")
def written(model, tokenizer):
    """What the library writes for prompts."""

    def write(*prompts: str, **rules) -> list[text.Completion]:
        settings = GenerationSettings(**{"top_p": 1.0, "max_new_tokens": 30, **rules})
        return text.generate(model, tokenizer, prompts, settings)

    return write


def create(client: openai.OpenAI, **values):
    return client.completions.create(
        **{"model": "small", "prompt": PROMPT, "max_tokens": 30, **values}
    )


def test_a_greedy_answer_is_the_librarys(client, written):
    [expected] = written(PROMPT, greedy=True)
    answer = create(client, temperature=0)
    [choice] = answer.choices
    assert (answer.object, answer.model, choice.text) == ("text_completion", "small", expected.text)
    assert choice.finish_reason == {"eod": "stop"}.get(expected.finish_reason, "length")
    numbers = (expected.num_prompt_tokens, len(expected.ids))
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == numbers
    assert answer.usage.total_tokens == sum(numbers)


def test_a_stream_is_the_whole_answer_in_pieces(client, written):
    [expected] = written(PROMPT, seed=7)
    chunks = list(create(client, seed=7, stream=True))
    assert len(chunks) > 3
    assert "".join(chunk.choices[0].text for chunk in chunks) == expected.text
    assert [c.choices[0].finish_reason for c in chunks[:-1]] == [None] * (len(chunks) - 1)
    assert chunks[-1].choices[0].finish_reason in ("stop", "length")
    assert all(chunk.usage is None for chunk in chunks)


def test_a_stream_ends_with_its_usage_if_asked(client):
    whole = create(client, seed=7)
    chunks = list(create(client, seed=7, stream=True, stream_options={"include_usage": True}))
    assert chunks[-1].choices == []
    assert chunks[-1].usage == whole.usage


def test_several_prompts_and_copies_come_in_order(client, written):
    expected = written("四川", "四川", "hello", "hello", seed=3)
    answer = create(client, prompt=["四川", "hello"], n=2, seed=3)
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
    assert [choice.text for choice in answer.choices] == [each.text for each in expected]


def test_token_ids_are_a_prompt_too(client, tokenizer):
    ids = tokenizer.encode(PROMPT)
    as_text = create(client, temperature=0).choices[0].text
    assert create(client, prompt=ids, temperature=0).choices[0].text == as_text
    both = create(client, prompt=[ids, ids], temperature=0)
    assert [choice.text for choice in both.choices] == [as_text, as_text]


def test_an_echo_is_the_prompt_before_the_answer(client):
    plain = create(client, seed=1).choices[0].text
    assert create(client, seed=1, echo=True).choices[0].text == PROMPT + plain
    pieces = [c.choices[0].text for c in create(client, seed=1, echo=True, stream=True)]
    assert pieces[0] == PROMPT
    assert "".join(pieces) == PROMPT + plain


def test_a_stop_string_ends_the_answer(client):
    whole = create(client, seed=5).choices[0].text
    stop = whole[4:6]
    choice = create(client, seed=5, stop=stop).choices[0]
    assert (choice.text, choice.finish_reason) == (whole[: whole.index(stop)], "stop")
    chunks = list(create(client, seed=5, stop=["nowhere", stop], stream=True))
    assert "".join(chunk.choices[0].text for chunk in chunks) == choice.text


def test_a_seed_repeats_an_answer_and_no_seed_does_not(client):
    texts = [create(client, seed=11).choices[0].text for _ in range(2)]
    assert texts[0] == texts[1]
    others = {create(client).choices[0].text for _ in range(3)}
    assert len(others) == 3


def test_answers_do_not_depend_on_what_runs_beside_them(client):
    kinds = [{"temperature": 0}, {"seed": 2}, {"seed": 3, "extra_body": {"top_k": 5}}]
    wanted = [{**kind, "prompt": f"hello {number}"} for number, kind in enumerate(kinds * 3)]
    alone = [create(client, **each).choices[0].text for each in wanted]
    with ThreadPoolExecutor(len(wanted)) as pool:
        together = list(pool.map(lambda each: create(client, **each).choices[0].text, wanted))
    assert together == alone


@pytest.mark.parametrize(
    ("values", "param", "code"),
    [
        ({"temperature": -1}, "temperature", "invalid_value"),
        ({"max_tokens": 0}, "max_tokens", "invalid_value"),
        ({"prompt": []}, "prompt", "invalid_value"),
        ({"prompt": [99999]}, "prompt", "invalid_value"),
        ({"max_tokens": POSITIONS}, "prompt", "context_length_exceeded"),
        ({"n": 100}, "n", "too_many_texts"),
        ({"logprobs": 3}, "logprobs", "invalid_value"),
        ({"extra_body": {"top_n": 1}}, "top_n", "invalid_value"),
    ],
)
def test_a_bad_request_is_refused_by_its_field(client, values, param, code):
    with pytest.raises(openai.BadRequestError) as caught:
        create(client, **values)
    assert (caught.value.param, caught.value.code) == (param, code)
    assert caught.value.type == "invalid_request_error"


def test_another_models_name_is_not_found(client):
    with pytest.raises(openai.NotFoundError) as caught:
        create(client, model="gpt-4")
    assert caught.value.code == "model_not_found"


def test_the_model_is_listed(client):
    [card] = client.models.list().data
    assert (card.id, card.max_model_len) == ("small", POSITIONS)
    assert client.models.retrieve("small").id == "small"


def test_only_keys_are_let_in(service):
    for refused in ("wrong", f"{KEY}x"):
        with pytest.raises(openai.AuthenticationError) as caught:
            create(service.client(refused))
        assert caught.value.code == "invalid_api_key"
    with pytest.raises(openai.AuthenticationError):
        service.client("wrong").models.list()
    assert create(service.client("another"), max_tokens=1).choices


def test_a_key_that_is_added_counts_without_a_restart(service):
    keys = service.folder / "keys"
    keys.write_text(f"{KEY}\nanother\nnew\n")
    assert create(service.client("new"), max_tokens=1).choices


def test_a_full_queue_answers_when_to_come_again(service, client):
    with client.completions.create(**LONG, stream=True) as stream:
        next(iter(stream))
        with pytest.raises(openai.RateLimitError) as caught:
            create(client, n=NUM_PLACES + NUM_WAITING)
        assert caught.value.code == "queue_full"
        assert 1 <= int(caught.value.response.headers["retry-after"]) <= 60
        assert service.metric("pangu_serve_queue_depth") > 0
    service.wait_for("pangu_serve_queue_depth", 0)


def test_a_client_that_leaves_a_stream_frees_its_places(service, client):
    before = service.metric('pangu_serve_requests_total{status="499"}')
    with client.completions.create(**LONG, stream=True) as stream:
        next(iter(stream))
    service.wait_for('pangu_serve_requests_total{status="499"}', before + 1)
    service.wait_for("pangu_serve_running", 0)
    assert service.metric("pangu_serve_queue_depth") == 0


def test_a_client_that_leaves_while_it_waits_frees_its_places(service):
    before = service.metric('pangu_serve_requests_total{status="499"}')
    address = urlsplit(service.url)
    connection = http.client.HTTPConnection(address.hostname, address.port)
    headers = {"Authorization": f"Bearer {KEY}"}
    connection.request("POST", "/v1/completions", json.dumps(LONG), headers)
    service.wait_for("pangu_serve_running", NUM_PLACES)
    connection.close()
    service.wait_for('pangu_serve_requests_total{status="499"}', before + 1)
    service.wait_for("pangu_serve_running", 0)


def test_the_probes_and_the_metrics_need_no_key(service):
    assert service.get("/livez") == (200, "ok\n")
    assert service.get("/readyz") == (200, "ok\n")
    status, metrics = service.get("/metrics")
    assert status == 200
    assert 'pangu_serve_requests_total{status="200"}' in metrics
    assert service.get("/v1/models")[0] == 401


def test_prompts_are_not_logged(service, client):
    create(client, prompt="a secret of mine", max_tokens=1)
    assert "secret" not in (service.folder / "log").read_text()
