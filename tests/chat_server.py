"""A chat endpoint on the loopback that answers as a test wants, and knows what it was asked."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Thread
from typing import Any


def chat_answer(content: object) -> dict[str, Any]:
    """A whole answer with one message."""
    message = {"role": "assistant", "content": content}
    choice = {"index": 0, "finish_reason": "stop", "message": message}
    return {"id": "1", "created": 1, "model": "m", "object": "chat.completion", "choices": [choice]}


@dataclass
class Chat:
    """What the endpoint answers, and what it was asked.

    Attributes:
        url: the address.
        status: of every answer.
        body: of every answer; None for none, until the server ends.
        answers: gives the message instead, where it succeeds, by the text that was sent.
        asked: the JSON of every request, with its `path` and its `authorization`.
    """

    url: str = ""
    status: int = 200
    body: bytes | None = b""
    answers: Callable[[str], str] | None = None
    asked: list[dict[str, Any]] = field(default_factory=list)
    ended: Event = field(default_factory=Event)

    def says(self, content: object) -> None:
        """Let it answer with a message."""
        self.body = json.dumps(chat_answer(content)).encode()

    def fails(self, status: int, body: bytes = b"") -> None:
        """Let it answer with a status."""
        self.status, self.body = status, body


@contextmanager
def chat_server() -> Iterator[Chat]:
    """An endpoint that answers until the block ends."""
    chat = Chat()

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            pass

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            chat.asked.append(
                {"path": self.path, "authorization": self.headers["Authorization"], **body}
            )
            sent = chat.body
            if chat.answers is not None and chat.status == 200:
                sent = json.dumps(
                    chat_answer(chat.answers(body["messages"][-1]["content"]))
                ).encode()
            if sent is None:
                chat.ended.wait()
                return
            with suppress(OSError):
                self.send_response(chat.status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(sent)))
                self.end_headers()
                self.wfile.write(sent)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    chat.url = f"http://127.0.0.1:{server.server_port}/v1"
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield chat
    finally:
        chat.ended.set()
        server.shutdown()
        server.server_close()
        thread.join()
