"""Which decoder blocks the words of a rule mean."""

from __future__ import annotations

import pytest

from autoround.recipe.ranges import Blocks, check_blocks, chosen, parse_blocks


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("0", Blocks(0, 0)),
        ("7", Blocks(7, 7)),
        ("2-5", Blocks(2, 5)),
        ("3-3", Blocks(3, 3)),
        ("first 2", Blocks(2, 2, "first")),
        ("last 1/8", Blocks(1, 1, "last", 8)),
        ("first 3/3", Blocks(3, 3, "first", 3)),
        ("every 4", Blocks(every=4)),
    ],
)
def test_every_form_is_read(text: str, meant: Blocks) -> None:
    assert parse_blocks(text) == meant


@pytest.mark.parametrize("count", [1, 2, 7, 8, 30])
def test_shares_of_both_ends_are_as_many_and_apart(count: int) -> None:
    for share in (1, 2, 4):
        first, last = (chosen([f"{end} {share}/8"], count) for end in ("first", "last"))
        assert len(first) == len(last) == max(1, count * share // 8)
        assert min(first) == 0
        assert max(last) == count - 1
        assert first == {count - 1 - number for number in last}


@pytest.mark.parametrize("step", [1, 2, 3, 9])
def test_every_nth_is_counted_from_the_start(step: int) -> None:
    assert chosen([f"every {step}"], 8) == {n for n in range(8) if (n + 1) % step == 0}


def test_forms_add_up_and_what_is_not_there_is_left_out() -> None:
    assert chosen(["0-1", 5, "last 1", "90-99"], 7) == {0, 1, 5, 6}
    assert chosen(["90-99", "all"], 3) == {0, 1, 2}
    assert chosen(["first 9"], 0) == frozenset()


@pytest.mark.parametrize("value", ["all", 3, "last 2", (0, "2-3", "all"), ()])
def test_what_names_blocks_is_passed_on(value: int | str | tuple[int | str, ...]) -> None:
    assert check_blocks(value) == value


@pytest.mark.parametrize("value", [-1, "some", ("0", "last 0"), "5-2", "first 9/8"])
def test_what_means_none_is_refused(value: int | str | tuple[int | str, ...]) -> None:
    with pytest.raises(ValueError, match="none of these|no block|ends before it begins"):
        check_blocks(value)
