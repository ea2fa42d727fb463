"""What tasks ask of a model: tokens of texts, likelihoods of continuations, continuations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol, TypeAlias

#: Is told how many requests are answered, of how many.
OnAnswer: TypeAlias = Callable[[int, int], None]


class Request(NamedTuple):
    """A continuation whose likelihood is asked for; ids of both, the continuation's not empty."""

    context: tuple[int, ...]
    continuation: tuple[int, ...]


class Likelihood(NamedTuple):
    """log_prob: of a continuation, in nats. greedy: each of its tokens is the most likely one."""

    log_prob: float
    greedy: bool


class TaskModel(Protocol):
    """A language model as tasks see it, whatever program runs it.

    engine: the program, with its version. max_length: tokens that it takes at most. prefix_token:
    stands where a text has no context. truncated: requests so far that were cut to max_length.
    """

    @property
    def engine(self) -> str:
        """The program."""
        ...

    @property
    def max_length(self) -> int:
        """Tokens at most."""
        ...

    @property
    def prefix_token(self) -> int:
        """Id in place of a context."""
        ...

    @property
    def truncated(self) -> int:
        """Requests that were cut."""
        ...

    def encode(self, text: str, *, special: bool) -> list[int]:
        """Return the ids of a text, led by those that a text begins with where special is true."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ids."""
        ...

    def score(
        self, requests: Sequence[Request], *, on_answer: OnAnswer | None = None
    ) -> list[Likelihood]:
        """Return the likelihood of each continuation, in the order of the requests."""
        ...

    def generate(self, ids: Sequence[int], *, until: Sequence[str], max_new_tokens: int) -> str:
        """Return the most likely continuation, up to the first of some texts."""
        ...

    def close(self) -> None:
        """Let go of what runs the model."""
        ...


class LimitedContext:
    """The tokens that a model takes, and how many requests were cut to them."""

    def __init__(self, max_length: int) -> None:
        self._max_length, self._truncated = max_length, 0

    @property
    def max_length(self) -> int:
        """Tokens that it takes at most."""
        return self._max_length

    @property
    def truncated(self) -> int:
        """Requests that were cut."""
        return self._truncated

    def shorten(self, request: Request) -> list[int]:
        """Return the ids that the model is run on, and count the request where some were cut off.

        Args:
            request: whose continuation is scored.
        """
        ids, cut = shorten(request, self._max_length)
        self._truncated += cut
        return ids

    def leave_room(self, ids: Sequence[int], new_tokens: int) -> list[int]:
        """Return the last ids of a prompt, and count it where the first ones leave no room.

        Args:
            ids: of the prompt.
            new_tokens: that are to follow it.
        """
        room = max(self._max_length - new_tokens, 1)
        self._truncated += len(ids) > room
        return list(ids)[-room:]


def encode_pair(model: TaskModel, context: str, continuation: str) -> Request:
    """Cut a context and its continuation into tokens, as lm-eval does.

    Spaces at the end of the context go to the continuation, and both are cut as one text: most
    tokenizers join a space with the word behind it.

    Args:
        model: whose tokenizer it is.
        context: what the continuation follows.
        continuation: at least one token long.
    """
    if not context:
        ids = model.encode(continuation, special=False)
        if len(ids) > 1 and ids[0] == model.prefix_token:
            return Request(tuple(ids[:1]), tuple(ids[1:]))
        return Request((model.prefix_token,), tuple(ids))
    kept = context.rstrip()
    whole = model.encode(context + continuation, special=True)
    before = model.encode(kept, special=True) if kept else []
    # A context of spaces alone: all but the first token is the continuation.
    cut = len(before) or 1
    return Request(tuple(whole[:cut]) if not before else tuple(before), tuple(whole[cut:]))


def shorten(request: Request, max_length: int) -> tuple[list[int], bool]:
    """Return the ids that a model is run on: all but the last, cut from the left if need be.

    Args:
        request: whose continuation is scored.
        max_length: tokens that the model takes.

    Returns:
        The ids, and whether some were cut off.
    """
    ids = [*request.context, *request.continuation]
    return ids[-(max_length + 1) :][:-1], len(ids) > max_length + 1
