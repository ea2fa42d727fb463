from __future__ import annotations

import inspect
from typing import Any

import pytest

import autoround
from autoround.calls import CallError, explain_calls
from autoround.errors import UsageError


@explain_calls
def function(first: int, second: str = "", *, third: bool, fourth: object = None) -> object:
    """Do it."""
    return first, second, third, fourth


def test_a_right_call_is_as_before() -> None:
    assert function(1, third=True) == (1, "", True, None)
    assert function.__doc__ == "Do it."
    assert list(inspect.signature(function).parameters) == ["first", "second", "third", "fourth"]


@pytest.mark.parametrize(
    ("arguments", "named", "part"),
    [
        ((1,), {}, "function() lacks third"),
        ((), {"third": True}, "function() lacks first"),
        ((1, "x", True), {"third": True}, "first, second without their names"),
        ((1, "x", 7), {"third": True}, "write NAME=7"),
        ((1,), {"first": 2, "third": True}, "function() has two values for first"),
        ((1,), {"third": True, "fouth": 1}, "no argument 'fouth'; did you mean 'fourth'?"),
        ((1,), {"third": True, "bits": 4}, "of the recipe, scheme.bits, or of AutoRound(model"),
        ((1,), {"third": True, "act_bits": 4}, "of auto-round's: weights are quantized"),
    ],
)
def test_slips(arguments: tuple[Any, ...], named: dict[str, Any], part: str) -> None:
    with pytest.raises(CallError) as caught:
        function(*arguments, **named)
    assert part in str(caught.value)
    assert "Arguments of function(): first, second, third, fourth" in str(caught.value)
    # Who catches Python's own error, or the program's for usage, catches it too.
    assert isinstance(caught.value, TypeError)
    assert isinstance(caught.value, UsageError)


def test_errors_inside_are_left_alone() -> None:
    @explain_calls
    def failing() -> None:
        raise TypeError("inside")

    with pytest.raises(TypeError, match="inside") as caught:
        failing()
    assert not isinstance(caught.value, CallError)


PUBLIC: Any = autoround


@pytest.mark.parametrize(
    ("call", "part"),
    [
        (lambda: PUBLIC.AutoRound("model", "light"), "recipe='light'"),
        (lambda: PUBLIC.AutoRound("model", None, 4), "write NAME=4"),
        (lambda: PUBLIC.AutoRound("model", bitz=4), "did you mean 'bits'?"),
        (lambda: PUBLIC.AutoRound("model", nsample=4), "it is nsamples here"),
        (lambda: PUBLIC.AutoRound(4).quantize(), "model is 4 (a int), and can be a folder"),
        (lambda: PUBLIC.AutoRound("m", recipe={"bits": 4}), "recipe is a dict"),
        (
            lambda: PUBLIC.AutoRound("m", low_memory=True, low_gpu_mem_usage=False),
            "low_memory and low_gpu_mem_usage are one option",
        ),
        (lambda: PUBLIC.AutoRound("m", device="cpu", device_map=0), "are one option"),
        (lambda: PUBLIC.AutoRound("m").quantize_and_save(), "lacks output_dir"),
        (lambda: PUBLIC.AutoRound("m").quantize_and_save(None), "output_dir is None: name the"),
        (lambda: PUBLIC.quantize("m", bits=4), "AutoRound(model, bits=...)"),
        (lambda: PUBLIC.quantize("m", output_dir=None), "output_dir is None: name the folder"),
        (lambda: PUBLIC.quantize("m", output_dir=4), "output_dir is 4 (a int)"),
        (lambda: PUBLIC.quantize("m", {"bits": 4}, output_dir="x"), "recipe is {'bits': 4}"),
        (lambda: PUBLIC.plan("m", device=[0]), "device is [0] (a list)"),
        (lambda: PUBLIC.plan("m", tokenizer="gpt2"), "tokenizer is 'gpt2' (a str)"),
    ],
)
def test_slips_with_the_public_names(call: Any, part: str) -> None:
    with pytest.raises(UsageError) as caught:
        call()
    assert part in str(caught.value)
