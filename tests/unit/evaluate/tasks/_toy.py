"""A model whose likelihoods are known: tokens are characters, each with its own log-probability."""

from __future__ import annotations

from collections.abc import Sequence

from autoround.evaluate.tasks.model import Likelihood, OnAnswer, Request


class ToyTaskModel:
    """Finds every character as likely as its code says, whatever comes before it."""

    engine = "toy 1"
    max_length = 200
    prefix_token = 0

    def __init__(self) -> None:
        self.truncated = 0
        self.closed = False

    def encode(self, text: str, *, special: bool) -> list[int]:
        return [*([1] if special else []), *map(ord, text)]

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(map(chr, ids))

    def score(
        self, requests: Sequence[Request], *, on_answer: OnAnswer | None = None
    ) -> list[Likelihood]:
        if on_answer is not None:
            on_answer(len(requests), len(requests))
        return [Likelihood(-sum(r.continuation) / 100, greedy=False) for r in requests]

    def generate(self, ids: Sequence[int], *, until: Sequence[str], max_new_tokens: int) -> str:
        return f"{len(ids)} {list(until)} {max_new_tokens}"

    def close(self) -> None:
        self.closed = True
