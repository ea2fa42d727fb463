"""Score a written folder against the 16-bit model, both in float32.

The 16-bit model is run once over a text: what enters its head is kept in the work folder, and
the head alone is run again for every row, which gives the same logits.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import worker


class Kept:
    """The 16-bit model on one text, as ``evaluate`` wants a reference: windows in their order."""

    def __init__(self, hidden: Any, head: Any) -> None:
        self.hidden, self.head, self.place = hidden, head, 0
        self.device = hidden.device

    def __call__(self, *, input_ids: Any, use_cache: bool) -> Any:
        """Return the logits of the next window."""
        from types import SimpleNamespace

        part = self.hidden[self.place : self.place + input_ids.shape[1]]
        self.place += input_ids.shape[1]
        return SimpleNamespace(logits=self.head(part)[None])


def reference(job: dict[str, Any], ids: Any, mark: str) -> Any:
    """Return the 16-bit model on these tokens, from the work folder where it is kept there."""
    import torch
    from safetensors.torch import load_file, save_file

    from autoround.evaluate.models import load_any
    from autoround.evaluate.perplexity import windows

    kept = Path(job["work"]) / f"reference-{job['fingerprint']}-{mark}.safetensors"
    model = load_any(job["original"], device=job["device"])
    head = model.get_output_embeddings()
    if not kept.exists():
        hidden = enter_head(model, head, windows(ids, job["window"]))
        if hidden is None:  # something comes after the head: run the model every time
            return model
        save_file({"hidden": hidden.contiguous()}, kept)
    hidden = load_file(kept)["hidden"].to(model.device)
    del model

    @torch.no_grad()
    def logits(part: Any) -> Any:
        return head(part)

    return Kept(hidden, logits)


def enter_head(model: Any, head: Any, parts: Iterable[Any]) -> Any:
    """Return what enters the head, or None where the logits are not what leaves it."""
    import torch

    seen: list[Any] = []
    handle = head.register_forward_pre_hook(lambda _, args: seen.append(args[0][0]))
    try:
        with torch.no_grad():
            for part in parts:
                out = model(input_ids=part[None].to(model.device), use_cache=False).logits[0]
                if not torch.allclose(head(seen[-1][:64]), out[:64], rtol=1e-4, atol=1e-4):
                    return None
                seen.pop()  # the head was called once more just now
    finally:
        handle.remove()
    return torch.cat(seen).cpu()


def work(job: dict[str, Any]) -> dict[str, Any]:
    """Return perplexity, divergence and agreement, and answers' accuracy where asked for."""
    import numpy as np
    import torch
    from choices import accuracy

    from autoround.evaluate.models import load_any
    from autoround.evaluate.perplexity import evaluate

    model = load_any(job["folder"], device=job["device"])
    found: dict[str, float] = {}
    for prefix, part in (("", job["evaluation"]), ("domain_", job.get("domain"))):
        if part is None:
            continue
        ids = torch.from_numpy(np.load(part["path"]))
        original = reference(job, ids, part["mark"])
        score = evaluate(model, ids, seqlen=job["window"], reference=original)
        assert score.kl is not None
        assert score.top1_agreement is not None
        found[prefix + "ppl"] = round(score.perplexity, 5)
        found[prefix + "ppl16"] = round(score.reference_perplexity or 0.0, 5)
        found[prefix + "kl"] = round(score.kl, 6)
        found[prefix + "top1"] = round(score.top1_agreement, 5)
    if job.get("choices"):
        right = accuracy(model, job["original"], job["choices"], most=job["questions"])
        found["choices"] = round(right, 4)
        found["questions"] = job["questions"]
    return found


if __name__ == "__main__":
    worker.run(work)
