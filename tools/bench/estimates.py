"""Estimate against actual: what plan and plan --probe say of small runs, beside the runs.

For each case a probe and the run itself take turns, in processes of their own. Seconds are those
of the processor, in which others on the machine have no share; with one thread they are those of an
idle machine. Prints a table for docs/benchmarks.md:

    OMP_NUM_THREADS=1 python tools/bench/estimates.py [CASE ...]
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Case:
    """A run: a recipe, values on top of it, and the config of a random model.

    config: of transformers; None for the embedded model.
    """

    recipe: str
    values: Mapping[str, object] = field(default_factory=dict)
    config: Mapping[str, object] | None = None


SIX = {
    "model_type": "llama",
    "hidden_size": 384,
    "intermediate_size": 1536,
    "num_hidden_layers": 6,
    "num_attention_heads": 6,
    "num_key_value_heads": 6,
    "vocab_size": 1024,
}
MIXTURE = {
    "model_type": "mixtral",
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "num_local_experts": 8,
    "vocab_size": 1024,
}
SHORT = {
    "tuning.iters": 20,
    "tuning.batch_size": 4,
    "tuning.validation_samples": 4,
    "calibration.nsamples": 32,
    "calibration.seqlen": 64,
}
LITTLE = {**SHORT, "tuning.iters": 10, "calibration.nsamples": 16}

CASES = {
    "SmolLM2-135M, demo with 10 steps": Case("demo", LITTLE),
    "SmolLM2-135M, rtn": Case("rtn", {"scheme.group_size": 64}),
    "SmolLM2-135M, rtn to gguf:q4_0": Case("rtn", {"output.format": "gguf:q4_0"}),
    "llama of 6 blocks, light with 20 steps": Case("light", SHORT, SIX),
    "llama of 6 blocks, light with 60 steps": Case("light", {**SHORT, "tuning.iters": 60}, SIX),
    "llama of 6 blocks, 2 bits and 10 steps end to end": Case(
        "w2", {**SHORT, "end_to_end.steps": 10, "end_to_end.batch_size": 4}, SIX
    ),
    "llama of 6 blocks, opt-rtn": Case("opt-rtn", {"calibration.nsamples": 32}, SIX),
    "mixture of 8 experts, light with 20 steps": Case("light", SHORT, MIXTURE),
    "mixture of 8 experts, opt-rtn": Case("opt-rtn", {"calibration.nsamples": 32}, MIXTURE),
    "two passes: auto_round and gguf:q4_k_m": Case(
        "light", {**LITTLE, "output.format": ["auto_round", "gguf:q4_k_m"]}, SIX
    ),
}


def main() -> None:
    """Measure the cases that are named, or all, and print their rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cases", nargs="*", help="words that the names of cases contain")
    parser.add_argument("--worker", choices=("probe", "run"), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        work = probe_case if arguments.worker == "probe" else run_case
        print(json.dumps(work(CASES[arguments.cases[0]], arguments.folder)))
        return
    print("| run | size | memory | plan | probe | took | actual | probe / actual | wall |")
    print("|---|---|---|---|---|---|---|---|---|", flush=True)
    for name in CASES:
        if not arguments.cases or any(word in name for word in arguments.cases):
            print(measure(name), flush=True)


def measure(name: str) -> str:
    """Let a probe, the run and another probe take turns; returns the row of a case."""
    with tempfile.TemporaryDirectory() as folder:
        before, run, after = (_start(name, part, folder) for part in ("probe", "run", "probe"))
    probe = (before["probed"] + after["probed"]) / 2
    size = (
        "exact"
        if run["tensors"] == before["disk_bytes"]
        else (f"{before['disk_bytes'] / run['tensors']:.4f}")
    )
    return (
        f"| {name} | {size} | {before['memory_bytes'] / 1e9:.2f} / {run['peak'] / 1e9:.2f} GB "
        f"| {before['low']:.0f} to {before['high']:.0f} s | {before['probed']:.1f}, "
        f"{after['probed']:.1f} s | {before['took']:.1f} s | {run['seconds']:.1f} s "
        f"| {probe / run['seconds']:.2f} | {run['wall']:.1f} s |"
    )


def _start(name: str, part: str, folder: str) -> dict[str, Any]:
    """Run a worker; returns what it measured."""
    command = [sys.executable, __file__, name, "--worker", part, "--folder", folder]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    measured: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return measured


def probe_case(case: Case, folder: Path) -> dict[str, float]:
    """Plan and probe a case."""
    from autoround.events import ignore
    from autoround.preparation import prepare
    from autoround.time_probe import probe_time

    prepared = prepare(_request(case, folder), sink=ignore)
    started = time.process_time()
    probed = probe_time(prepared, clock=time.process_time).estimate.probed
    took = time.process_time() - started
    plain = prepared.estimate
    return {
        "disk_bytes": plain.disk_bytes,
        "memory_bytes": plain.memory_bytes,
        "low": plain.seconds_low,
        "high": plain.seconds_high,
        "probed": sum(seconds for _, seconds in probed),
        "took": took,
    }


def run_case(case: Case, folder: Path) -> dict[str, float]:
    """Run a case, and measure it from its first block to its complete folder."""
    from autoround.events import Event, Finished, StageStarted
    from autoround.pipeline import run

    marks: list[tuple[float, float]] = []

    def note(event: Event) -> None:
        begins = isinstance(event, StageStarted) and event.stage == "tune"
        if begins or isinstance(event, Finished):
            marks.append((time.process_time(), time.perf_counter()))

    out = folder / "out"
    run(_request(case, folder), out, sink=note)
    (cpu, wall), (cpu_end, wall_end) = marks[0], marks[-1]
    return {
        "seconds": cpu_end - cpu,
        "wall": wall_end - wall,
        "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "tensors": sum(_tensor_bytes(file) for file in out.rglob("*")),
    }


def _tensor_bytes(file: Path) -> int:
    """Return the bytes of the tensors of a file of weights; 0 for another file."""
    if file.suffix == ".gguf":
        from gguf import GGUFReader

        return sum(int(tensor.n_bytes) for tensor in GGUFReader(file).tensors)
    if file.suffix != ".safetensors":
        return 0
    header = int.from_bytes(file.open("rb").read(8), "little")
    return file.stat().st_size - 8 - header


def _request(case: Case, folder: Path) -> Any:
    """Resolve a case; its random model is made once."""
    from autoround.recipe.load import load_recipe
    from autoround.request import make_request

    recipe = load_recipe(case.recipe, values=dict(case.values))
    if case.config is None:
        return make_request(None, recipe, device="cpu")
    import torch

    config = dict(case.config)
    model = folder / "model"
    if not model.exists():
        _make_model(config, model)
    seqlen = recipe.calibration.seqlen
    ids = torch.randint(0, int(str(config["vocab_size"])), (recipe.calibration.nsamples, seqlen))
    return make_request(str(model), recipe, device="cpu", data=ids)


def _make_model(config: dict[str, object], folder: Path) -> None:
    """Write a model of random weights."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    kind = str(config.pop("model_type"))
    built = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **config))
    built.to(torch.bfloat16).save_pretrained(folder)


if __name__ == "__main__":
    main()
