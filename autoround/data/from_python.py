"""Calibration tokens from Python values: texts, token ids, tensors, batches.

What a caller hands over is used as it is: nothing is dropped, shuffled or joined. Samples longer
than ``seqlen`` are cut, shorter ones padded on the right and masked.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import TYPE_CHECKING, Any

from autoround.data.encode import Encoder, Tokenizer, make_encoder
from autoround.data.records import Ids, Record, to_record
from autoround.data.tokens import Tokens, build_tokens
from autoround.errors import DataError

if TYPE_CHECKING:
    import torch

_TIMES = "\N{MULTIPLICATION SIGN}"
_LEGAL = (
    "legal are texts, lists of token ids, integer tensors [s] or [n, s], and mappings with "
    "input_ids and optionally attention_mask"
)


def tokens_from_data(
    data: object,
    tokenizer: Tokenizer | None,
    *,
    nsamples: int,
    seqlen: int,
    vocab_size: int | None = None,
) -> Tokens:
    """Take the first ``nsamples`` samples of Python data, in its order.

    data: a tensor of ids [n, s] or [s], a mapping with ``input_ids`` [n, s] or [s] and optionally
    ``attention_mask`` of the same shape (1 for real tokens, which must be in one run), or an
    iterable, such as a list or a DataLoader, of texts, lists of ids, tensors, such mappings, or
    records (text or messages). Fewer than ``nsamples`` samples are all used; the description
    says so. tokenizer: needed for text only. vocab_size: ids from there on are refused.

    Returns Tokens: ids int64 [n, width], width the longest sample, at most ``seqlen``.
    Raises: DataError naming the sample (counted from 0) that is not usable.
    """
    if nsamples < 1 or seqlen < 1:
        raise DataError(f"nsamples={nsamples} and seqlen={seqlen} must both be 1 or more")
    encoder = make_encoder(tokenizer, vocab_size=vocab_size)
    samples = list(islice(_samples(data, encoder, seqlen=seqlen), nsamples + 1))
    if not samples:
        raise DataError(f"the calibration data is empty; {_LEGAL}")
    more = len(samples) > nsamples
    samples = samples[:nsamples]
    width = max(map(len, samples))
    parts = ["data given by the caller", f"{len(samples)} {_TIMES} {width} tokens"]
    if more:
        parts.append("the first of a larger set")
    elif len(samples) < nsamples:
        parts.append(f"fewer than the {nsamples} asked")
    if min(map(len, samples)) < width:
        parts.append("padded")
    return build_tokens(samples, seqlen=width, pad_id=encoder.pad_id, description=", ".join(parts))


def _samples(data: object, encoder: Encoder, *, seqlen: int) -> Iterator[list[int]]:
    """Yield the samples, each of 1 to ``seqlen`` ids."""
    import torch

    if isinstance(data, str):
        raise DataError(
            "the calibration data is one string: give a list of texts, or name a dataset"
        )
    index = 0
    items: Iterable[Any]
    if isinstance(data, (Mapping, torch.Tensor)):
        items = [data]
    elif isinstance(data, Iterable):
        items = data
    else:
        raise DataError(f"calibration data of type {type(data).__name__} is unknown; {_LEGAL}")
    for item in items:
        for sample in _item(item, encoder, seqlen=seqlen, index=index):
            if not sample:
                raise DataError(f"sample {index} of the calibration data has no tokens")
            yield sample
            index += 1


def _item(item: object, encoder: Encoder, *, seqlen: int, index: int) -> Iterator[list[int]]:
    import torch

    where = f"sample {index} of the calibration data"
    samples: Iterator[Record]
    if isinstance(item, (list, tuple)) and len(item) == 1 and isinstance(item[0], torch.Tensor):
        # What a DataLoader over a TensorDataset of one tensor yields.
        item = item[0]
    if isinstance(item, Mapping) and "input_ids" in item:
        samples = _batch(item["input_ids"], item.get("attention_mask"), first=index)
    elif isinstance(item, torch.Tensor):
        samples = _batch(item, None, first=index)
    elif isinstance(item, (str, Mapping, list, tuple)):
        if not item:
            raise DataError(f"{where} is empty")
        samples = iter([to_record(item, where)])
    else:
        raise DataError(f"{where} is of type {type(item).__name__}; {_LEGAL}")
    for record in samples:
        yield encoder.document(record, seqlen, apply_chat=False, system_prompt=None)


def _batch(ids: object, mask: object, *, first: int) -> Iterator[Ids]:
    rows = _matrix(ids, "input_ids", first=first)
    masks: list[torch.Tensor | None] = [None] * len(rows)
    if mask is not None:
        masks = list(_matrix(mask, "attention_mask", first=first))
        if [len(row) for row in rows] != [len(one) for one in masks if one is not None]:
            raise DataError(
                f"sample {first} of the calibration data: attention_mask and input_ids "
                "differ in shape"
            )
    for index, (row, keep) in enumerate(zip(rows, masks, strict=True), start=first):
        where = f"sample {index} of the calibration data"
        real = row if keep is None else _real(row, keep, where=where)
        yield Ids(tuple(real.tolist()), where)


def _real(row: torch.Tensor, keep: torch.Tensor, *, where: str) -> torch.Tensor:
    at = keep.nonzero().flatten()
    if len(at) and int(at[-1] - at[0]) + 1 != len(at):
        raise DataError(f"{where}: the real tokens of its attention_mask are not in one run")
    return row[at]


def _matrix(value: object, name: str, *, first: int) -> list[torch.Tensor]:
    """Return rows of integers from [s], [n, s] or lists of unequal rows."""
    import torch

    if isinstance(value, (list, tuple)) and value and isinstance(value[0], (list, tuple)):
        return [row for one in value for row in _matrix(one, name, first=first)]
    if isinstance(value, (list, tuple)) and value and isinstance(value[0], torch.Tensor):
        return [row for one in value for row in _matrix(one, name, first=first)]
    try:
        tensor = torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise DataError(f"sample {first} of the calibration data: {name}: {error}") from error
    if (
        tensor.is_floating_point()
        or tensor.is_complex()
        or (tensor.dtype == torch.bool and name == "input_ids")
    ):
        raise DataError(
            f"sample {first} of the calibration data: {name} must be whole numbers, "
            f"not {str(tensor.dtype).removeprefix('torch.')}"
        )
    if tensor.dim() not in (1, 2):
        raise DataError(
            f"sample {first} of the calibration data: {name} has the shape {list(tensor.shape)}; "
            "legal are [s] and [n, s]"
        )
    tensor = tensor.detach().cpu()
    return list(tensor[None] if tensor.dim() == 1 else tensor)
