"""Tensors of written files, brought to a device some at a time, the next ones read meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import torch
from torch import Tensor

from autoround.device.protocol import Upload
from autoround.model.files.source import Headers, WeightSource


class FilesOnDevice:
    """A source whose tensors come on a device, as many at once as are asked for together.

    Args:
        files: where they are read from.
        upload: brings tensors to the device.
    """

    def __init__(
        self, files: WeightSource, upload: Callable[[Mapping[str, Tensor]], Upload]
    ) -> None:
        self._files, self._upload = files, upload
        self._here: dict[str, Tensor] = {}
        self._reading: tuple[list[str], Future[dict[str, Tensor]]] | None = None

    def headers(self) -> Headers:
        """Return shape and dtype of every tensor."""
        return self._files.headers()

    def bring(self, names: Sequence[str], *, following: Sequence[str] = ()) -> None:
        """Bring tensors to the device in one go, in place of those that were brought before.

        Args:
            names: of the tensors.
            following: of those that will be brought next, read by a thread meanwhile.

        Raises:
            ModelError: they cannot be read.
        """
        self._here = {}
        reading, self._reading = self._reading, None
        if reading is not None and reading[0] == list(names):
            tensors = reading[1].result()
        else:
            tensors = self._files.read(names)
        if following:
            executor = ThreadPoolExecutor(1)
            self._reading = list(following), executor.submit(self._files.read, list(following))
            executor.shutdown(wait=False)
        # Numbers that tell a shape are read by the host, which would wait for them.
        shapes = {name for name, t in tensors.items() if t.dtype == torch.int64 and t.numel() <= 2}
        brought = self._upload({n: t for n, t in tensors.items() if n not in shapes}).result()
        self._here = {**brought, **{name: tensors[name] for name in shapes}}

    def read(self, names: Iterable[str]) -> dict[str, Tensor]:
        """Return tensors where they were brought to; any others on the CPU.

        Raises:
            ModelError: one cannot be read.
        """
        wanted = list(names)
        rest = self._files.read([name for name in wanted if name not in self._here])
        return {name: self._here[name] if name in self._here else rest[name] for name in wanted}
