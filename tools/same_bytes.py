"""Check that this tree and another one write the same bytes: same_bytes.py BASE [--quick].

BASE is a commit, or the folder of another tree. Both quantize the same models by the same recipes
on this machine, one beside the other, and what they wrote is compared bit for bit: every tensor of
safetensors and GGUF files, and every config. Prints one line a job; ends with 1 where any differs.

--quick        the tiny models only, not the embedded one
--only WORD    jobs with that in their name
--device NAME  where to compute (cpu)
--keep FOLDER  leave models, results and logs there
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
WORKER = Path(__file__).resolve().with_name("same_bytes_job.py")
#: Differences of one job that are named; the rest is counted.
NAMED = 5
#: Lines of a failed run's log that are shown.
TAIL = 6
LIMIT_S = 1800

#: What a tensor is compared by: its type and shape as words, and its bytes.
Stored = tuple[str, bytes]


@dataclass(frozen=True)
class Job:
    """One quantization that both trees do.

    model: a name of same_bytes_job.MODELS, or None for the embedded model.
    """

    name: str
    model: str | None
    recipe: str
    values: Mapping[str, object] = field(default_factory=dict)
    samples: int = 8
    length: int = 32
    vocab: int = 96


#: Every job computes in float32: sums in 16 bit differ with the order that threads come in.
COMMON: Mapping[str, object] = {"tuning.compute_dtype": "float32"}
FEW: Mapping[str, object] = {"scheme.group_size": 32, "tuning.iters": 12}


def _tiny(name: str, model: str, recipe: str = "default", **sections: Mapping[str, object]) -> Job:
    """Describe a job on a tiny model; sections are keys of the recipe with their own."""
    values = dict(FEW)
    for section, keys in sections.items():
        values.update({f"{section}.{key}": value for key, value in keys.items()})
    return Job(name, model, recipe, values)


MANY = "auto_round,auto_gptq,compressed-tensors,mlx,fake"
RULES = [
    {"kind": "attention", "bits": 8},
    {"match": "*.down_proj", "bits": 3, "sym": False},
    {"blocks": "1", "kind": "mlp", "group_size": 64},
]
CODES = {"steps": 6, "batch_size": 4, "tune_codes": True}

QUICK: tuple[Job, ...] = (
    _tiny("llama, five formats", "llama", output={"format": MANY}),
    _tiny("llama, rtn", "llama", "rtn", output={"format": "auto_round,gptq_v2"}),
    _tiny("llama, opt-rtn", "llama", "opt-rtn"),
    _tiny("llama, awq", "llama", output={"format": "auto_awq"}, scheme={"sym": False}),
    _tiny("llama, 2 bits end to end", "llama", scheme={"bits": 2}, end_to_end=CODES),
    _tiny("llama, head at 8 bits", "llama", lm_head={"bits": 8}),
    Job("llama, layer rules", "llama", "default", {**FEW, "layers": RULES}),
    _tiny(
        "llama, asymmetric, low memory", "llama", scheme={"sym": False}, tuning={"low_memory": True}
    ),
    _tiny("llama, unquantized inputs", "llama", tuning={"quantized_inputs": False}),
    _tiny(
        "llama, nearest, minmax, fixed clips",
        "llama",
        tuning={
            "init_rounding": "nearest",
            "init_scale": "minmax",
            "tune_minmax": False,
            "num_validations": 2,
            "validation_samples": 4,
        },
    ),
    _tiny("llama, budget of 3 bits", "llama", allocate={"avg_bits": 3.0}),
    _tiny(
        "llama, measured budget",
        "llama",
        allocate={"avg_bits": 4.0, "method": "measured", "iters": 4},
    ),
    _tiny("wide, gguf:q4_k_m", "wide", output={"format": "gguf:q4_k_m"}),
    _tiny("wide, gguf:q4_0 and q2_k_s", "wide", output={"format": "gguf:q4_0,gguf:q2_k_s"}),
    _tiny("mixtral, 32 experts", "mixtral"),
    _tiny("mixtral, budget of 3.5 bits", "mixtral", allocate={"avg_bits": 3.5}),
    _tiny("llava, text", "llava"),
    _tiny("gpt2", "gpt2", output={"format": "auto_round,fake"}),
)
WHOLE = tuple(
    Job(
        f"SmolLM2, {recipe}",
        None,
        recipe,
        {"calibration.nsamples": 8, "calibration.seqlen": 64, "scheme.group_size": 64},
        length=64,
        vocab=49152,
    )
    for recipe in ("rtn", "opt-rtn", "light")
)


@contextmanager
def tree_of(base: str) -> Iterator[Path]:
    """Give the folder of a tree: base itself, or a checkout of the commit that it names."""
    if Path(base).is_dir():
        yield Path(base).resolve()
        return
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "base"
        git = ["git", "-C", str(ROOT), "worktree"]
        subprocess.run([*git, "add", "--detach", "--quiet", str(tree), base], check=True)
        try:
            yield tree
        finally:
            subprocess.run([*git, "remove", "--force", str(tree)], check=True)


def start(tree: Path, arguments: Sequence[str], log: Path) -> subprocess.Popen[bytes]:
    """Start the worker with a tree on its path; what it prints goes to ``log``."""
    environment = {
        **os.environ,
        "PYTHONPATH": f"{tree}{os.pathsep}{tree / 'backends'}",
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
    }
    with log.open("wb") as out:
        return subprocess.Popen(
            [sys.executable, str(WORKER), *arguments],
            env=environment,
            # Not the checkout: it must not be found on the path by chance.
            cwd=log.parent,
            stdout=out,
            stderr=subprocess.STDOUT,
        )


def run_job(job: Job, trees: Mapping[str, Path], work: Path, device: str) -> list[str]:
    """Run a job in every tree at once; returns what differs in what they wrote."""
    running: dict[str, subprocess.Popen[bytes]] = {}
    folder = work / job.name.replace(" ", "_").replace(",", "").replace(":", "_")
    folder.mkdir()
    model = None if job.model is None else str(work / "models" / job.model)
    for side, tree in trees.items():
        asked = {
            "tree": str(tree),
            "model": model,
            "recipe": job.recipe,
            "values": {**COMMON, **job.values},
            "samples": job.samples,
            "length": job.length,
            "vocab": job.vocab,
            "seed": 7,
            "device": device,
            "out": str(folder / side),
        }
        file = folder / f"{side}.json"
        file.write_text(json.dumps(asked, indent=2), encoding="utf-8")
        running[side] = start(tree, ["run", str(file)], folder / f"{side}.log")
    codes = {side: process.wait(timeout=LIMIT_S) for side, process in running.items()}
    failed = [
        f"{side} ends with {code}:\n{tail(folder / f'{side}.log')}"
        for side, code in codes.items()
        if code
    ]
    return failed or differences(folder / "base", folder / "this")


def tail(log: Path) -> str:
    """Return the last lines of a log, indented."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()[-TAIL:]
    return "\n".join(f"    {line}" for line in lines)


