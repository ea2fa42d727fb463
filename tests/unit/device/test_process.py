from __future__ import annotations

import pytest
import torch

from autoround.device.process import use_deterministic, use_threads


def test_threads_are_put_back_after_an_error() -> None:
    before = torch.get_num_threads()
    seen = []

    def fail() -> None:
        with use_threads(before + 1):
            seen.append(torch.get_num_threads())
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert (seen, torch.get_num_threads()) == ([before + 1], before)


def test_deterministic_algorithms_are_put_back_after_an_error() -> None:
    target, both = torch.zeros(4), torch.tensor([1, 1])
    target.put_(both, torch.ones(2))

    def put() -> None:
        # An operation that has no deterministic algorithm, on a CPU either.
        with use_deterministic(True):
            target.put_(both, torch.ones(2))

    with pytest.raises(RuntimeError, match="deterministic"):
        put()
    assert not torch.are_deterministic_algorithms_enabled()


def test_what_the_caller_had_chosen_stays() -> None:
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        with use_deterministic(False):
            assert torch.are_deterministic_algorithms_enabled()
        with use_deterministic(True):
            assert not torch.is_deterministic_algorithms_warn_only_enabled()
        assert torch.are_deterministic_algorithms_enabled()
        assert torch.is_deterministic_algorithms_warn_only_enabled()
    finally:
        torch.use_deterministic_algorithms(False)
