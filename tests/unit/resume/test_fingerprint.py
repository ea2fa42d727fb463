"""What must be the same for a run to go on, and what is said where it is not."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from autoround.data.tokens import Tokens
from autoround.model.skeleton import Skeleton, adopt_model, open_model
from autoround.resume.fingerprint import (
    differences,
    fingerprint,
    machine_facts,
    model_digests,
    plan_values,
    tokens_digest,
)
from autoround.session.session import Session

from ...runs import make_prepared, make_session
from ...tiny import make_model, token_ids

IDS = token_ids(4, 16)
TOKENS = Tokens(IDS, torch.full((4,), 16), "some")


def job(values: dict[str, object] | None = None, *, seed: int = 0) -> Session:
    return make_session(make_model("llama", seed=seed), values, data=IDS)


def print_of(session: Session) -> dict[str, Any]:
    return fingerprint(session.plan, session.skeleton, session.tokens)


def test_it_is_json_and_the_same_for_the_same_run() -> None:
    first = print_of(job())
    assert json.loads(json.dumps(first)) == first
    assert print_of(job()) == first
    assert differences(first, print_of(job())) == []


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"tuning.iters": 5}, "recipe.tuning.iters: 4 then, 5 now"),
        ({"seed": 7}, "recipe.seed: 42 then, 7 now"),
        ({"ignore": ["q_proj"]}, "recipe.ignore: [] then, ['q_proj'] now"),
        ({"tuning.compute_dtype": "bfloat16"}, "compute dtype: float32 then, bfloat16 now"),
    ],
)
def test_what_the_recipe_says_is_told_by_its_key(values: dict[str, object], words: str) -> None:
    found = differences(print_of(job()), print_of(job(values)))
    assert any(words in line or line == words for line in found), found
    # That the plan differs as well goes without saying.
    assert not any(line.startswith("plan: ") for line in found)


def test_what_engines_do_with_the_result_is_no_part_of_a_run() -> None:
    session = job()
    assert session.plan.serving
    other = replace(session.plan, serving=())
    assert print_of(session) == fingerprint(other, session.skeleton, session.tokens)
    further = replace(session.plan, further=(session.plan,))
    values = plan_values(further)
    assert "serving" not in values
    assert "serving" not in values["further"][0]
    assert values["outputs"] == plan_values(other)["outputs"]


def test_a_plan_that_differs_alone_is_told() -> None:
    session = job()
    other = replace(session.plan, blocks=session.plan.blocks[:1])
    found = differences(print_of(session), fingerprint(other, session.skeleton, session.tokens))
    assert len(found) == 1
    assert found[0].startswith("plan: ")
    further = replace(session.plan, further=(other,))
    assert differences(print_of(session), fingerprint(further, session.skeleton, session.tokens))


def test_keys_that_one_of_them_lacks_are_told_in_words() -> None:
    found = differences({"a": {"b": 1}, "c": 2}, {"a": {"d": 3}, "c": 2})
    assert found == ["a.b: 1 then, nothing now", "a.d: nothing then, 3 now"]
    assert differences({"a": None}, {}) == []


def test_other_tokens_lengths_and_images_have_other_sums() -> None:
    pixels = {"pixels": torch.randn(1, 3), "grid": torch.ones(1, 2)}
    others = [
        TOKENS,
        replace(TOKENS, ids=IDS.flip(0)),
        replace(TOKENS, ids=IDS.int()),
        replace(TOKENS, lengths=torch.tensor([16, 16, 16, 15])),
        replace(TOKENS, media=(pixels,) * 4),
        replace(TOKENS, media=({**pixels, "pixels": pixels["pixels"] + 1},) * 4),
        replace(TOKENS, media=(pixels,) * 3),
    ]
    sums = [tokens_digest(tokens) for tokens in others]
    assert len(set(sums)) == len(others)
    assert tokens_digest(replace(TOKENS, description="otherwise")) == sums[0]
    reordered = dict(reversed(pixels.items()))
    assert tokens_digest(replace(TOKENS, media=(reordered,) * 4)) == sums[4]
    assert tokens_digest(None) is None


@pytest.fixture
def folder(checkpoint: Callable[[str], Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(checkpoint("llama"), tmp_path / "model"))


def changed(folder: Path, change: Callable[[], object]) -> set[str]:
    """Return which digests of a model a change makes others."""
    before = model_digests(open_model(folder))
    change()
    after = model_digests(open_model(folder))
    return {key for key in {*before, *after} if before.get(key) != after.get(key)}


def edit(folder: Path, name: str, **entries: object) -> None:
    path = folder / name
    path.write_text(json.dumps({**json.loads(path.read_text()), **entries}))


def alter(folder: Path, name: str, value: torch.Tensor) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors[name] = value
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def test_config_tensors_and_side_files_each_have_a_sum(folder: Path) -> None:
    assert changed(folder, lambda: edit(folder, "config.json", rms_norm_eps=0.5)) == {"config"}
    assert changed(folder, lambda: edit(folder, "tokenizer_config.json", own=1)) == {
        "tokenizer_config.json"
    }
    head = torch.zeros(128, 64)
    assert changed(folder, lambda: alter(folder, "lm_head.weight", head)) == {
        "tensors outside the blocks"
    }
    assert changed(folder, lambda: alter(folder, "mtp.weight", head)) == {"tensors"}
    assert changed(folder, lambda: alter(folder, "lm_head.weight", head.half())) == {
        "tensors",
        "tensors outside the blocks",
    }
    assert changed(folder, lambda: (folder / "LICENSE").write_text("free")) == {"LICENSE"}
    # Blocks are compared when they are read again: reading them all here would take long.
    up = "model.layers.0.mlp.up_proj.weight"
    assert changed(folder, lambda: alter(folder, up, torch.zeros(96, 64))) == set()


def test_a_model_in_memory_has_no_files() -> None:
    skeletons: list[Skeleton] = [adopt_model(make_model("llama", seed=seed)) for seed in (0, 0, 1)]
    one, same, other = map(model_digests, skeletons)
    assert one == same
    assert set(one) == {"config", "tensors", "tensors outside the blocks"}
    assert {key for key in one if one[key] != other[key]} == {"tensors outside the blocks"}


def fingerprint_of(values: dict[str, object]) -> dict[str, object]:
    prepared = make_prepared(adopt_model(make_model("llama")), values, data=token_ids(4, 16))
    return fingerprint(prepared.plan, prepared.request.skeleton, prepared.calibration.tokens)


def test_the_same_request_is_the_same_run() -> None:
    assert differences(fingerprint_of({}), fingerprint_of({})) == []


def test_threads_and_dtype_belong_to_a_run() -> None:
    one = fingerprint_of({"tuning.threads": 1})
    two = fingerprint_of({"tuning.threads": 2, "tuning.compute_dtype": "bfloat16"})
    assert (one["threads"], two["threads"]) == (1, 2)
    assert differences(one, two) == [
        "compute dtype: float32 then, bfloat16 now",
        "threads: 1 then, 2 now",
        "recipe.tuning.compute_dtype: float32 then, bfloat16 now",
        "recipe.tuning.threads: 1 then, 2 now",
    ]


def test_facts_of_the_machine_say_nothing_of_its_load() -> None:
    prepared = make_prepared(adopt_model(make_model("llama")), data=token_ids(4, 16))
    facts = machine_facts(prepared.request.runtime)
    assert facts.keys() == {"processor", "instructions", "operations"}
    assert facts == machine_facts(prepared.request.runtime)
