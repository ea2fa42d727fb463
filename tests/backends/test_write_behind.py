"""On a device of its own, records and files are written behind the tuning: whole, in order, or not.

The device is a toy; what torch is told of it stays for the process, so it has one of its own.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ..scripts import run_script
from ..toy_device import WHY_NOT

ROOT = Path(__file__).parents[2]
SCRIPT = """
import json, os, signal, subprocess, sys, threading
from pathlib import Path
sys.path.insert(0, {bench!r})
from tests import toy_device
held = toy_device.register()
import torch
from autoround.errors import OutputError
from autoround.events import BlockDone
from autoround.gguf.container import Container
from autoround.model.skeleton import adopt_model
from autoround.pipeline import run
from autoround.preparation import Request
from autoround.recipe.load import load_recipe
from autoround.resume.journal import journal_of, PassJournal
from autoround.resume.records import read_record
from autoround.storage import files
from autoround.types import Destination
from counting import Counter
from toy_runtime import ToyRuntime
from tests.faults import count, counted, faulty_disk
from tests.runs import content
from tests.tiny import make_model, token_ids

folder = Path(sys.argv[1])
recipe = load_recipe("default", overrides=[
    "scheme.group_size=32", "tuning.iters=2", "calibration.nsamples=4", "calibration.seqlen=16",
    "tuning.compute_dtype=float32", "tuning.validation_samples=4",
    "output.format={formats}"])
ids = token_ids(4, 16)

def go(out, resume=False, stop_at=None):
    counter = Counter("toy")
    runtime = ToyRuntime(counter, torch.device("toy", 0), memory_bytes=1 << 40)
    request = Request(adopt_model(make_model("llama")), recipe, runtime, "random", None, ids)
    def sink(event):
        if isinstance(event, BlockDone) and event.result.index == stop_at:
            raise KeyboardInterrupt
    with counter.counting():
        run(request, Destination(out, resume=resume), sink=sink)

def writers():
    return [t.name for t in threading.enumerate() if t.name == "autoround-writer"]

def weights(out):
    return {{n: data for n, data in content(out).items() if not n.endswith("report.jsonl")}}

def there(out):
    # Whether there is an output, or a part of one, and the threads that are left.
    return [out.exists(), Path(str(out) + ".partial").exists(), writers()]

def finished(out):
    paths = sorted(journal_of(out).glob("pass-1/*.safetensors"))
    for path in paths:
        read_record(path)
    return len(paths)

if len(sys.argv) > 2:
    def stop(number, name):
        if number == int(sys.argv[2]):
            os.kill(os.getpid(), signal.SIGKILL)
    with counted(stop):
        go(folder)
    sys.exit(0)

found = {{}}
threads = set()
write = files.WritableFile.write
def noting(self, data):
    threads.add(threading.current_thread().name)
    return write(self, data)
of_blocks = set()
add = Container.add
def adding(self, name, data):
    if name.startswith("blk."):
        of_blocks.add(threading.current_thread().name)
    return add(self, name, data)
Container.add = adding
whole = folder / "whole"
files.WritableFile.write = noting
names = count(lambda: go(whole))
files.WritableFile.write = write
wanted = weights(whole)
Container.add = add
found["threads"], found["of_blocks"] = sorted(threads), sorted(of_blocks)
found["left"] = writers()

# Interrupted when a block was handed over: it is recorded all the same.
out = folder / "interrupted"
try:
    go(out, stop_at=0)
except KeyboardInterrupt:
    found["interrupted"] = [finished(out), *there(out)]
go(out, resume=True)
found["resumed"] = [weights(out) == wanted, journal_of(out).exists()]

# A disk that is full at some change of it, wherever that is done.
messages = set()
states = []
total = len(names)
for at in range(total // 2, total, max(1, total // 3)):
    out = folder / f"full-{{at}}"
    try:
        with faulty_disk("full", at=at) as fault:
            go(out)
    except OutputError as error:
        messages.add("No space left" in str(error))
        states.append([finished(out) >= 0, *there(out)])
        go(out, resume=True)
        states[-1].append(weights(out) == wanted)
found["messages"], found["states"] = sorted(messages), states

# Killed at a change of the disk, in a process of its own, and resumed.
out = folder / "killed"
code = subprocess.run([sys.executable, __file__, str(out), str(total // 2)], check=False).returncode
found["killed"] = [code == -signal.SIGKILL, finished(out)]
go(out, resume=True)
found["killed"].append(weights(out) == wanted)
print(json.dumps(found))
"""


@pytest.mark.slow
@pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT)
@pytest.mark.parametrize("formats", ["auto_round,compressed-tensors", "gguf:q4_0"])
def test_records_and_files_are_written_behind_the_tuning(tmp_path: Path, formats: str) -> None:
    script = tmp_path / "script.py"
    code = SCRIPT.format(bench=str(ROOT / "tools" / "bench"), formats=formats)
    script.write_text(code, encoding="utf-8")
    # A script's own folder is the first place of imports, and the tests are in none.
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH", "")])]
    found = run_script(
        *(str(script), str(tmp_path)), OMP_NUM_THREADS="1", PYTHONPATH=os.pathsep.join(paths)
    )
    assert "autoround-writer" in found["threads"]
    assert found["of_blocks"] == (["autoround-writer"] if formats.startswith("gguf") else [])
    assert found["left"] == []
    assert found["interrupted"] == [1, False, False, []]
    assert found["resumed"] == [True, False]
    assert found["messages"] == [True]
    assert len(found["states"]) == 2
    assert all(state == [True, False, False, [], True] for state in found["states"])
    killed, blocks, same = found["killed"]
    assert killed
    assert 0 <= blocks <= 2
    assert same
