"""The page of `grove watch RUN --web`: one file and one table of figures, for browsers of this machine only."""

from __future__ import annotations

import json
import signal
import socketserver
from contextlib import suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from grove.common.errors import SettingError
from grove.inference_server.channels.endpoint import is_own_host
from grove.live.reader import RunReader
from grove.live.snapshot import what_binds

_PAGE = Path(__file__).with_name("web") / "watch.html"
_HEADERS = {
    # What the page holds itself and its own server, nothing else; so it works offline, and no text becomes code.
    "Content-Security-Policy": "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
    "img-src data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


class PageServer(socketserver.ThreadingTCPServer):
    """Serves one run on 127.0.0.1; each request has a thread of its own."""

    allow_reuse_address = daemon_threads = True
    block_on_close = False

    def __init__(self, reader: RunReader, port: int) -> None:
        """Listen. Raises SettingError when the port is taken."""
        self.reader = reader
        try:
            super().__init__(("127.0.0.1", port), _Handler)
        except OSError as error:
            why = f"127.0.0.1 has no such free port ({error.strerror})"
            raise SettingError.of("port", port, why, "choose another, or leave it out") from None

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of browsers that hang up."""


def serve_page(reader: RunReader, port: int) -> int:
    """Serve the page until Ctrl-C or SIGTERM; returns the exit status."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with PageServer(reader, port) as server, suppress(KeyboardInterrupt):
        print(f"{reader.path} at http://127.0.0.1:{server.server_address[1]}/ until Ctrl-C", flush=True)
        server.serve_forever()
    return 0


def page_data(reader: RunReader, after: int) -> str:
    """Return as JSON how the run stands, and its points from line number `after` on."""
    status = reader.refresh()
    restart = after > reader.count  # the file is another one than before
    count, points = reader.points(0 if restart else after)
    playing = status.kind == "playing"
    about = {
        "status": {"kind": status.kind, "text": status.text, "ended": status.ended},
        "chosen": reader.chosen,
        "total": reader.total,
        "binds": what_binds({**reader.chosen, **reader.last}, reader.total) if playing else "",
        "games": reader.summary.get("games") if status.ended else None,
        "damaged": reader.damaged,
        "next": count,
        "restart": restart,
    }
    return f'{json.dumps(about)[:-1]}, "points": [{",".join(points)}]}}'


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "grove", ""
    timeout = 30.0  # of a browser that sends half a request
    server: PageServer

    def do_GET(self) -> None:
        hosts, url = self.headers.get_all("Host") or [], urlsplit(self.path)
        if len(hosts) != 1 or not is_own_host(hosts[0]):
            self._answer(HTTPStatus.FORBIDDEN, "text/plain", "This page is for browsers of its own machine.\n")
        elif url.path == "/":
            self._answer(HTTPStatus.OK, "text/html", _PAGE.read_text(encoding="utf-8"))
        elif url.path == "/data":
            after = parse_qs(url.query).get("after", ["0"])[0]
            number = int(after) if after.isascii() and after.isdigit() and len(after) < 16 else 0
            self._answer(HTTPStatus.OK, "application/json", page_data(self.server.reader, number))
        else:
            self._answer(HTTPStatus.NOT_FOUND, "text/plain", "There is / and /data.\n")

    do_HEAD = do_GET

    def _answer(self, status: HTTPStatus, kind: str, text: str) -> None:
        body = text.encode()
        self.send_response(status)
        for name, value in {**_HEADERS, "Content-Type": f"{kind}; charset=utf-8", "Content-Length": len(body)}.items():
            self.send_header(name, str(value))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing of requests."""
