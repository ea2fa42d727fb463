"""Calibration tokens from Python values: texts, token ids, tensors, batches.

What a caller hands over is used as it is: nothing is dropped, shuffled or joined. Samples longer
than ``seqlen`` are cut, shorter ones padded on the right and masked.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import TYPE_CHECKING, Any

from autoround.data.chats import Chat
from autoround.data.encode import Tokenizer, make_encoder
from autoround.data.forms import rows_of
from autoround.data.records import Ids, Record, to_record
from autoround.data.rendering import PLAIN_CHATS
from autoround.data.tokens import Tokens, build_tokens
from autoround.errors import DataError

if TYPE_CHECKING:
    import torch

_TIMES = "\N{MULTIPLICATION SIGN}"
_LEGAL = (
    "legal are texts, conversations, lists of token ids, integer tensors [s] or [n, s], and "
    "mappings with input_ids and optionally attention_mask"
)


def tokens_from_data(
    data: object,
    tokenizer: Tokenizer | None,
    *,
    nsamples: int,
    seqlen: int,
    vocab_size: int | None = None,
    more: int = 0,
) -> Tokens:
    """Take the first ``nsamples`` samples of Python data, in its order.

    data: a tensor of ids [n, s] or [s], a mapping with ``input_ids`` [n, s] or [s] and optionally
    ``attention_mask`` of the same shape (1 for real tokens, which must be in one run), or an
    iterable, such as a list, a DataLoader or a dataset, of texts, lists of ids, tensors, such
    mappings, or records (text, messages, a prompt with its completion, an instruction with its
    output); a mapping of columns of these, too. Fewer than ``nsamples`` samples are all used; the
    description says so. tokenizer: needed for text only. vocab_size: ids from there on are refused.
    more: samples that are taken beside those, if there are any; the description leaves them out.

    Returns Tokens: ids int64 [n, width], width the longest sample, at most ``seqlen``.
    Raises: DataError naming the sample (counted from 0) that cannot be used; none is left out.
    """
    if nsamples < 1 or seqlen < 1:
        raise DataError(f"nsamples={nsamples} and seqlen={seqlen} must both be 1 or more")
    encoder = make_encoder(tokenizer, vocab_size=vocab_size)
    samples, plain = [], False
    for record in islice(_records(data), nsamples + more + 1):
        ids = encoder.document(record, seqlen, apply_chat=False, system_prompt=None)
        if not ids:
            raise DataError(f"{record.where} has no tokens")
        samples.append(ids)
        plain |= isinstance(record, Chat) and not encoder.has_chat_template
    if not samples:
        raise DataError(f"the calibration data is empty; {_LEGAL}")
    larger = len(samples) > nsamples + more
    samples = samples[: nsamples + more]
    width = max(map(len, samples))
    count = min(len(samples), nsamples)
    parts = ["data given by the caller", f"{count} {_TIMES} {width} tokens"]
    if larger:
        parts.append("the first of a larger set")
    elif len(samples) < nsamples:
        parts.append(f"fewer than the {nsamples} asked")
    if min(map(len, samples)) < width:
        parts.append("padded")
    if plain:
        parts.append(PLAIN_CHATS)
    return build_tokens(samples, seqlen=width, pad_id=encoder.pad_id, description=", ".join(parts))


def _records(data: object) -> Iterator[Record]:
    """Yield the samples as records."""
    import torch

    if isinstance(data, str):
        raise DataError(
            "the calibration data is one string: give a list of texts, or name a dataset"
        )
    if hasattr(data, "iterrows"):
        raise DataError(
            "the calibration data is a data frame: give its rows, such as frame.to_dict('records')"
        )
    index = 0
    items: Iterable[Any]
    if isinstance(data, torch.Tensor) or (isinstance(data, Mapping) and "input_ids" in data):
        items = [data]
    elif isinstance(data, (Mapping, list)):
        items = rows_of(data) or [data] * isinstance(data, Mapping)
    elif isinstance(data, Iterable):
        items = data
    else:
        raise DataError(f"calibration data of type {type(data).__name__} is unknown; {_LEGAL}")
    for item in items:
        for record in _item(item, index=index):
            yield record
            index += 1


def _item(item: object, *, index: int) -> Iterator[Record]:
    """Return the records of one item, a batch or a row; index is that of the first."""
    import torch

    where = f"sample {index} of the calibration data"
    if isinstance(item, (list, tuple)) and len(item) == 1 and isinstance(item[0], torch.Tensor):
        # What a DataLoader over a TensorDataset of one tensor yields.
        item = item[0]
    if isinstance(item, Mapping) and "input_ids" in item:
        return _batch(item["input_ids"], item.get("attention_mask"), first=index)
    if isinstance(item, torch.Tensor):
        return _batch(item, None, first=index)
    if not isinstance(item, (str, Mapping, list, tuple)):
        raise DataError(f"{where} is of type {type(item).__name__}; {_LEGAL}")
    if not item:
        raise DataError(f"{where} is empty")
    return iter([to_record(item, where)])


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
