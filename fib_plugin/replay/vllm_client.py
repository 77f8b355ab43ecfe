"""VllmClient: requests by the function that ``vllm bench serve`` sends them by, so that its times are vLLM's own.

What it lacks is why it is not the default (read in vLLM 0.32): an answer that breaks off or ends in an error event
counts as whole there, a refusal is told without what the server said, nothing limits the time, and vLLM must be
installed where the client runs. Here the engine's own count of tokens, the last thing in a stream, tells whole answers
from others.

SGLang's function of the same name (``sglang.benchmark.serving``, 0.5.18) does not serve: it fails on the event that
holds the counts, having no choices, and takes the asked length for the generated one; pieces without text are no
tokens to it, and random ids make many; each request opens a session of its own; and its switches are a global
namespace that only its command line fills.
"""

from __future__ import annotations

import asyncio
import dataclasses
import importlib
import inspect
import itertools
import time
from types import ModuleType
from typing import Any

from fib_plugin.replay.answer import Answer
from fib_plugin.replay.arrivals import Arrival
from fib_plugin.replay.client import Client, EndpointError

MODULE = "vllm.benchmarks.lib.endpoint_request_func"
_FUNCTION, _INPUT = "async_request_openai_completions", "RequestFuncInput"
#: By the name of what was raised, the kind of failure, as Client has them.
_KINDS = {
    "ClientPayloadError": "ended_early",
    "JSONDecodeError": "bad_answer",
    "TimeoutError": "timeout",
}


class VllmClient(Client):
    """Client, with vLLM's function to send. Same arguments.

    Raises:
        EndpointError: vLLM is not installed here, or its function is none that we know.
    """

    def __init__(self, url: str, model: str | None = None, **options: Any) -> None:
        super().__init__(url, model, **options)
        library = _library()
        self._request, self._input = getattr(library, _FUNCTION), getattr(library, _INPUT)

    def payload(self, number: int, arrival: Arrival) -> Any:
        """The request as vLLM's function takes it."""
        fields = {
            "model": self.model,
            "prompt": self.prompt(number, arrival.prompt_tokens),
            "api_url": f"{self.url}/completions",
            "prompt_len": arrival.prompt_tokens,
            "output_len": arrival.output_tokens,
            # Of its own it asks for usage, and for ignore_eos only with a field that older versions lack.
            "extra_body": {"min_tokens": arrival.output_tokens, "ignore_eos": True, **self._body},
        }
        return self._input(**fields)

    async def send(self, payload: Any, arrival: Arrival, began: float) -> Answer:
        """See Client; only a cancel is raised."""
        answer = Answer(arrival, sent=time.perf_counter() - began)
        try:
            output = await asyncio.wait_for(self._request(payload, session=self._session), self._timeout)
            self._read_output(output, answer, began)
        except asyncio.TimeoutError:
            self._fail(answer, "timeout", f"no whole answer within {self._timeout:g} s")
        except Exception as error:  # its own failures are in its output
            self._fail(answer, "bad_answer", f"{type(error).__name__}: {error}")
        answer.ended = time.perf_counter() - began
        return answer

    def _read_output(self, output: Any, answer: Answer, began: float) -> None:
        if getattr(output, "start_time", 0.0):
            answer.sent = output.start_time - began
        if not output.success:
            self._fail(answer, *_failure(output.error))
            return
        gaps = itertools.accumulate(output.itl, initial=output.ttft)
        answer.pieces = [answer.sent + after for after in gaps]
        if not output.output_tokens:
            self._fail(answer, "ended_early", "the stream ended without the engine's count of tokens")
            return
        answer.prompt_tokens, answer.output_tokens = output.prompt_len, output.output_tokens


def _failure(told: str) -> tuple[str, str]:
    """Kind and text of what vLLM's function says: the trace of an exception, a reason phrase, or a sentence."""
    last = told.strip().rpartition("\n")[2]
    if not told.startswith("Traceback"):
        return ("empty" if told.startswith("Never received") else "http_error"), told or "no reason given"
    raised = last.partition(":")[0].rpartition(".")[2]
    return _KINDS.get(raised, "connection"), last


def _library() -> ModuleType:
    try:
        library = importlib.import_module(MODULE)
    except ImportError as error:
        raise EndpointError(
            f"vLLM's client cannot be imported here: {error} (install vllm beside the client, or use --client own)"
        ) from error
    lacks = [name for name in (_FUNCTION, _INPUT) if not hasattr(library, name)]
    if not lacks:
        fields = {field.name for field in dataclasses.fields(getattr(library, _INPUT))}
        taken = inspect.signature(getattr(library, _FUNCTION)).parameters
        lacks = sorted({"prompt", "api_url", "prompt_len", "output_len", "model", "extra_body"} - fields)
        lacks += [] if "session" in taken else ["session"]
    if lacks:
        raise EndpointError(f"{MODULE} lacks {', '.join(lacks)} in this version of vLLM (use --client own)")
    return library
