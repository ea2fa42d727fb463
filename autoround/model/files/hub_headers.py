"""Headers of a model's files of weights on the hub, read over there by their first bytes."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from autoround.errors import ModelError
from autoround.model.files.hub import HubModel, explain_errors
from autoround.model.files.stored import SINGLE, stored_dtype, stored_in, weight_map
from autoround.storage.dtypes import ITEM_BYTES, StoredHeader, StoredHeaders

#: Files whose headers are read at a time.
THREADS = 8


class HubHeaders:
    """The headers of a checkpoint whose weights are on the hub."""

    def __init__(self, model: HubModel) -> None:
        self._model = model
        self._stored: StoredHeaders | None = None

    def header_names(self) -> StoredHeaders:
        """Return shape and name of the dtype of every tensor, from the first bytes of the files.

        Raises:
            ModelError: The hub does not have or give a file, or its header is damaged.
        """
        if self._stored is None:
            self._stored = remote_stored(self._model)
        return self._stored


def remote_stored(model: HubModel) -> dict[str, StoredHeader]:
    """Return the headers of a model on the hub; files in the cache are read.

    Raises:
        ModelError: The hub does not have or give a file, or its header is damaged.
    """
    shards, missing = model.shards(), set(model.missing())

    def read(file: str) -> dict[str, StoredHeader]:
        return _remote_header(model, file) if file in missing else stored_in([model.folder / file])

    with ThreadPoolExecutor(THREADS) as pool:
        present = dict(zip(shards, pool.map(read, shards), strict=True))
    promised = weight_map(model.folder)
    if not promised:
        return present[SINGLE]
    headers = {}
    order = {file: number for number, file in enumerate(shards)}
    # Shard by shard, as a checkpoint on the disk lists them: outputs keep the order.
    for name, file in sorted(promised.items(), key=lambda item: order[item[1]]):
        if name not in present[file]:
            raise ModelError(
                f"{model.name}: {file} lacks the tensor {name!r} that the index promises"
            )
        headers[name] = present[file][name]
    return headers


def _remote_header(model: HubModel, file: str) -> dict[str, StoredHeader]:
    """Read the header of one file by range requests; one above 25 MB is refused unread."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import EntryNotFoundError, SafetensorsParsingError

    with explain_errors(model.name):
        try:
            header = HfApi().parse_safetensors_file_metadata(
                model.name.repo, file, revision=model.commit
            )
        except EntryNotFoundError as error:
            raise ModelError(model.lacks(file)) from error
        except (SafetensorsParsingError, TypeError, ValueError, AttributeError) as error:
            raise ModelError(f"{model.name}: {file} is damaged: {error}") from error
    place = f"{model.name}: {file}"
    return {name: _read_entry(place, name, header.tensors[name]) for name in sorted(header.tensors)}


def _read_entry(place: str, name: str, info: Any) -> StoredHeader:
    """Return shape and name of the dtype of a header's entry that can be true."""
    dtype = stored_dtype(place, name, str(info.dtype))
    offsets = info.data_offsets
    numbers = (*info.shape, *offsets) if isinstance(info.shape, list) else (-1,)
    if len(offsets) != 2 or not all(type(number) is int and number >= 0 for number in numbers):
        raise ModelError(f"{place} is damaged: tensor {name!r} has no shape or place")
    if math.prod(info.shape) * ITEM_BYTES[dtype] != offsets[1] - offsets[0]:
        raise ModelError(f"{place} is damaged: tensor {name!r} does not fill its place")
    return tuple(info.shape), dtype
