"""What one forward pass shows: routers by role, weights that are read, blocks that run again."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from autoround.model.probe.observe import observe

from ._toys import HRM, JAMBA, copy_of

CHOOSING: list[tuple[str, dict[str, Any], str, set[str]]] = [
    ("llama", {}, "model.layers.0", set()),
    ("mixtral", {}, "model.layers.0", {"mlp.gate"}),
    # A row for each key and value head, as many as experts: no router.
    ("qwen3_next", {"num_hidden_layers": 4}, "model.layers.3", {"mlp.gate"}),
    # The experts of attention have a router of their own; kv_proj beside them is none.
    ("jetmoe", {}, "model.layers.0", {"mlp.router.layer", "self_attention.experts.router.layer"}),
    # A bias corrects the choice; it is no matrix.
    ("deepseek_v3", {"first_k_dense_replace": 0}, "model.layers.0", {"mlp.gate"}),
]


@pytest.mark.parametrize(("kind", "options", "block", "wanted"), CHOOSING)
def test_routers_are_what_reaches_the_top_k(
    kind: str, options: dict[str, Any], block: str, wanted: set[str]
) -> None:
    choosing = observe(copy_of(kind, **options)).choosing
    inside = {name.removeprefix(f"{block}.") for name in choosing if name.startswith(f"{block}.")}
    assert inside == wanted


def test_what_chooses_tokens_alone_is_found_beside_attention() -> None:
    choosing = observe(copy_of("deepseek_v32", num_hidden_layers=2)).choosing
    inside = {name.split("self_attn.")[-1] for name in choosing if "self_attn" in name}
    assert inside == {"indexer.weights_proj", "indexer.wk", "indexer.wq_b"}


def test_weights_that_other_code_reads_are_found() -> None:
    read = observe(copy_of("jamba", **JAMBA)).read
    assert {name.rpartition(".")[2] for name in read} == {"dt_proj"}
    assert not observe(copy_of("llama")).read


def test_blocks_that_run_again_are_counted() -> None:
    runs = observe(copy_of("hrm_text", **HRM)).runs
    assert max(runs.values()) > 1
    assert set(observe(copy_of("llama")).runs.values()) == {1}


def test_the_copy_is_left_as_it_was() -> None:
    copy = copy_of("mixtral")
    ids = copy.batch(2, 6, seed=4)
    with torch.no_grad():
        before = copy.model(input_ids=ids, use_cache=False).logits
        observe(copy)
        after = copy.model(input_ids=ids, use_cache=False).logits
    assert torch.equal(before, after)
