"""A server of files on this machine, with the faults that real ones have."""

import hashlib
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class FileServer(ThreadingHTTPServer):
    """Serves ``files`` by path; ``ranges``, ``cut`` and ``tells`` may be changed at any time."""

    daemon_threads = True

    def __init__(self, files: dict[str, bytes]):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files = files
        self.headers: dict[str, str] = {}  # sent with each file
        self.ranges = True  # whether parts may be asked for
        self.cut: int | None = None  # bytes after which a connection is dropped
        self.tells = True  # which version of a file it sends
        self.asked: list[tuple[str, str, str]] = []  # method, path, Range

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: FileServer

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, body: bool) -> None:
        wanted, path = self.headers.get("Range", ""), self.path.split("?")[0]
        self.server.asked.append((self.command, path, wanted))
        if path not in self.server.files:
            return self.send_error(404)
        content = self.server.files[path]
        part = re.fullmatch(r"bytes=(\d+)-", wanted)
        etag = f'"{hashlib.sha256(content).hexdigest()}"'
        same = self.headers.get("If-Range", etag) == etag
        if part and self.server.ranges and same:
            start = int(part[1])
            if start >= len(content):
                return self.send_error(416)
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
            content = content[start:]
        else:
            self.send_response(200)
        if self.server.tells:
            self.send_header("ETag", etag)
        for name, value in self.server.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if body:
            self.wfile.write(content[: self.server.cut])
        self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def serving(files: dict[str, bytes]) -> Iterator[FileServer]:
    """A running server."""
    server = FileServer(files)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
