"""The launcher's HTTP server: GET /progress, /metrics and /healthz, in a thread."""

import contextlib
import logging
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Final

from pangu_core.launch.metrics import CONTENT_TYPE, prometheus_text
from pangu_core.messages import Progress

PORT_FILE: Final = "progress.port"
logger = logging.getLogger(__name__)


@contextlib.contextmanager
def serving(port: int, report: Callable[[], Progress]) -> Iterator[int]:
    """Serve ``report()`` on all addresses while the context lasts; yields the bound port."""
    server = ThreadingHTTPServer(("", port), _handler(report))
    server.daemon_threads = True
    thread = threading.Thread(
        target=server.serve_forever, kwargs={"poll_interval": 0.1}, name="progress", daemon=True
    )
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def write_port(port: int, termination_path: str | None) -> None:
    """Leave a port that the system chose beside the termination file, for whoever asks."""
    if termination_path:
        target = Path(termination_path).with_name(PORT_FILE)
        temporary = target.with_name(f".{PORT_FILE}")
        temporary.write_text(str(port), encoding="ascii")
        temporary.replace(target)


def _handler(report: Callable[[], Progress]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        timeout = 10  # seconds; a client that says nothing holds no thread for ever

        def do_GET(self) -> None:
            if self.path == "/progress":
                self._answer(200, "application/json", report().to_json())
            elif self.path == "/metrics":
                self._answer(200, CONTENT_TYPE, prometheus_text(report()))
            elif self.path == "/healthz":
                self._answer(200, "text/plain", "ok\n")
            else:
                self._answer(404, "text/plain", "there are /progress, /metrics and /healthz\n")

        def _answer(self, status: int, kind: str, text: str) -> None:
            body = text.encode()
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            logger.debug(format, *args)

    return Handler
