"""Accuracy on multiple-choice questions: the answer whose text is likeliest per character."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def accuracy(model: Any, tokenizer_from: str, questions: str, *, most: int = 300) -> float:
    """Return the share of questions answered rightly.

    questions: a .jsonl file with question, choices, labels and answer. Log-likelihoods of the
    answers' tokens are divided by the length of their text.
    """
    import torch
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tokenizer_from)
    right = 0
    rows = [json.loads(line) for line in Path(questions).read_text("utf-8").splitlines()][:most]
    for row in rows:
        context = tokenizer(f"Question: {row['question']}\nAnswer:")["input_ids"]
        answers = [
            tokenizer(f" {c}", add_special_tokens=False)["input_ids"] for c in row["choices"]
        ]
        longest = max(map(len, answers))
        ids = torch.tensor([context + a + [context[-1]] * (longest - len(a)) for a in answers])
        with torch.no_grad():
            logs = model(input_ids=ids, use_cache=False).logits[:, len(context) - 1 : -1]
        logs = logs.float().log_softmax(-1)
        scores = [
            float(logs[i, range(len(a)), a].sum()) / max(len(row["choices"][i]), 1)
            for i, a in enumerate(answers)
        ]
        right += row["labels"][scores.index(max(scores))] == row["answer"]
    return right / len(rows)
