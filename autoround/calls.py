"""Slips in calls from Python, answered as the command line answers them.

Python's own TypeErrors name a parameter that is not there, and neither what is nor what was meant.
"""

from __future__ import annotations

import difflib
import functools
import inspect
from collections.abc import Callable
from typing import Any, TypeVar

from autoround.errors import UsageError
from autoround.recipe.auto_round_flags import our_word
from autoround.recipe.flags import RUN_ALIASES, RUN_FLAGS

_Called = TypeVar("_Called", bound=Callable[..., Any])
#: The class that takes what the table of flags has.
_CLASS = "AutoRound"


class CallError(UsageError, TypeError):
    """A call with arguments that a function does not have, or without one that it needs."""


def explain_calls(called: _Called) -> _Called:
    """Make a function, or the making of an object, answer wrong arguments with a CallError.

    Args:
        called: a function, a method, or a class, whose ``__init__`` is then the function.

    Returns:
        The same with the same signature.
    """
    if isinstance(called, type):
        called.__init__ = _check_calls_of(called.__init__, called.__name__)  # type: ignore[misc]
        return called
    wrapped: Any = _check_calls_of(called, called.__name__)
    return wrapped  # type: ignore[no-any-return]


def _check_calls_of(function: Callable[..., Any], name: str) -> Callable[..., Any]:
    signature = inspect.signature(function)

    @functools.wraps(function)
    def call(*arguments: Any, **named: Any) -> Any:
        try:
            signature.bind(*arguments, **named)
        except TypeError:
            raise CallError(_explain(name, signature, arguments, named)) from None
        return function(*arguments, **named)

    return call


def _explain(
    name: str, signature: inspect.Signature, arguments: tuple[Any, ...], named: dict[str, Any]
) -> str:
    """Say what is wrong with the arguments of a call, and what would be legal."""
    parameters = list(signature.parameters.values())
    if parameters and parameters[0].name == "self":
        parameters, arguments = parameters[1:], arguments[1:]
    legal = [parameter.name for parameter in parameters]
    places = [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
    problems = [_unknown(name, word, legal) for word in named if word not in legal]
    extra = arguments[len(places) :]
    if extra:
        problems.append(
            f"{name}() takes {', '.join(places)} without their names, and what follows by name: "
            f"write NAME={repr(extra[0])[:40]}"
        )
    problems += [
        f"{name}() has two values for {word}" for word in places[: len(arguments)] if word in named
    ]
    filled = {*places[: len(arguments)], *named}
    problems += [
        f"{name}() lacks {p.name}"
        for p in parameters
        if p.default is p.empty and p.name not in filled
    ]
    return f"{'; '.join(problems)}. Arguments of {name}(): {', '.join(legal)}"


def _unknown(name: str, word: str, legal: list[str]) -> str:
    """Say that there is no such argument, and what was meant."""
    start = f"{name}() has no argument {word!r}"
    for flag in RUN_FLAGS:
        if word == flag.name and name != _CLASS:
            where = f"of the recipe, {flag.key}, or of {_CLASS}(model, {word}=...)"
            return f"{start}: it is {where}"
        if word in flag.aliases and flag.name in legal:
            return f"{start}: it is {flag.name} here"
    for argument, aliases in RUN_ALIASES.items():
        if word in aliases and argument in legal:
            return f"{start}: it is {argument} here"
    words = our_word(word)
    if words:
        return f"{start} of auto-round's: {words}"
    close = difflib.get_close_matches(word, legal, n=1)
    return f"{start}; did you mean {close[0]!r}?" if close else start
