"""Client: sends requests of exact token counts to /v1/completions and times the streamed answers.

Prompts are lists of token ids, so that no tokenizer is needed; ``ignore_eos`` and ``min_tokens``, which vLLM and SGLang
take, make the output as long as asked.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any

import aiohttp
import msgspec
import numpy as np

from fib_plugin.replay.answer import Answer
from fib_plugin.replay.arrivals import Arrival

#: Ids below are special tokens in most vocabularies.
FIRST_ID = 3
_BODY_SHOWN = 500
_PROBE_SECONDS = 10.0


class EndpointError(RuntimeError):
    """An endpoint that cannot be used; the message names it and the remedy."""


class Client:
    """An endpoint that requests are sent to; use it in an ``async with`` block.

    Args:
        url: base address, with /v1.
        vocabulary: prompts hold ids below it.
        seed: of the prompts' ids; a request's depend on it and on the request's number only.
        body: further fields of every request, such as sampling parameters; they win over ours.
        timeout: seconds that an answer may take.
        notice: told of each kind of failure once, with what the endpoint said.
    """

    def __init__(
        self,
        url: str,
        model: str | None = None,
        *,
        vocabulary: int,
        seed: int = 0,
        api_key: str | None = None,
        body: Mapping[str, Any] | None = None,
        timeout: float = 600.0,
        notice: Callable[[str], None] = lambda told: None,
    ) -> None:
        self.url = url.rstrip("/")
        self.model = model
        self._vocabulary = vocabulary
        self._seed = seed
        self._body = dict(body or {})
        self._timeout = timeout
        self._notice = notice
        self._told: set[str] = set()
        self._headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Client:
        # The replay bounds how many requests are under way, not the pool of connections.
        connector = aiohttp.TCPConnector(limit=0)
        self._session = aiohttp.ClientSession(connector=connector, headers=self._headers, read_bufsize=1 << 20)
        try:
            await self._probe(self._session)
        except BaseException:
            await self._session.close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()

    async def _probe(self, session: aiohttp.ClientSession) -> None:
        """Asks for the models before anything is sent; an endpoint that does not list them is taken as it is."""
        address = f"{self.url}/models"
        try:
            async with session.get(address, timeout=aiohttp.ClientTimeout(total=_PROBE_SECONDS)) as response:
                status, text = response.status, await response.text()
        except (aiohttp.ClientError, asyncio.TimeoutError, ValueError, OSError) as error:
            raise EndpointError(
                f"{self.url} cannot be reached: {error or type(error).__name__} "
                "(is the server up, and does --url hold scheme, host, port and /v1?)"
            ) from error
        if status in (401, 403):
            raise EndpointError(f"{address} answers {status} (set OPENAI_API_KEY to a key that the server takes)")
        try:
            served = [str(model["id"]) for model in msgspec.json.decode(text)["data"]] if status == 200 else []
        except (msgspec.DecodeError, KeyError, TypeError):
            served = []
        if self.model is None and not served:
            raise EndpointError(f"{address} answers {status} and names no model (give --model, check --url)")
        if self.model is None:
            self.model = served[0]
        elif served and self.model not in served:
            raise EndpointError(f"{self.url} does not serve {self.model!r} (--model: {', '.join(served)})")

    def prompt(self, number: int, length: int) -> list[int]:
        """The token ids of request ``number``."""
        draw = np.random.default_rng((self._seed, number))
        ids: list[int] = draw.integers(min(FIRST_ID, self._vocabulary - 1), self._vocabulary, length).tolist()
        return ids

    def payload(self, number: int, arrival: Arrival) -> Any:
        """The request as ``send`` takes it."""
        return msgspec.json.encode(
            {
                "model": self.model,
                "prompt": self.prompt(number, arrival.prompt_tokens),
                "max_tokens": arrival.output_tokens,
                "min_tokens": arrival.output_tokens,
                "ignore_eos": True,
                "stream": True,
                "stream_options": {"include_usage": True},
                **self._body,
            }
        )

    async def send(self, payload: Any, arrival: Arrival, began: float) -> Answer:
        """Sends one request and reads its answer to the end; failures are in the answer, only a cancel is raised.

        Args:
            began: ``time.perf_counter()`` when the replay began.
        """
        assert self._session is not None
        answer = Answer(arrival, sent=time.perf_counter() - began)
        try:
            async with self._session.post(
                f"{self.url}/completions",
                data=payload,
                headers={"Content-Type": "application/json"},
                timeout=aiohttp.ClientTimeout(total=self._timeout),
            ) as response:
                if response.status == 200:
                    await self._read(response, answer, began)
                else:
                    text = (await response.text())[:_BODY_SHOWN]
                    self._fail(answer, f"http_{response.status}", text)
        except asyncio.TimeoutError:
            self._fail(answer, "timeout", f"no whole answer within {self._timeout:g} s")
        except aiohttp.ClientPayloadError as error:
            self._fail(answer, "ended_early", str(error))
        except (aiohttp.ClientError, OSError) as error:
            self._fail(answer, "connection", str(error) or type(error).__name__)
        except (msgspec.DecodeError, ValueError, TypeError, KeyError, AttributeError) as error:
            self._fail(answer, "bad_answer", f"{type(error).__name__}: {error}")
        answer.ended = time.perf_counter() - began
        return answer

    async def _read(self, response: aiohttp.ClientResponse, answer: Answer, began: float) -> None:
        """Server-sent events until [DONE]."""
        async for line in response.content:
            if not line.startswith(b"data:"):
                continue
            data = line[5:].strip()
            if data == b"[DONE]":
                if not answer.pieces:
                    self._fail(answer, "empty", "the answer holds no output")
                return
            event = msgspec.json.decode(data)
            if event.get("error"):
                self._fail(answer, "engine_error", str(event["error"])[:_BODY_SHOWN])
                return
            usage = event.get("usage")
            if usage:
                answer.prompt_tokens, answer.output_tokens = usage.get("prompt_tokens"), usage.get("completion_tokens")
            for choice in event.get("choices") or ():
                # A last event that only says why the output ended holds no token.
                if choice.get("text") or not choice.get("finish_reason") or not answer.pieces:
                    answer.pieces.append(time.perf_counter() - began)
        self._fail(answer, "ended_early", "the stream ended without [DONE]")

    def _fail(self, answer: Answer, kind: str, detail: str) -> None:
        answer.failure = kind
        if kind not in self._told:
            self._told.add(kind)
            self._notice(f"{kind}: {detail}")
