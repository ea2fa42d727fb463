"""Whole commands on models of the hub: what is fetched when, and what is written."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from huggingface_hub import constants

import autoround
from autoround.checkpoints.inspect import inspect_folder
from autoround.cli.main import run
from autoround.errors import AutoRoundError
from autoround.events import BlockDone, Event, Sink, ignore
from autoround.types import Destination, RunResult, Scheme

from ..hub import LEGAL, NEVER, SHARDS, Hub, hub, online, write_repo
from ..runs import even_device, small
from ..tiny import token_ids, write_checkpoint
from ..tiny_quantized import write_quantized

__all__ = ["even_device", "hub", "online"]

REPO = "owner/name"
OPTIONS = ["--group-size", "32", "--iters", "0", "--device", "cpu"]
COMMAND = "from autoround.cli.main import run; raise SystemExit(run())"
RTN = ["--recipe", "rtn", *OPTIONS]


@pytest.fixture
def repo(online: Hub, tmp_path: Path, checkpoint: Callable[[str], Path]) -> Path:
    """Serve a tiny model as owner/name, in two revisions."""
    folder = write_repo(checkpoint("llama"), tmp_path / "repo")
    online.repos[REPO] = {"main": folder, "v1": folder}
    return folder


def whole(hub: Hub) -> list[str]:
    """Return the files of weights of which more than the first bytes were sent, once a request."""
    requests = [x for x in hub.log if x.path.endswith((".safetensors", ".bin", ".pth"))]
    return sorted(x.path.rsplit("/", 1)[1] for x in requests if x.sent and not x.ranged)


@pytest.mark.parametrize(
    "command",
    [
        ["plan", *RTN],
        ["plan", *RTN, "--format", "auto_gptq,mlx", "--layers"],
        ["plan", "--nsamples", "4", "--seqlen", "16", *OPTIONS],
        ["quantize", *RTN, "--dry-run"],
        ["inspect"],
    ],
    ids=" ".join,
)
def test_no_weights_are_fetched_to_look(
    command: list[str], repo: Path, online: Hub, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([command[0], REPO, *command[1:], "--revision", "v1"]) == 0
    assert whole(online) == []
    assert [len(online.sent(shard)) for shard in SHARDS] == [1, 1]
    assert not set(online.downloads()) & set(NEVER)
    if command[0] != "inspect":
        printed = capsys.readouterr().out.splitlines()
        assert printed[0] == "model        owner/name (LlamaForCausalLM, 2 blocks)"
        assert printed[1] == f"revision     {online.commit(REPO, 'v1')}"


def test_a_run_fetches_each_shard_once(
    repo: Path,
    online: Hub,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = tmp_path / "out"
    assert run(["quantize", REPO, *RTN, "--revision", "v1", "-o", str(out)]) == 0
    assert whole(online) == list(SHARDS)
    assert not set(online.downloads()) & set(NEVER)
    commit = online.commit(REPO, "v1")
    assert all(f"/{commit}" in x.path or "/revision/v1" in x.path for x in online.log)
    fetched = "fetch: 2 of 2 files of owner/name@v1, 0.0 GB in all"
    assert fetched in capsys.readouterr().out.splitlines()
    record = json.loads((out / "plan.json").read_text())
    assert (record["model"], record["revision"]) == (REPO, commit)
    assert all((out / name).read_text() == f"this is {name}\n" for name in LEGAL)
    # The same from a folder, and from the cache without a network.
    assert run(["quantize", str(repo), *RTN, "-o", str(tmp_path / "local")]) == 0
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    online.log.clear()
    assert run(["quantize", f"{REPO}@v1", *RTN, "-o", str(tmp_path / "offline")]) == 0
    assert not online.log
    weights = [(tmp_path / x / "model.safetensors").read_bytes() for x in ("local", "offline")]
    assert weights == [(out / "model.safetensors").read_bytes()] * 2


def test_a_run_goes_on_with_the_commit_it_began_with(
    repo: Path, online: Hub, tmp_path: Path
) -> None:
    def stop(event: Event) -> None:
        if isinstance(event, BlockDone):
            raise KeyboardInterrupt

    def quantize(model: str, place: Path | Destination, sink: Sink = ignore) -> RunResult:
        recipe, ids = small({"tuning.iters": 2}), token_ids(4, 16)
        return autoround.quantize(
            model, recipe, output_dir=place, device="cpu", data=ids, sink=sink
        )

    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        quantize(REPO, out, stop)
    begun = online.commit(REPO)
    online.repos[REPO]["main"] = Path(shutil.copytree(repo, tmp_path / "moved"))
    moved = online.commit(REPO)
    resumed = Destination(out, resume=True)
    with pytest.raises(AutoRoundError, match=f"revision: {begun} then, {moved} now"):
        quantize(REPO, resumed)
    done = quantize(f"{REPO}@{begun}", resumed)
    assert done.plan.revision == begun


def test_a_plan_is_not_enough_to_run_offline(
    repo: Path,
    online: Hub,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert run(["plan", REPO, *RTN]) == 0
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    capsys.readouterr()
    assert run(["quantize", REPO, *RTN, "-o", str(tmp_path / "out")]) == 4
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: model 'owner/name' is not a local folder, and HF_HUB_OFFLINE")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["owner/nothing"], 4, "the hub has none of that name, or it is private; check the name"),
        ([REPO, "--revision", "v9"], 4, "owner/name has no revision 'v9' on the hub; check"),
        (["owner/gated"], 4, "the hub does not give it to you; accept its terms at http"),
        ([f"{REPO}@v1", "--revision", "v9"], 2, "two revisions are named: 'v1' and --revision 'v9"),
        (["repo", "--revision", "v1"], 2, "'repo' is no hub id such as owner/name; leave it out"),
        (["--revision", "v1"], 2, "--revision v1: no model is named; add a hub id, owner/name"),
    ],
)
def test_mistakes_are_one_sentence(
    arguments: list[str],
    code: int,
    message: str,
    repo: Path,
    online: Hub,
    capsys: pytest.CaptureFixture[str],
) -> None:
    online.repos["owner/gated"] = {"main": repo}
    online.gated.add("owner/gated")
    assert run(["plan", *arguments, *RTN]) == code
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


def test_kernels_of_a_quantized_model_take_headers_only(
    online: Hub, tmp_path: Path, checkpoint: Callable[[str], Path]
) -> None:
    write_quantized(checkpoint("llama"), tmp_path / "q", lambda name: Scheme(4, 32, True))
    online.repos["owner/quantized"] = {"main": tmp_path / "q"}
    assert run(["kernels", "owner/quantized", "--device", "cpu"]) == 0
    assert run(["inspect", "owner/quantized"]) == 0
    assert whole(online) == []
    assert run(["convert", "owner/quantized", "--to", "auto_gptq", "-o", str(tmp_path / "c")]) == 0
    assert whole(online) == ["model.safetensors"]


def test_python_takes_a_revision_with_the_name(repo: Path, online: Hub, tmp_path: Path) -> None:
    recipe = small({"tuning.iters": 0, "tuning.init_scale": "minmax"})
    plan, estimate = autoround.plan(f"{REPO}@v1", recipe, device="cpu")
    assert (plan.model, plan.revision) == (REPO, online.commit(REPO, "v1"))
    tensors = inspect_folder(repo).total
    assert estimate.source_bytes == tensors.size
    assert whole(online) == []
    autoround.quantize(f"{REPO}@v1", recipe, output_dir=tmp_path / "out", device="cpu")
    assert whole(online) == list(SHARDS)


def test_the_command_in_a_process_of_its_own(hub: Hub, tmp_path: Path) -> None:
    folder = write_repo(
        write_checkpoint("qwen3", tmp_path / "qwen3", tokenizer=True), tmp_path / "r"
    )
    hub.repos["Qwen/Qwen3-0.6B"] = {"main": folder}
    text = tmp_path / "text.jsonl"
    text.write_text('{"text": "the quick brown fox jumps over the lazy dog"}\n' * 12)
    out = tmp_path / "out"
    options = f"""
        --model Qwen/Qwen3-0.6B --bits 4 --group_size 32 --asym --iters 2 --dataset {text}
        --nsamples 4 --seqlen 16 --batch_size 2 --output_dir {out} --device cpu
        --set tuning.num_validations=1
    """
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("HF_")},
        **{"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(tmp_path / "home")},
    }
    done = subprocess.run(
        [sys.executable, "-c", COMMAND, "quantize", *options.split()],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert whole(hub) == list(SHARDS)
    assert not set(hub.downloads()) & set(NEVER)
    record = json.loads((out / "plan.json").read_text())
    assert (record["model"], record["revision"]) == (
        "Qwen/Qwen3-0.6B",
        hub.commit("Qwen/Qwen3-0.6B"),
    )
    assert inspect_folder(out).layers
