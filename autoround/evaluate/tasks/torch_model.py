"""A model of transformers as tasks see it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from autoround.data.encode import Tokenizer
from autoround.errors import DataError
from autoround.evaluate.tasks.model import Likelihood, LimitedContext, OnAnswer, Request
from autoround.model.positions import text_config, vocabulary_size

#: Tokens that a model takes whose config does not say, as in lm-eval.
DEFAULT_LENGTH = 2048


class TorchTaskModel(LimitedContext):
    """Scores continuations with a loaded model, several at a time.

    Args:
        model: a causal language model of transformers, in evaluation mode.
        tokenizer: of its folder.
        batch_size: sequences that are run at once.
    """

    def __init__(self, model: Any, tokenizer: Any, *, batch_size: int = 8) -> None:
        self._model, self._tokenizer, self._batch_size = model, tokenizer, batch_size
        stated = getattr(text_config(model), "max_position_embeddings", None)
        super().__init__(stated if isinstance(stated, int) and stated > 1 else DEFAULT_LENGTH)

    @property
    def engine(self) -> str:
        """The program that runs the model."""
        return f"torch {torch.__version__.partition('+')[0]}, {self._dtype}"

    @property
    def prefix_token(self) -> int:
        """The id that begins a text, or else that ends one."""
        tokenizer: Tokenizer = self._tokenizer
        for name in ("bos_token_id", "eos_token_id"):
            token = getattr(tokenizer, name, None)
            if isinstance(token, int):
                return token
        raise DataError("the tokenizer has no token that begins or ends a text; tasks need one")

    @property
    def _dtype(self) -> str:
        return str(self._model.dtype).removeprefix("torch.")

    def encode(self, text: str, *, special: bool) -> list[int]:
        """Return the ids of a text."""
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=special)
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ids, without special tokens."""
        text: str = self._tokenizer.decode(list(ids), skip_special_tokens=True)
        return text

    @torch.inference_mode()
    def score(
        self, requests: Sequence[Request], *, on_answer: OnAnswer | None = None
    ) -> list[Likelihood]:
        """Return the likelihood of each continuation.

        Args:
            requests: in any order; those of the same input are run once.
            on_answer: called after each batch.

        Raises:
            DataError: an id is not in the model's vocabulary.
        """
        size = vocabulary_size(self._model)
        by_input: dict[tuple[int, ...], list[int]] = {}
        for index, request in enumerate(requests):
            if size is not None and max(*request.context, *request.continuation) >= size:
                raise DataError(f"the tokenizer makes ids that the model of {size} does not know")
            by_input.setdefault(tuple(self.shorten(request)), []).append(index)
        # Long ones first: what is left is then never longer than it seems, and memory runs out at
        # once or not at all.
        inputs = sorted(by_input, key=lambda ids: (-len(ids), ids))
        answers: dict[int, Likelihood] = {}
        for start in range(0, len(inputs), self._batch_size):
            batch = inputs[start : start + self._batch_size]
            logits = self._logits(batch)
            for row, key in zip(logits, batch, strict=True):
                for index in by_input[key]:
                    answers[index] = _likelihood(row[: len(key)], requests[index].continuation)
            if on_answer is not None:
                on_answer(len(answers), len(requests))
        return [answers[index] for index in range(len(requests))]

    def _logits(self, batch: Sequence[tuple[int, ...]]) -> Tensor:
        """Return logits of sequences that are padded on the right, [batch, length, vocabulary]."""
        # Causal attention never looks at what follows, so padding needs no mask.
        width = max(map(len, batch))
        padded = torch.tensor([[*ids, *[0] * (width - len(ids))] for ids in batch])
        logits: Tensor = self._model(
            input_ids=padded.to(self._model.device), use_cache=False
        ).logits
        return logits

    @torch.inference_mode()
    def generate(self, ids: Sequence[int], *, until: Sequence[str], max_new_tokens: int) -> str:
        """Return the most likely continuation of some ids, up to the first of some texts.

        Args:
            ids: of the prompt; cut from the left where they leave no room.
            until: texts that end the continuation, and are left out.
            max_new_tokens: at most.
        """
        prompt = torch.tensor([self.leave_room(ids, max_new_tokens)], device=self._model.device)

        def is_done(sequences: Tensor, scores: Any, **_: Any) -> Tensor:
            text = self.decode(sequences[0, prompt.shape[1] :].tolist())
            done = any(stop in text for stop in until)
            return torch.full((1,), done, device=sequences.device)

        from transformers import StoppingCriteriaList

        out = self._model.generate(
            prompt,
            attention_mask=torch.ones_like(prompt),
            do_sample=False,
            max_new_tokens=max_new_tokens,
            pad_token_id=self.prefix_token,
            stopping_criteria=StoppingCriteriaList([is_done] if until else []),
        )
        return cut_at(self.decode(out[0, prompt.shape[1] :].tolist()), until)

    def close(self) -> None:
        """Let go of the model."""
        self._model = None


def _likelihood(logits: Tensor, continuation: Sequence[int]) -> Likelihood:
    """Return the likelihood of the last tokens of a sequence.

    logits: [length, vocabulary]; continuation: ids, of which at most the last length are scored.
    """
    kept = list(continuation)[-len(logits) :]
    log_probs = torch.log_softmax(logits[-len(kept) :].float(), -1)
    wanted = torch.tensor(kept, device=log_probs.device)
    greedy = bool((log_probs.argmax(-1) == wanted).all())
    return Likelihood(float(log_probs.gather(1, wanted[:, None]).sum()), greedy)


def cut_at(text: str, until: Sequence[str]) -> str:
    """Return a text up to the first of some others.

    Args:
        text: that was generated.
        until: texts that end it; empty ones end nothing.
    """
    ends = [text.find(stop) for stop in until if stop and stop in text]
    return text[: min(ends)] if ends else text
