"""A real HTTP server on loopback that receives webhooks: answers as told, keeps what it got."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import chain, repeat

from standardwebhooks import Webhook

SECRET = "whsec_" + "c2VjcmV0IG9mIHRoZSB0ZXN0cywgMzIgYnl0ZXMuLi4="


@dataclass
class Receiver:
    """``requests`` are (path, headers with lower-case names, body) in the order of arrival."""

    host: str
    port: int
    requests: list[tuple[str, dict[str, str], bytes]] = field(default_factory=list)
    silent: threading.Event = field(default_factory=threading.Event)

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}/hook?token=abc"

    def verified(self, secret: str = SECRET) -> list[dict[str, object]]:
        """The bodies, each with its signature checked as the specification's own library does."""
        return [Webhook(secret).verify(body, headers) for _, headers, body in self.requests]

    @property
    def ids(self) -> list[str]:
        return [headers["webhook-id"] for _, headers, _ in self.requests]


@contextmanager
def receiving(
    *statuses: int, host: str = "127.0.0.1", headers: Sequence[tuple[str, str]] = (), body: bytes = b""
) -> Iterator[Receiver]:
    """Answers with ``statuses`` in turn, and 204 from then on; not at all while ``silent`` is set."""
    answers = chain(statuses, repeat(204))

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            got = self.rfile.read(int(self.headers["Content-Length"]))
            receiver.requests.append((self.path, {k.lower(): v for k, v in self.headers.items()}, got))
            if receiver.silent.is_set():
                stopped.wait()
                return
            self.send_response(next(answers))
            for name, value in headers:
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    stopped = threading.Event()
    server = ThreadingHTTPServer((host, 0), Handler)
    server.daemon_threads = True
    receiver = Receiver(host, server.server_address[1])
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield receiver
    finally:
        stopped.set()
        server.shutdown()
        thread.join()
        server.server_close()
