"""One bench: its settings, its tokens, and the measuring of one row."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import store
from flops import Samples, operations
from geometry import Geometry, stored_bits
from rows import WHO, Grid, Row

#: Tokens of an evaluation window.
WINDOW = 1024
HERE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Size:
    """blocks: 0 is all of them."""

    blocks: int
    nsamples: int
    seqlen: int
    eval_tokens: int
    seeds: list[int]


def sizes(name: str) -> Size:
    """Return the size of that name: one to try ideas with, and one for results."""
    if name == "quick":
        return Size(blocks=8, nsamples=64, seqlen=128, eval_tokens=8192, seeds=[0, 1, 2])
    return Size(blocks=0, nsamples=512, seqlen=128, eval_tokens=16384, seeds=[0])


@dataclass(frozen=True)
class Settings:
    """What all rows of a bench share."""

    model: Path
    model_name: str
    shape: Geometry
    blocks: int
    nsamples: int
    fresh: int
    seqlen: int
    eval_tokens: int
    batch_size: int
    group_size: int
    dtype: str
    device: str
    threads: int
    machine: str
    code: str
    questions: int
    texts: dict[str, str]
    pythons: dict[str, str]


class Bench:
    """Measures rows and keeps them in a file."""

    def __init__(self, settings: Settings, out: Path, work: Path) -> None:
        self.settings, self.out, self.work = settings, out, work.resolve()
        self.tokens: dict[str, Any] = {}
        self.work.mkdir(parents=True, exist_ok=True)

    def ceiling(self, *, again: bool = False) -> dict[str, Any]:
        """Return how fast products of the model's shapes are here, measured once."""
        s = self.settings
        tokens = s.batch_size * s.seqlen
        key = f"{s.machine}|{s.device}|{sorted(set(s.shape.matrices))}|{tokens} tokens"
        known = store.read(self.out)["ceilings"].get(key)
        if known is not None and not again:
            return dict(known)
        job = {"matrices": s.shape.matrices, "tokens": tokens, "device": s.device}
        found = self.call("worker_ceiling.py", job)
        with store.changing(self.out) as contents:
            contents["ceilings"][key] = found
        return found

    def prepare(self, seeds: list[int]) -> None:
        """Tokenize the texts for these seeds."""
        s = self.settings
        job = {
            **{key: s.texts.get(key) for key in ("text", "domain")},
            "model": str(s.model),
            "work": str(self.work),
            "seeds": seeds,
            "window": WINDOW,
            **{key: getattr(s, key) for key in ("nsamples", "fresh", "seqlen", "eval_tokens")},
        }
        self.tokens = self.call("worker_tokens.py", job)
        wanted = s.nsamples * s.seqlen
        if self.tokens["calibration_tokens"] < wanted:
            print(f"the text has fewer than {wanted} calibration tokens: samples overlap")

    def fresh(self, seed: int) -> dict[str, str]:
        """Return the file and the mark of the samples that end-to-end tuning has to itself."""
        if not self.settings.fresh:
            raise SystemExit("rows with end_to_end.nsamples need --fresh, a number of samples")
        file: dict[str, str] = self.tokens["fresh"][str(seed)]
        return file

    def settings_of(self, row: Row, grid: Grid, seed: int) -> dict[str, Any]:
        """Return all that makes a row this row; its key is made of it."""
        s = self.settings
        marks = [self.tokens["evaluation"]["mark"]]
        found = {
            "model": s.model_name,
            "method": row.method,
            "grid": grid.word,
            "group_size": s.group_size,
            "blocks": f"{s.blocks}/{s.shape.blocks}",
            "samples": f"{s.nsamples}x{s.seqlen}",
            "batch": s.batch_size,
            "seed": seed,
            "dtype": s.dtype,
            "device": s.device,
            "machine": s.machine,
        }
        if row.who in ("ours", "peer", "gptq"):
            marks.append(self.tokens["calibration"][str(seed)]["mark"])
        if row.fresh:
            marks.append(self.fresh(seed)["mark"])
        if "domain" in self.tokens:
            marks.append(self.tokens["domain"]["mark"])
        if "choices" in s.texts:
            marks.append(f"{s.questions} of {Path(s.texts['choices']).name}")
        found["data"] = "+".join(marks)
        if row.who == "ours":
            found["code"] = s.code
        return found

    def known(self, row: Row, grid: Grid, seed: int) -> dict[str, Any] | None:
        """Return a row that is in the file, with the name it is asked for by."""
        found = store.read(self.out)["rows"].get(key_of(self.settings_of(row, grid, seed)))
        return None if found is None else {**found, "name": row.name}

    def measure(self, row: Row, grid: Grid, seed: int, *, keep: bool = False) -> dict[str, Any]:
        """Quantize, score, and put a row into the file.

        Raises:
            RuntimeError: a worker failed.
        """
        s = self.settings
        settings = self.settings_of(row, grid, seed)
        folder = self.work / f"model-{os.getpid()}"
        shutil.rmtree(folder, ignore_errors=True)
        figures: dict[str, Any] = {"effort": {}}
        if row.who == "16bit":
            folder = s.model
        else:
            figures = self.quantize(row, grid, seed, folder)
            folder = written(folder)
        score = self.call("worker_score.py", self.score_job(folder))
        score.pop("peak_gb")
        bits = figures.pop("bits", None) or stored_bits(folder, s.model)
        work = operations(s.shape, Samples(s.blocks, s.nsamples, s.seqlen), figures["effort"])
        found = {
            **settings,
            **figures,
            **score,
            **bits,
            "name": row.name,
            "tflop": round(work["total"] / 1e12, 3),
            "tflop_parts": {key: round(value / 1e12, 3) for key, value in work.items()},
            "of_ceiling": self.achieved(figures, work["steps"] + work["whole"]),
            "measured": time.strftime("%Y-%m-%d"),
        }
        with store.changing(self.out) as contents:
            contents["rows"][key_of(settings)] = found
        if row.who != "16bit":
            if keep:
                kept = self.work / f"{row.name}-{grid.word}-s{seed}".replace("/", "_")
                shutil.rmtree(kept, ignore_errors=True)
                shutil.move(folder, kept)
            shutil.rmtree(self.work / f"model-{os.getpid()}", ignore_errors=True)
        return found

    def achieved(self, figures: dict[str, Any], work: float) -> float | None:
        """Return the share of the ceiling that tuning reached: its steps over its whole time."""
        speed = self.ceiling().get(figures.get("dtype", ""))
        if not speed or not work:
            return None
        return round(work / float(figures["tuning_s"]) / (float(speed) * 1e9), 4)

    def quantize(self, row: Row, grid: Grid, seed: int, folder: Path) -> dict[str, Any]:
        """Run the worker of a row."""
        s = self.settings
        dtype = s.dtype
        if dtype == "auto" and row.who != "ours":  # ours measures by itself
            dtype = self.ceiling()["fastest"]
        job = {
            "model": str(s.model),
            "out": str(folder),
            "calibration": self.tokens["calibration"][str(seed)]["path"],
            "fresh": self.fresh(seed)["path"] if row.fresh else None,
            "variant": row.variant,
            "set": row.options,
            "bits": grid.bits,
            "asym": grid.asym,
            "seed": seed,
            "dtype": dtype,
            "prefix": s.shape.prefix,
            "all_blocks": s.shape.blocks,
            **{key: getattr(s, key) for key in ("group_size", "nsamples", "seqlen", "batch_size")},
            **{key: getattr(s, key) for key in ("blocks", "device")},
        }
        started = time.perf_counter()
        figures = self.call(WHO[row.who][0], job, python=s.pythons.get(row.who, sys.executable))
        return {**figures, "process_s": round(time.perf_counter() - started, 2)}

    def score_job(self, folder: Path) -> dict[str, Any]:
        """Return what the scoring worker is told."""
        s = self.settings
        return {
            "folder": str(folder),
            "original": str(s.model),
            "fingerprint": s.model_name[-8:],
            "evaluation": self.tokens["evaluation"],
            "domain": self.tokens.get("domain"),
            "choices": s.texts.get("choices"),
            "questions": s.questions,
            "window": WINDOW,
            "work": str(self.work),
            "device": s.device,
        }

    def call(
        self, worker: str, job: dict[str, Any], *, python: str = sys.executable
    ) -> dict[str, Any]:
        """Run a worker to its end and return its figures.

        Raises:
            RuntimeError: it failed; its last words are in the error, all of them in a log.
        """
        place = self.work / f"job-{os.getpid()}.json"
        place.write_text(json.dumps(job), "utf-8")
        figures, log = place.with_suffix(".figures.json"), place.with_suffix(".log")
        figures.unlink(missing_ok=True)
        environment = {**os.environ, "OMP_NUM_THREADS": str(self.settings.threads)}
        with log.open("w") as output:
            done = subprocess.run(
                [python, str(HERE / worker), str(place)],
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment,
                check=False,
            )
        if done.returncode or not figures.exists():
            kept = self.work / f"failed-{worker}-{int(time.time())}.log"
            shutil.copy(log, kept)
            tail = "\n".join(log.read_text("utf-8", errors="replace").splitlines()[-12:])
            raise RuntimeError(f"{worker} ended with {done.returncode} ({kept}):\n{tail}")
        found: dict[str, Any] = json.loads(figures.read_text("utf-8"))
        for leftover in (place, figures, log):
            leftover.unlink(missing_ok=True)
        return found


def key_of(settings: dict[str, Any]) -> str:
    """Return the key that a row is kept by."""
    return " | ".join(f"{key} {value}" for key, value in settings.items())


def written(folder: Path) -> Path:
    """Return where a model was written: the folder, or the only one in it (auto-round's way).

    Raises:
        RuntimeError: there is none.
    """
    if (folder / "config.json").exists():
        return folder
    inside = sorted(folder.glob("*/config.json"))
    if len(inside) != 1:
        raise RuntimeError(f"{folder} holds {len(inside)} models after the worker ended well")
    return inside[0].parent
