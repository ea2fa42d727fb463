from __future__ import annotations

from autoround.model.skeleton import adopt_model
from autoround.resume.fingerprint import differences, fingerprint, machine_facts

from ...runs import make_prepared
from ...tiny import make_model, token_ids


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
