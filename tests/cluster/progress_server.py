"""Answers ``/progress`` at pods' own loopback addresses, in the place of their launchers."""

import contextlib
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from k8s import names
from pangu_core.messages import Progress


class ProgressServer:
    """One server for each address that has something to say."""

    def __init__(self) -> None:
        self._servers: dict[str, ThreadingHTTPServer] = {}

    def serve(self, address: str, report: Callable[[], Progress]) -> None:
        """Answer at an address from now on; ``report`` is asked at each request, and may block."""
        server = ThreadingHTTPServer((address, names.PROGRESS_PORT), _handler(report))
        server.daemon_threads = True
        self._servers[address] = server
        threading.Thread(
            target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True
        ).start()

    def stop(self, address: str) -> None:
        """Refuse connections at an address, as a pod that has ended does."""
        server = self._servers.pop(address, None)
        if server is not None:
            server.shutdown()
            server.server_close()

    def close(self) -> None:
        """Stop everywhere."""
        for address in list(self._servers):
            self.stop(address)


def _handler(report: Callable[[], Progress]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = report().to_json().encode()
            with contextlib.suppress(ConnectionError):  # who asked may have given up
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    return Handler
