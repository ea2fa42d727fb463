"""Token lists are laid out as one tensor, padded on the right."""

from __future__ import annotations

import pytest
import torch

from autoround.data.tokens import Tokens, build_tokens


def test_samples_are_padded_on_the_right_and_their_lengths_kept() -> None:
    found = build_tokens([[5, 6, 7], [8], [9, 10]], seqlen=4, pad_id=2, description="some")
    assert found.ids.tolist() == [[5, 6, 7, 2], [8, 2, 2, 2], [9, 10, 2, 2]]
    assert found.ids.dtype == found.lengths.dtype == torch.int64
    assert found.lengths.tolist() == [3, 1, 2]
    assert (found.description, found.media) == ("some", ())


def test_the_mask_is_by_length_and_not_by_the_pad_id() -> None:
    found = build_tokens([[2, 2, 5], [2]], seqlen=3, pad_id=2, description="")
    assert found.mask.tolist() == [[True, True, True], [True, False, False]]
    assert found.padded


def test_whole_samples_are_not_padded() -> None:
    found = build_tokens([[1, 2], [3, 4]], seqlen=2, pad_id=0, description="")
    assert not found.padded
    assert found.mask.all()


def test_a_sample_that_is_too_long_has_no_place() -> None:
    with pytest.raises(RuntimeError, match="size"):
        build_tokens([[1, 2, 3]], seqlen=2, pad_id=0, description="")


def test_sets_of_tokens_are_told_apart_by_identity() -> None:
    """Tensors have no truth value, so equal sets are not compared."""
    ids = torch.ones(1, 2, dtype=torch.int64)
    one, other = (Tokens(ids, torch.tensor([2]), "") for _ in range(2))
    assert one != other
    assert one == one
