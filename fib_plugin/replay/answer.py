"""Answer: what one request came to, with its times. The client makes them, the summary reads them."""

from __future__ import annotations

from dataclasses import dataclass, field

from fib_plugin.replay.arrivals import Arrival


@dataclass(slots=True)
class Answer:
    """One request that was sent.

    Args:
        arrival: what was to be sent.
        sent: seconds since the replay began.
        pieces: seconds since the replay began, of every piece of output. An engine may send several tokens in a piece.
        ended: when the last byte came, or the failure.
        prompt_tokens: as the engine counted them; None if it does not say.
        output_tokens: the same.
        failure: what kind of failure it was; None if the whole answer came.
    """

    arrival: Arrival
    sent: float
    pieces: list[float] = field(default_factory=list)
    ended: float = 0.0
    prompt_tokens: int | None = None
    output_tokens: int | None = None
    failure: str | None = None

    @property
    def late(self) -> float:
        """Seconds that it left after its time."""
        return max(0.0, self.sent - self.arrival.at)

    @property
    def ttft(self) -> float:
        """Seconds to the first piece of output; only of an answer that did not fail."""
        return self.pieces[0] - self.sent

    @property
    def gaps(self) -> list[float]:
        """Seconds between pieces of output."""
        return [after - before for before, after in zip(self.pieces, self.pieces[1:], strict=False)]

    @property
    def generated(self) -> int:
        """Output tokens; as many as pieces where the engine does not count them."""
        return len(self.pieces) if self.output_tokens is None else self.output_tokens

    @property
    def as_asked(self) -> bool:
        """Whether the engine took and made as many tokens as the trace has."""
        took = self.arrival.prompt_tokens if self.prompt_tokens is None else self.prompt_tokens
        return took == self.arrival.prompt_tokens and self.generated == self.arrival.output_tokens
