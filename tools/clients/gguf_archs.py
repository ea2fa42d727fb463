"""Compare llama.cpp with transformers on tiny random models of every architecture and option.

    python tools/clients/gguf_archs.py --work DIR --python VENV/bin/python [--only NAME]
        [--rows EARLIER ...] [--table docs/formats.md]

Each model is written in float32, so that nothing is rounded, and run by both; what is
compared is names, turns, permutations and metadata. The client is the server of xllamacpp.
Prints a table and exits with 1 where a file is written whose KL divergence from the model exceeds
3e-4 nats (llama.cpp's table of GELU in 16 bits makes up to 2e-4; a mistake in attention or norms is
far above), or where a plain model is refused. A refusal is a row of the table, with its sentence.
Of mixtures of experts the largest value of twelve is left out: a router may flip on a near tie.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from gguf_cases import CASES, Case
from gguf_options import VOCABULARY

LIMIT = 3e-4
LENGTH = 160
#: Where the table stands in a page.
MARKS = ("<!-- gguf architectures -->", "<!-- end of gguf architectures -->")
#: Where distributions are compared: before and far beyond windows and original lengths.
POSITIONS = (0, 1, 5, 14, 29, 40, 63, 80, 101, 127, 140, 159)


class Outcome(NamedTuple):
    """What came of one case: whether it is as it should be, and what the table says."""

    good: bool
    kl: str
    words: str


def main() -> None:
    """Run every architecture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--python", required=True)
    parser.add_argument("--only", default="", help="Cases or architectures, split by ;")
    parser.add_argument("--rows", type=Path, nargs="*", default=[], help="Of earlier runs.")
    parser.add_argument("--table", type=Path, help="The page whose table is made of all rows.")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    lines = ["| model | KL | |", "|---|---|---|"]
    print("\n".join(lines))
    failed = False
    for case in CASES:
        wanted = args.only.split(";")
        if args.only and case.name not in wanted and case.name.partition(",")[0] not in wanted:
            continue
        outcome = run_case(args.work, args.python, case)
        failed = failed or not outcome.good
        wrong = "" if outcome.good else " **WRONG**"
        lines.append(f"| {case.name} | {outcome.kl} | {outcome.words}{wrong} |")
        print(lines[-1], flush=True)
    if args.table is not None:
        earlier = [path.read_text(encoding="utf-8").splitlines() for path in args.rows]
        write_summary(args.table, [row for rows in (*earlier, lines) for row in rows])
    sys.exit(failed)


def write_summary(page: Path, rows: Sequence[str]) -> None:
    """Replace the part of a page between two marks with a line for each architecture."""
    by_family: dict[str, list[tuple[str, str, str]]] = {}
    for row in rows:
        cells = [cell.strip() for cell in row.split("|")]
        if len(cells) == 5 and cells[1] not in ("model", "---"):
            name, _, option = cells[1].partition(", ")
            by_family.setdefault(name, []).append((option, cells[2], cells[3]))
    lines = ["| model type | largest KL | equal | refused |", "|---|---|---|---|"]
    for name, options in by_family.items():
        equal = [f"{o or 'plain'}{'*' * bool(words)}" for o, kl, words in options if kl]
        refused = [option for option, kl, words in options if words.startswith("refused")]
        worst = max((abs(float(kl)) for _, kl, _ in options if kl), default=0.0)
        lines.append(
            f"| `{name}` | {worst:.1e} | {'; '.join(equal)} | {'; '.join(refused) or 'none'} |"
        )
    text = page.read_text(encoding="utf-8")
    before, _, rest = text.partition(MARKS[0])
    _, _, after = rest.partition(MARKS[1])
    table = "\n".join(lines)
    page.write_text(f"{before}{MARKS[0]}\n{table}\n{MARKS[1]}{after}", encoding="utf-8")


def run_case(work: Path, python: str, case: Case) -> Outcome:
    """Write one model and let both run it."""
    from autoround.errors import AutoRoundError

    model = tiny_model(case)
    if model is None:
        return Outcome(True, "", "not run by transformers")
    file = work / "model.gguf"
    try:
        notes = write_plain(model, file)
    except AutoRoundError as error:
        reason = " ".join(str(error).split()).removeprefix("GGUF: ")
        refused = f"refused: {reason}".replace("|", "/")
        return Outcome(case.wanted != "written", "", refused)
    if case.wanted == "refused":
        return Outcome(False, "", "written, but should be refused")
    positions = case.positions
    if any("full attention" in note for note in notes):
        # What the note says is exact is held to it.
        positions = [p for p in positions if p < case.values["sliding_window"]]
    try:
        kl = divergence(model, file, work=work, python=python, positions=positions)
    except RuntimeError as error:
        return Outcome(False, "", f"failed: {error}")
    words = "; ".join(notes)
    return Outcome(kl <= LIMIT, f"{kl:.6f}", words)


