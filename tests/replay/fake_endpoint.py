"""A small OpenAI-compatible endpoint that streams as many tokens as asked, after known delays, or fails as told."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class FakeEndpoint:
    """Use it in a ``with`` block; ``requests`` holds what came, in order, with the time it came.

    Args:
        first: seconds before the first token.
        between: seconds between tokens.
        fault: "http_400", "no_done", "hang_up", "error_event", "stall", "no_json", "empty"; of every ``every``-th
            request.
    """

    def __init__(self, first: float = 0.0, between: float = 0.0, fault: str = "", every: int = 1) -> None:
        self.first, self.between, self.fault, self.every = first, between, fault, every
        self.models = ["tiny"]
        self.requests: list[dict[str, Any]] = []
        self.times: list[float] = []
        self.keys: list[str | None] = []
        self.released = threading.Event()
        self.most_at_once = 0
        self._at_once = 0
        self.lock = threading.Lock()
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *args: object) -> None:
                pass

            def do_GET(self) -> None:
                _answer(self, 200, {"data": [{"id": name} for name in endpoint.models]})

            def do_POST(self) -> None:
                endpoint.complete(self)

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    def __enter__(self) -> FakeEndpoint:
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self.released.set()
        self._server.shutdown()
        self._server.server_close()

    def complete(self, handler: BaseHTTPRequestHandler) -> None:
        body = json.loads(handler.rfile.read(int(handler.headers["Content-Length"])))
        with self.lock:
            self.requests.append(body)
            self.times.append(time.perf_counter())
            self.keys.append(handler.headers.get("Authorization"))
            number = len(self.requests)
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
        left = False

        def leave() -> None:
            nonlocal left
            with self.lock:
                self._at_once -= not left
                left = True

        try:
            self._stream(handler, body, self.fault if number % self.every == 0 else "", leave)
        except (BrokenPipeError, ConnectionResetError):
            pass
        finally:
            leave()

    def _stream(
        self, handler: BaseHTTPRequestHandler, body: dict[str, Any], fault: str, leave: Callable[[], None]
    ) -> None:
        if fault == "http_400":
            _answer(handler, 400, {"error": {"message": f"token id {body['prompt'][0]} is out of vocabulary"}})
            return
        if fault == "stall":
            self.released.wait(30)
            return
        handler.send_response(200)
        handler.send_header("Content-Type", "text/event-stream")
        if fault == "hang_up":  # promises more than comes
            handler.send_header("Content-Length", "100000")
        handler.end_headers()
        asked = body["max_tokens"]
        time.sleep(self.first)
        for token in range(0 if fault == "empty" else asked):
            if token:
                time.sleep(self.between)
            last = token == asked - 1
            event = {"choices": [{"text": f"w{token} ", "finish_reason": "length" if last else None}]}
            _event(handler, "{" if fault == "no_json" else json.dumps(event))
            if fault == "error_event":
                _event(handler, json.dumps({"error": {"message": "out of memory"}}))
            if fault in ("hang_up", "no_done"):
                return
        usage = {"prompt_tokens": len(body["prompt"]), "completion_tokens": asked}
        _event(handler, json.dumps({"choices": [], "usage": usage}))
        leave()  # before the client can know that it may send the next one
        _event(handler, "[DONE]")


def _event(handler: BaseHTTPRequestHandler, data: str) -> None:
    handler.wfile.write(f"data: {data}\n\n".encode())
    handler.wfile.flush()


def _answer(handler: BaseHTTPRequestHandler, status: int, content: dict[str, Any]) -> None:
    body = json.dumps(content).encode()
    handler.send_response(status)
    handler.send_header("Content-Type", "application/json")
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body)
