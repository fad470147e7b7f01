"""The controller's HTTP server: /healthz, /readyz and /metrics, in a thread."""

import contextlib
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest


@contextlib.contextmanager
def serving(
    port: int,
    *,
    is_alive: Callable[[], bool],
    is_ready: Callable[[], bool],
    registry: CollectorRegistry,
) -> Iterator[int]:
    """Serve on all addresses while the context lasts; yields the bound port."""

    class Handler(BaseHTTPRequestHandler):
        timeout = 10  # seconds; a client that says nothing holds no thread for ever

        def do_GET(self) -> None:
            if self.path == "/metrics":
                self._answer(200, CONTENT_TYPE_LATEST, generate_latest(registry))
            elif self.path == "/healthz":
                self._say(is_alive())
            elif self.path == "/readyz":
                self._say(is_ready())
            else:
                self._answer(404, "text/plain", b"there are /healthz, /readyz and /metrics\n")

        def _say(self, good: bool) -> None:
            self._answer(200 if good else 503, "text/plain", b"ok\n" if good else b"not yet\n")

        def _answer(self, status: int, kind: str, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing: probes come every few seconds."""

    server = ThreadingHTTPServer(("", port), Handler)
    server.daemon_threads = True
    thread = threading.Thread(
        target=server.serve_forever, kwargs={"poll_interval": 0.1}, name="probes", daemon=True
    )
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
