"""A read-only object store on localhost that speaks just enough S3 for Arrow's client.

It serves a directory as one bucket and ignores signatures: what is under test is our way to the
real client (pyarrow's S3FileSystem), which does all the talking.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

BUCKET = "bucket"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    root: Path

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        query = {key: values[0] for key, values in parse_qs(url.query).items()}
        key = unquote(url.path).removeprefix(f"/{BUCKET}").strip("/")
        if key:
            self._object(key)
        elif "list-type" in query:
            self._answer(200, self._listing(query).encode(), "application/xml")
        else:
            self._answer(200, b"", "application/xml")

    def _listing(self, query: dict[str, str]) -> str:
        keys, prefixes = self._list(query)
        objects = "".join(
            f"<Contents><Key>{escape(key)}</Key><Size>{(self.root / key).stat().st_size}</Size>"
            "<LastModified>2026-01-01T00:00:00.000Z</LastModified></Contents>"
            for key in keys
        )
        folders = "".join(
            f"<CommonPrefixes><Prefix>{escape(prefix)}</Prefix></CommonPrefixes>"
            for prefix in prefixes
        )
        return (
            "<ListBucketResult><IsTruncated>false</IsTruncated>"
            f"<KeyCount>{len(keys) + len(prefixes)}</KeyCount>{objects}{folders}</ListBucketResult>"
        )

    def _list(self, query: dict[str, str]) -> tuple[list[str], list[str]]:
        """Return the keys under a prefix, and where a delimiter cuts them the common prefixes."""
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
        keys, prefixes = [], set()
        for file in sorted(self.root.rglob("*")):
            key = file.relative_to(self.root).as_posix()
            if not file.is_file() or not key.startswith(prefix):
                continue
            head, cut, _ = key[len(prefix) :].partition(delimiter) if delimiter else (key, "", "")
            if cut:
                prefixes.add(prefix + head + cut)
            else:
                keys.append(key)
        return keys[: int(query.get("max-keys", len(keys)))], sorted(prefixes)

    def _object(self, key: str) -> None:
        file = self.root / key
        if not file.is_file():
            self._answer(404, b"", "application/xml")
            return
        data = file.read_bytes()
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if wanted is None:
            self._answer(200, data, "application/octet-stream")
            return
        first, last = int(wanted[1]), int(wanted[2] or len(data) - 1)
        part = data[first : last + 1]
        span = f"bytes {first}-{first + len(part) - 1}/{len(data)}"
        self._answer(206, part, "application/octet-stream", {"Content-Range": span})

    def _answer(
        self, status: int, body: bytes, kind: str, headers: dict[str, str] | None = None
    ) -> None:
        self.send_response(status)
        for name, value in {
            "Content-Type": kind,
            "Content-Length": str(len(body)),
            "ETag": '"fixed"',
            "Last-Modified": "Thu, 01 Jan 2026 00:00:00 GMT",
            **(headers or {}),
        }.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Keep the test's output clean."""


@contextmanager
def serve(root: Path) -> Iterator[str]:
    """Serve a directory's files as the objects of `BUCKET`; gives host:port."""
    handler = type("Handler", (_Handler,), {"root": root})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
