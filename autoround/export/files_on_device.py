"""Tensors of written files, brought to a device some at a time, the next ones read meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

from torch import Tensor

from autoround.device.protocol import Upload
from autoround.formats.matrix_stacks import tells_shape
from autoround.model.files.source import Headers, WeightSource
from autoround.session.joined_tensors import cut_portions, join_tensors, split_tensors


class _Batch(NamedTuple):
    """Tensors that were read together.

    on_host: those that stay there, by name. portions: the names of others that lie one after the
    other. joined: the bytes of each portion, by its number.
    """

    on_host: dict[str, Tensor]
    portions: list[list[str]]
    joined: dict[str, Tensor]


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
        self._reading: tuple[list[str], Future[_Batch]] | None = None

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
            batch = reading[1].result()
        else:
            batch = self._read_batch(names)
        if following:
            executor = ThreadPoolExecutor(1)
            self._reading = list(following), executor.submit(self._read_batch, list(following))
            executor.shutdown(wait=False)
        brought = self._upload(batch.joined).result()
        headers = self._files.headers()
        self._here = dict(batch.on_host)
        for number, portion in enumerate(batch.portions):
            tensors = split_tensors(brought[str(number)], [headers[name] for name in portion])
            self._here.update(zip(portion, tensors, strict=True))

    def _read_batch(self, names: Sequence[str]) -> _Batch:
        """Read tensors, and join those that go to the device."""
        tensors = self._files.read(names)
        # Numbers that tell a shape are read by the host, which would wait for them.
        on_host = {name: tensor for name, tensor in tensors.items() if tells_shape(tensor)}
        rest = [name for name in tensors if name not in on_host]
        portions = [[rest[n] for n in part] for part in cut_portions([tensors[n] for n in rest])]
        joined = {
            str(number): join_tensors([tensors[name] for name in portion])
            for number, portion in enumerate(portions)
        }
        return _Batch(on_host, portions, joined)

    def read(self, names: Iterable[str]) -> dict[str, Tensor]:
        """Return tensors where they were brought to; any others on the CPU.

        Raises:
            ModelError: one cannot be read.
        """
        wanted = list(names)
        rest = self._files.read([name for name in wanted if name not in self._here])
        return {name: self._here[name] if name in self._here else rest[name] for name in wanted}
