"""A web server for tests of references: objects with or without etags and ranges, scripted faults, and a log of what was asked."""

from __future__ import annotations

import re
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

STALL_SECONDS = 90  # longer than any test waits; ended when the site is closed


@dataclass
class Page:
    """An object as the site gives it."""

    data: bytes
    etag: str | None = None
    ranges: bool = True
    head: int = 200  # status of HEAD
    length: bool = True  # says its length
    status: int = 200
    location: str | None = None
    headers: dict[str, str] = field(default_factory=dict)
    wants: str | None = None  # the Authorization
    content_range: str | None = None  # a wrong one
    modified: float | None = None
    fault: str | None = None  # of every GET, as in ``script``


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    range: str | None


class Site:
    """Serves ``pages`` by path. ``script`` has what happens to the next GETs: ok, drop, cut, corrupt, stall, slow, or a status."""

    def __init__(self) -> None:
        self.pages: dict[str, Page] = {}
        self.script: deque[str] = deque()
        self.log: list[Request] = []
        self.bytes_sent = 0
        self.counting = threading.Lock()
        self.gate = threading.Event()  # GETs wait for it
        self.gate.set()
        self.closing = threading.Event()
        site = self

        class Handler(_Handler):
            pass

        Handler.site = site
        self._server = _Server(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def put(self, path: str, data: bytes, **options: object) -> str:
        """Place an object; returns its URI."""
        self.pages[f"/{path}"] = Page(data, **options)  # type: ignore[arg-type]
        return f"{self.url}/{path}"

    def asked(self, method: str) -> list[Request]:
        return [request for request in self.log if request.method == method]

    def forget(self) -> None:
        self.log.clear()
        self.bytes_sent = 0

    def close(self) -> None:
        self.closing.set()
        self.gate.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(10)


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        pass  # who asked has gone


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    site: Site

    def log_message(self, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._note()
        page = self._page()
        if page is None:
            return
        if page.head != 200:
            self._refuse(page.head)
            return
        self._begin(page, 200, len(page.data))

    def do_GET(self) -> None:
        site = self.site
        self._note()
        act = site.script.popleft() if site.script else "ok"
        known = site.pages.get(self.path)
        if known is not None and known.fault is not None:
            act = known.fault
        if not site.gate.wait(STALL_SECONDS) or act == "drop":
            self.close_connection = True
            return
        if act.isdigit():
            self._refuse(int(act))
            return
        page = self._page()
        if page is None:
            return
        data, status, begin = page.data, 200, 0
        found = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if found and page.ranges:
            begin = int(found[1])
            end = min(int(found[2]) + 1 if found[2] else len(data), len(data))
            if begin >= len(data):
                self._refuse(416, {"Content-Range": f"bytes */{len(data)}"})
                return
            total = len(data)
            data, status = data[begin:end], 206
            extra = {"Content-Range": page.content_range or f"bytes {begin}-{end - 1}/{total}"}
        else:
            extra = {}
        self._begin(page, status, len(data), extra)
        if act == "corrupt":
            data = bytes([data[0] ^ 1]) + data[1:]
        if act in {"cut", "stall"}:
            self._send(data[: len(data) // 2])
            if act == "stall":
                site.closing.wait(STALL_SECONDS)
            self.close_connection = True
            return
        if act == "slow":
            for byte in data[:200]:
                if site.closing.wait(0.05):
                    break
                self._send(bytes([byte]))
            self.close_connection = True
            return
        self._send(data)

    def _note(self) -> None:
        self.site.log.append(Request(self.command, self.path, self.headers.get("Range")))

    def _page(self) -> Page | None:
        page = self.site.pages.get(self.path)
        if page is None:
            self._refuse(404)
        elif page.wants is not None and self.headers.get("Authorization") != page.wants:
            self._refuse(401, {"WWW-Authenticate": 'Basic realm="x"'})
        elif page.location is not None:
            self._refuse(page.status, {"Location": page.location})
        elif page.status != 200:
            self._refuse(page.status)
        else:
            return page
        return None

    def _refuse(self, status: int, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _begin(self, page: Page, status: int, length: int, extra: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {**page.headers, **(extra or {})}.items():
            self.send_header(name, value)
        if page.etag is not None:
            self.send_header("ETag", page.etag)
        if page.modified is not None:
            self.send_header("Last-Modified", formatdate(page.modified, usegmt=True))
        if page.length:
            self.send_header("Content-Length", str(length))
        else:
            self.send_header("Connection", "close")
        self.end_headers()

    def _send(self, data: bytes) -> None:
        try:
            for begin in range(0, len(data), 64 << 10):
                part = data[begin : begin + (64 << 10)]
                # Before it is written: who has it all may look at the count at once.
                with self.site.counting:
                    self.site.bytes_sent += len(part)
                self.wfile.write(part)
        except OSError:
            self.close_connection = True  # who asked has gone


@contextmanager
def serving() -> Iterator[Site]:
    site = Site()
    try:
        yield site
    finally:
        site.close()
