"""The server around the application: its address, and how it ends when the engine does."""

import threading
import urllib.request

import pytest

from pangu_core.entry.serve import grace_seconds
from pangu_core.errors import ConfigError
from pangu_core.service import server
from pangu_core.service.engine import Stats
from tests.service.conftest import wait_until
from tests.service.test_app import Site


def test_an_address_that_is_taken_is_refused():
    with server.bind("127.0.0.1", 0) as bound:
        bound.listen()
        port = bound.getsockname()[1]
        with pytest.raises(ConfigError, match=f"127.0.0.1 port {port}"):
            server.bind("127.0.0.1", port)


def test_an_engine_that_ends_ends_the_service_with_its_error(tokenizer):
    site, caught = Site(tokenizer), []
    bound = server.bind("127.0.0.1", 0)
    url = f"http://127.0.0.1:{bound.getsockname()[1]}/livez"

    def serve() -> None:
        times = server.Times(delay=0, grace=30)
        try:
            server.run(site.service, site.health, engine=site.engine, bound=bound, times=times)
        except RuntimeError as error:
            caught.append(str(error))

    thread = threading.Thread(target=serve)
    thread.start()
    wait_until(lambda: _is_there(url), "not there")
    site.engine.now = Stats(error=RuntimeError("the device is gone"))
    thread.join(20)
    assert caught == ["the device is gone"]


def _is_there(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return answer.status == 200
    except OSError:
        return False


@pytest.mark.parametrize(("value", "seconds"), [("60", 60.0), ("1.5", 1.5)])
def test_the_grace_period_comes_from_the_environment(value, seconds):
    assert grace_seconds({"PANGU_GRACE_SECONDS": value}) == seconds
    assert grace_seconds({}) == 30


@pytest.mark.parametrize("value", ["", "0", "-1", "inf", "nan", "soon"])
def test_a_grace_period_that_is_no_time_is_refused(value):
    with pytest.raises(ConfigError, match="PANGU_GRACE_SECONDS"):
        grace_seconds({"PANGU_GRACE_SECONDS": value})
