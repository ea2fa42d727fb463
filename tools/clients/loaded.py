"""Load what other programs wrote through transformers and our kernels; compare their own logits.

    python tools/clients/loaded.py --work DIR --python auto-round=PYTHON --python gptqmodel=PYTHON

Folders are written by each client as ``peers.py`` does, and read by it for logits (``read.py``);
here they are loaded by ``from_pretrained`` with ``AutoRoundConfig`` (so without the client), by
each kernel that can run them, and saved again: the saved tensors must be those of the client, bit
for bit. Prints a table and exits with 1 if anything differs.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peers import CASES, Case, make_model
from safetensors.torch import load_file

BACKENDS = ("native", "native-int8", "torch")
#: Largest difference of log-probabilities from a client that computes in float16.
CLOSE = {"native-int8": 0.1}
DEFAULT_CLOSE = 0.02
READ = Path(__file__).with_name("read.py")


def main() -> None:
    """Do every case whose client is given."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--python", action="append", default=[], metavar="CLIENT=PATH")
    args = parser.parse_args()
    work = args.work.absolute()
    work.mkdir(parents=True, exist_ok=True)
    pythons = {name: os.path.abspath(path) for name, path in (i.split("=", 1) for i in args.python)}
    ids = torch.randint(4, 98, (4, 96), generator=torch.Generator().manual_seed(0))
    np.save(work / "ids.npy", ids.numpy())
    good = True
    print("| client | format | scheme | kernel | largest difference of log-probabilities | saved |")
    print("|---|---|---|---|---|---|")
    for case in CASES.values():
        if case.client not in pythons:
            continue
        for cells, passed in check(case, work, pythons):
            scheme = f"W{case.bits} {'sym' if case.sym else 'asym'}"
            scheme += " desc_act" * case.desc_act + " one-sided" * case.one_sided
            print(f"| {case.client} | {case.format} | {scheme} | {cells} |", flush=True)
            good = good and passed
    sys.exit(not good)


def check(case: Case, work: Path, pythons: dict[str, str]) -> Iterator[tuple[str, bool]]:
    """Write and read with the client, then load by each kernel."""
    python = pythons[case.client]
    folder, found = work / case.name, work / f"{case.name}.npy"
    if not folder.exists():
        source = make_model(work / "models", one_sided=case.one_sided)
        command = [python, str(Path(__file__).with_name("peers.py")), "--write", case.name]
        run([*command, "--model", str(source), "--out", str(work / "writing")], work)
        inside = next((work / "writing").rglob("config.json")).parent
        shutil.move(inside, folder)
        shutil.rmtree(work / "writing", ignore_errors=True)
    if not found.exists() and not read(case, folder, found, pythons):
        yield "- | no client could read it | -", True
        return
    reference = torch.log_softmax(torch.from_numpy(np.load(found)).float(), -1)
    ids = torch.from_numpy(np.load(work / "ids.npy"))
    for backend in BACKENDS:
        model = loaded(folder, backend)
        with torch.no_grad():
            logits = torch.log_softmax(model(input_ids=ids, use_cache=False).logits.float(), -1)
        worst = float((logits - reference.reshape(logits.shape)).abs().max())
        model.save_pretrained(work / "saved")
        same = saved_equal(folder, work / "saved")
        shutil.rmtree(work / "saved")
        close = worst < CLOSE.get(backend, DEFAULT_CLOSE)
        yield f"{backend} | {worst:.4f} | {'equal' if same else 'differs'}", close and same


def read(case: Case, folder: Path, found: Path, pythons: dict[str, str]) -> bool:
    """Save a client's logits: of the one that wrote the folder, else of another that can."""
    # auto-round fails on some of its own files, and for GPTQ it wants another package.
    clients = ["auto-round-torch", "auto-round"] if case.client == "auto-round" else []
    for client in (*clients, "gptqmodel"):
        python = pythons.get(client.removesuffix("-torch"))
        if python is not None:
            command = [python, str(READ), "--client", client, "--model", str(folder)]
            command += ["--tokens", str(found.parent / "ids.npy"), "--out", str(found)]
            if run(command, found.parent, may_fail=True) or found.exists():
                return True
    return False


def loaded(folder: Path, backend: str) -> Any:
    """Load through transformers."""
    from transformers import AutoModelForCausalLM

    import autoround

    config = autoround.AutoRoundConfig(backend=backend)
    return AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, quantization_config=config
    ).eval()


def saved_equal(one: Path, other: Path) -> bool:
    """Compare the packed tensors of two folders; kept ones were loaded in float32."""
    first, second = (
        {n: t for file in folder.glob("*.safetensors") for n, t in load_file(file).items()}
        for folder in (one, other)
    )
    parts = ("qweight", "qzeros", "scales", "g_idx")
    return first.keys() == second.keys() and all(
        torch.equal(first[n], second[n]) for n in first if n.rpartition(".")[2] in parts
    )


def run(command: list[str], work: Path, *, may_fail: bool = False) -> bool:
    """Run a client and tell whether it succeeded; its words are shown where it had to."""
    own = {**os.environ, "GPTQMODEL_CPU_WORKERS": "2"}
    done = subprocess.run(command, capture_output=True, text=True, env=own, cwd=work)
    if done.returncode and not may_fail:
        raise SystemExit(f"{' '.join(command)} failed: {done.stderr[-2000:]}")
    return not done.returncode


if __name__ == "__main__":
    main()
