from __future__ import annotations

from autoround.evaluate.tasks.model import Request, encode_pair, shorten

from ._toy import ToyTaskModel


def ids(text: str) -> tuple[int, ...]:
    return tuple(map(ord, text))


def test_spaces_at_the_end_of_a_context_go_to_the_continuation() -> None:
    model = ToyTaskModel()
    assert encode_pair(model, "ab ", "cd") == Request((1, *ids("ab")), ids(" cd"))
    assert encode_pair(model, "ab", " cd") == Request((1, *ids("ab")), ids(" cd"))


def test_a_text_without_a_context_follows_the_token_that_begins_one() -> None:
    model = ToyTaskModel()
    assert encode_pair(model, "", "ab") == Request((0,), ids("ab"))
    # A text that begins with that token has it already.
    assert encode_pair(model, "", "\0ab") == Request((0,), ids("ab"))
    assert encode_pair(model, "", "") == Request((0,), ())
    assert encode_pair(model, "  ", "ab") == Request((1,), ids("  ab"))


def test_long_requests_lose_their_beginning() -> None:
    request = Request((1, 2, 3), (4, 5))
    assert shorten(request, 4) == ([1, 2, 3, 4], False)
    assert shorten(request, 3) == ([2, 3, 4], True)