def differences(base: Path, other: Path) -> list[str]:
    """Compare what two runs wrote: each tensor by type, shape and bytes, and each config."""
    left, right = contents(base), contents(other)
    if not any(name.partition("#")[2] for name in left):
        return [f"{base} holds no tensor"]
    lines = [f"{name}: only in base" for name in left.keys() - right.keys()]
    lines += [f"{name}: only in this tree" for name in right.keys() - left.keys()]
    for name in left.keys() & right.keys():
        (kind, data), (other_kind, other_data) = left[name], right[name]
        if kind != other_kind:
            lines.append(f"{name}: {kind} is {other_kind} in this tree")
        elif data != other_data:
            unequal = sum(a != b for a, b in zip(data, other_data, strict=False))
            lines.append(f"{name} ({kind}): {unequal} of {len(data)} bytes differ")
    return sorted(lines)


def contents(folder: Path) -> dict[str, Stored]:
    """Read all that is compared: ``file or folder # tensor`` -> type and shape, bytes."""
    read: dict[str, Stored] = {}
    for file in sorted(folder.rglob("*")):
        name = file.relative_to(folder)
        if file.suffix == ".safetensors":
            # By folder: how tensors are spread over shards is not what is asked here.
            tensors = read_safetensors(file)
            read.update({f"{name.parent}#{key}": item for key, item in tensors.items()})
        elif file.suffix == ".gguf":
            read.update({f"{name}#{key}": item for key, item in read_gguf(file).items()})
        elif file.suffix == ".json" and "config" in file.stem:
            read[str(name)] = ("config", file.read_bytes())
    return read


def read_safetensors(file: Path) -> dict[str, Stored]:
    """Read a safetensors file without torch: some types of it numpy does not have."""
    data = file.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    header: dict[str, Any] = json.loads(data[8:start])
    tensors: dict[str, Stored] = {}
    for key, entry in header.items():
        if key != "__metadata__":
            first, last = entry["data_offsets"]
            words = f"{entry['dtype']} {entry['shape']}"
            tensors[key] = (words, data[start + first : start + last])
    return tensors


def read_gguf(file: Path) -> dict[str, Stored]:
    """Read the tensors of a GGUF file by its reference reader."""
    from gguf import GGUFReader

    return {
        tensor.name: (
            f"{tensor.tensor_type.name} {[int(n) for n in tensor.shape]}",
            tensor.data.tobytes(),
        )
        for tensor in GGUFReader(file).tensors
    }


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("base", metavar="BASE")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", default="", metavar="WORD")
    parser.add_argument("--device", default="cpu", metavar="NAME")
    parser.add_argument("--keep", type=Path, metavar="FOLDER")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str]) -> int:
    """Run the jobs and print one line for each; returns the exit code."""
    options = parse(arguments)
    jobs = [x for x in (QUICK if options.quick else WHOLE + QUICK) if options.only in x.name]
    if not jobs:
        print(f"same_bytes: no job has {options.only!r} in its name", file=sys.stderr)
        return 2
    with ExitStack() as stack:
        work = options.keep or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        work.mkdir(parents=True, exist_ok=True)
        trees = {"base": stack.enter_context(tree_of(options.base)), "this": ROOT}
        code = start(ROOT, ["models", str(work / "models")], work / "models.log").wait(LIMIT_S)
        if code:
            print(f"same_bytes: no models:\n{tail(work / 'models.log')}", file=sys.stderr)
            return 2
        unequal = 0
        for job in jobs:
            lines = run_job(job, trees, work, options.device)
            unequal += bool(lines)
            print(f"{job.name}: {'differs' if lines else 'equal'}", flush=True)
            for line in lines[:NAMED]:
                print(f"  {line}", flush=True)
            if len(lines) > NAMED:
                print(f"  and {len(lines) - NAMED} more", flush=True)
    print(f"same_bytes: {len(jobs)} jobs, {unequal} differ")
    return 1 if unequal else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
