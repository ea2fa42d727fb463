"""Weights of a model on the hub: headers are read over there, data is fetched when it is read."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor

from autoround.core.dtypes import tensor_headers
from autoround.errors import ModelError
from autoround.model.files.hub import HubModel
from autoround.model.files.hub_headers import HubHeaders, remote_stored
from autoround.model.files.source import CheckpointSource, Headers


class HubSource(HubHeaders):
    """A checkpoint of which only headers are here until the first tensor is read."""

    def __init__(self, model: HubModel) -> None:
        super().__init__(model)
        self._headers: Headers | None = None
        self._files: CheckpointSource | None = None

    def headers(self) -> Headers:
        """Return shape and dtype of every tensor, from the first bytes of the files.

        Raises:
            ModelError: The hub does not have or give a file, or its header is damaged.
        """
        if self._headers is None:
            self._headers = tensor_headers(self.header_names())
        return self._headers

    def read(self, names: Iterable[str]) -> dict[str, Tensor]:
        """Read tensors onto the CPU in their stored dtype, fetching all weights at the first call.

        Raises:
            ModelError: The hub does not give them, or a name or its data is missing.
        """
        if self._files is None:
            self._model.fetch_weights()
            files = CheckpointSource(self._model.folder)
            if files.headers() != self.headers():
                raise ModelError(f"{self._model.name}: the files fetched are not those planned for")
            self._files = files
        return self._files.read(names)


def remote_headers(model: HubModel) -> Headers:
    """Return shape and dtype of every tensor of a model on the hub; files in the cache are read.

    Raises:
        ModelError: The hub does not have or give a file, or its header is damaged.
    """
    return tensor_headers(remote_stored(model))