def tiny_model(case: Case) -> Any:
    """Make a model of random weights; None where its own class cannot run it."""
    import torch
    import transformers

    try:
        torch.manual_seed(0)
        # A copy: configs complete the dicts that they are given.
        config = getattr(transformers, case.config)(**deepcopy(dict(case.values)))
        towers = config.get_text_config() is not config
        auto = "AutoModelForImageTextToText" if towers else "AutoModelForCausalLM"
        model = getattr(transformers, auto).from_config(config).eval().float()
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1:  # norms of one and biases of zero would hide mistakes
                torch.nn.init.normal_(parameter, 0.0 if "bias" in name else 1.0, 0.2)
        with torch.no_grad():
            model(input_ids=torch.arange(3, 9).reshape(1, 6))
    except Exception:  # an option that the class has a key for, and no code
        if case.wanted == "written":
            raise
        return None
    return model


def divergence(
    model: Any, file: Path, *, work: Path, python: str, positions: Sequence[int] = POSITIONS
) -> float:
    """Return the mean KL divergence of llama.cpp's distributions from the model's, in nats.

    Raises:
        RuntimeError: The client ended with an error.
    """
    import numpy as np
    import torch

    ids = np.random.default_rng(0).integers(3, VOCABULARY, size=(1, LENGTH))
    np.save(work / "ids.npy", ids)
    script = str(Path(__file__).with_name("gguf_server.py"))
    command = [python, script, "--model", str(file), "--tokens", str(work / "ids.npy")]
    command += ["--out", str(work / "rows.npy"), "--vocabulary", str(VOCABULARY)]
    command += ["--positions", ",".join(map(str, positions))]
    (work / "rows.npy").unlink(missing_ok=True)
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    if done.returncode or not (work / "rows.npy").exists():
        raise RuntimeError(reason_of(done.stderr))
    theirs = torch.from_numpy(np.load(work / "rows.npy"))
    with torch.no_grad():
        # One by one: some models choose by the length of what they are given.
        rows = [model(input_ids=torch.from_numpy(ids[:, : p + 1])).logits[:, -1] for p in positions]
    ours = torch.stack(rows, dim=1)[..., :VOCABULARY].float().log_softmax(-1)
    kl = (ours.exp() * (ours - theirs)).sum(-1).reshape(-1)
    if any("expert" in name for name, _ in model.named_parameters()):
        kl = kl.sort().values[:-1]
    return float(kl.mean())


def reason_of(errors: str) -> str:
    """Return the line of a log that says what went wrong."""
    lines = errors.strip().splitlines() or ["no message"]
    telling = [x for x in lines if "error" in x.lower() or "GGML_ASSERT" in x]
    return (telling or lines)[0][:200].replace("|", "/")


def write_plain(model: Any, path: Path, tokenizer: Any = None) -> list[str]:
    """Write a model without rounding anything; returns what a plan would note."""
    from autoround.export.gguf_writer import gguf_fields
    from autoround.gguf import arch
    from autoround.gguf.container import Container
    from autoround.model.skeleton import adopt_model
    from autoround.planning.gguf import computing_notes, tower_notes
    from autoround.planning.gguf_tensors import gguf_layout
    from autoround.types import OutputPlan

    skeleton = adopt_model(model)
    layout = gguf_layout(skeleton, OutputPlan("gguf:q8_0", "gguf:q8_0", "float32"))
    container = Container(
        path,
        [(target.name, target.shape, "f32") for target, _ in layout.tensors],
        arch=arch.architecture(skeleton.config.to_dict()),
        fields=gguf_fields(
            skeleton, tokenizer or small_tokenizer(), model="random", file_type="f32"
        ),
    )
    for target, _ in layout.tensors:
        tensors = list(skeleton.read(target.sources).values())
        container.add(target.name, arch.apply(target, tensors).float())
    container.finish()
    config = skeleton.config.to_dict()
    return [*tower_notes(config, skeleton.keys), *computing_notes(config)]


@cache
def small_tokenizer() -> Any:
    """Make a byte-level tokenizer of no more tokens than the models have, which servers ask for."""
    import transformers
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<pad>", "<s>", "</s>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator([__doc__ or ""] * 2, trainer)
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=special[0], bos_token=special[1], eos_token=special[2]
    )


if __name__ == "__main__":
    main()
