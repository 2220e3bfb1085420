"""An HTTP server on loopback that answers by script, for what no real store does on demand: 5xx, resets, short bodies."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Answer:
    """One answer. ``announced_bytes`` above the body's: the connection breaks before its end. ``reset``: no answer at all."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    announced_bytes: int | None = None
    reset: bool = False
    wait: threading.Event | None = None


@dataclass
class ScriptedServer:
    """Its address and what has been asked."""

    url: str
    asked: list[tuple[str, str]] = field(default_factory=list)


@contextmanager
def scripted(answer: Callable[[str, str, int], Answer]) -> Iterator[ScriptedServer]:
    """Serve; ``answer`` gets method, path and how many requests came before."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _serve(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            with lock:
                count = len(server.asked)
                server.asked.append((self.command, self.path))
            one = answer(self.command, self.path, count)
            if one.wait is not None:
                one.wait.wait(20)
            if one.reset:
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.close_connection = True
                return
            self.send_response(one.status)
            for name, value in one.headers.items():
                self.send_header(name, value)
            if not (self.command == "HEAD" and "Content-Length" in one.headers):
                self.send_header("Content-Length", str(len(one.body) if one.announced_bytes is None else one.announced_bytes))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(one.body)
            self.close_connection = one.announced_bytes is not None

        do_GET = do_PUT = do_HEAD = do_DELETE = do_POST = _serve  # noqa: N815 (names of http.server)

        def log_message(self, format: str, *args: object) -> None:
            pass

    lock = threading.Lock()
    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    http.daemon_threads = True
    server = ScriptedServer(f"http://127.0.0.1:{http.server_address[1]}")
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server
    finally:
        http.shutdown()
        http.server_close()
        thread.join()
