"""A web server of a test: objects by path, with ETags or without, that counts what it is asked and can be made to stall."""

from __future__ import annotations

import hashlib
import re
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

STALL_SECONDS = 60.0


class Web:
    """What the server has. ``etags``: whether it tells them. ``asked`` counts ``METHOD path``; ``sent`` bytes of bodies."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.etags = True
        self.asked: Counter[str] = Counter()
        self.sent = 0
        self.url = ""
        self.stalled: set[str] = set()  # paths that are not answered
        self.going = threading.Event()  # ends all stalls

    def uri(self, path: str) -> str:
        return f"{self.url}/{path}"

    def put(self, path: str, data: bytes) -> str:
        """Make an object; returns its URI."""
        self.objects[path] = data
        return self.uri(path)


@contextmanager
def web_server() -> Iterator[Web]:
    """A server that runs, and is gone in the end."""
    web = Web()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *values: object) -> None:  # noqa: A002 - as the base names it
            pass

        def do_HEAD(self) -> None:
            self._answer(body=False)

        def do_GET(self) -> None:
            self._answer(body=True)

        def _answer(self, *, body: bool) -> None:
            path = self.path.lstrip("/")
            web.asked[f"{self.command} {path}"] += 1
            if path in web.stalled:
                web.going.wait(STALL_SECONDS)
            data = web.objects.get(path)
            if data is None:
                self.send_error(HTTPStatus.NOT_FOUND)
                return
            found = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
            first, last = 0, len(data) - 1
            if found:
                first, last = int(found[1]), min(int(found[2] or last), last)
            if first > last and found:
                self.send_response(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE)
                self.send_header("Content-Range", f"bytes */{len(data)}")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            self.send_response(HTTPStatus.PARTIAL_CONTENT if found else HTTPStatus.OK)
            if found:
                self.send_header("Content-Range", f"bytes {first}-{last}/{len(data)}")
            if web.etags:
                self.send_header("ETag", f'"{hashlib.sha256(data).hexdigest()[:16]}"')
            self.send_header("Content-Length", str(last + 1 - first))
            self.end_headers()
            if body:
                web.sent += last + 1 - first
                try:
                    self.wfile.write(data[first : last + 1])
                except OSError:  # whoever asked has had enough
                    self.close_connection = True

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 128  # who finds no room waits for a second at least until it knocks again

        def handle_error(self, request: object, client_address: object) -> None:
            """A client that was killed is none."""

    server = Server(("127.0.0.1", 0), Handler)
    web.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield web
    finally:
        web.going.set()
        server.shutdown()
        server.server_close()
        thread.join()
