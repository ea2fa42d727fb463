"""One GGUF file, written tensor by tensor as blocks are finished."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from autoround.core.grids.gguf_types import GGUF_TYPES
from autoround.core.rtn import quantize_matrix
from autoround.errors import VerificationError
from autoround.export.model_config import model_config
from autoround.export.staging import Staging
from autoround.export.verify import ReadBackCheck
from autoround.formats.gguf import blocks
from autoround.formats.gguf import type_mix as gguf_mix
from autoround.formats.gguf.blocks import GgufTensor
from autoround.formats.gguf.format import file_type_of
from autoround.formats.gguf.tensors import nested_tensor
from autoround.gguf import arch
from autoround.gguf.arch import Target
from autoround.gguf.architectures import text_part
from autoround.gguf.container import Container
from autoround.gguf.metadata import metadata
from autoround.gguf.names import name_for_stripping, published_name
from autoround.gguf.reader import Reader
from autoround.gguf.tokenizer import strips_like_phi3, tokenizer_json, tokenizer_metadata
from autoround.model.files.locate import read_config
from autoround.model.skeleton import Skeleton
from autoround.planning.gguf_tensors import gguf_layout
from autoround.session.block_output import BlockOutput
from autoround.storage.files import write_file
from autoround.types import BlockPlan, OutputPlan, Plan, QuantizedTensor

Part = Tensor | QuantizedTensor | GgufTensor
#: Elements of an untuned tensor that are searched at a time.
CHUNK_ELEMENTS = 1 << 22


class GgufWriter:
    """Collects what belongs to one tensor of the file, and packs it when it is complete.

    Args:
        staging: the folder.
        plan: of the pass.
        part: the file type.
        skeleton: the model.
        tokenizer: goes into the file's metadata.
        check: holds the file against the blocks in memory.
    """

    def __init__(
        self,
        staging: Staging,
        plan: Plan,
        *,
        part: OutputPlan,
        skeleton: Skeleton,
        tokenizer: Any,
        check: ReadBackCheck,
    ) -> None:
        self._staging, self._skeleton, self._part, self.check = staging, skeleton, part, check
        layout = gguf_layout(skeleton, part, ignored=plan.unquantized)
        self._plan = plan
        # Tuned layers come by their module, targets go by the tensors of the model.
        self._tensors = {x.name: x.tensor for block in plan.blocks for x in block.layers}
        self._expected = list(layout.tensors)
        self._sources = {name for target, _ in layout.tensors for name in target.sources}
        self._pending: dict[str, Part] = {}
        self._rounded: dict[str, list[tuple[Target, Tensor]]] = {}
        self._path = staging.staging / file_name(plan.model, part)
        self._container = Container(
            self._path,
            [(target.name, target.shape, kind) for target, kind in layout.tensors],
            arch=arch.architecture(skeleton.config.to_dict()),
            fields=gguf_fields(skeleton, tokenizer, model=plan.model, file_type=layout.file_type),
        )

    @property
    def staging(self) -> Path:
        """Where the files are until they are published."""
        return self._staging.staging

    def pack(self, output: BlockOutput) -> list[Mapping[str, Tensor]]:
        """Return what a finished block completes, and run the check's batch through it.

        Args:
            output: a block, or the layers outside the blocks, which are rounded to their own types.

        Returns:
            The tensors by their names in the file, packed, in its order.

        Raises:
            VerificationError: the blocks of a tensor do not read back as they were.
        """
        # On the host: what the header puts after later tensors waits for them.
        layers = output.on(torch.device("cpu")).layers
        self._pending.update(
            {self._tensors[n]: layer for n, layer in layers.items() if n in self._tensors}
        )
        packed = dict(self._pack_complete(output.kept))
        # What is rounded here is checked as the file holds it.
        self.check.add(output, self._as_written(output.kept))
        return [packed]

    def write(self, tensors: Sequence[Mapping[str, Tensor]]) -> None:
        """Write what :meth:`pack` made of a block.

        Args:
            tensors: by their names in the file, on the CPU, in its order.
        """
        for part in tensors:
            for name, data in part.items():
                self._container.add(name, data)

    def add(self, output: BlockOutput) -> None:
        """Pack a finished block, and write what it completes."""
        self.write(self.pack(output))

    def add_unquantized(self, tensors: Mapping[str, Tensor]) -> None:
        """Take other tensors, and write whatever is complete."""
        for name, data in self._pack_complete(tensors):
            self._container.add(name, data)

    def _pack_complete(self, tensors: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
        """Take unquantized tensors; yields what is complete, packed, with its name in the file."""
        tied = self._skeleton.tied
        # A tower beside the text model has no place in the file; the plan says so.
        self._pending.update(
            {n: t for n, t in tensors.items() if n not in tied and n in self._sources}
        )
        # The file takes tensors in the order of its header: what comes early waits.
        while self._expected:
            target, kind = self._expected[0]
            if not all(name in self._pending for name in target.sources):
                return
            parts = [self._pending[name] for name in target.sources]
            data = to_block_bytes(target, kind, parts)
            rounded = kind in GGUF_TYPES and len(target.shape) > 2
            if rounded and isinstance(parts[0], Tensor):
                weight = blocks.dequantize(blocks.unpack(data, kind)).reshape(target.shape)
                self._rounded.setdefault(target.sources[0], []).append((target, weight))
            self._expected.pop(0)
            # Gate and up of stacked experts are two targets of one source.
            later = {name for other, _ in self._expected for name in other.sources}
            for name in set(target.sources) - later:
                del self._pending[name]
            yield target.name, data

    def _as_written(self, tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Return the unquantized tensors of a block as the file holds them.

        Stacked experts whose halves have different types are not tuned, and are rounded here.
        """
        rounded, self._rounded = self._rounded, {}
        return {
            name: arch.restore(rounded[name], tuple(tensor.shape)) if name in rounded else tensor
            for name, tensor in tensors.items()
        }

    def add_unmapped(self, tensors: Mapping[str, Tensor]) -> None:
        """Leave out tensors that have no place in the file; the plan says so."""

    def add_text(self, name: str, text: str) -> None:
        """Write a small file beside the tensors."""
        write_file(self._staging.staging / name, text)

    def complete(self) -> None:
        """Close the file, and hold it against the blocks."""
        if self._expected:
            missing = self._expected[0][0].name
            raise VerificationError(f"{self._path.name}: tensor {missing} was not written")
        self._container.finish()
        # With the config beside it the file can be loaded here, and its origin is plain.
        config = model_config(self._skeleton, self._plan.architecture, "float32")
        self.add_text("config.json", json.dumps(config, indent=2) + "\n")
        written = WrittenGguf(self._path, self._skeleton)
        self.check.compare(written, f"format {self._part.format}")

    def publish(self) -> int:
        """Move the complete folder into place; returns its bytes."""
        return self._staging.publish()

    def close(self) -> None:
        """Let go of the file, complete or not."""
        self._container.close()


class WrittenGguf:
    """A GGUF file, opened again; everything in it is read by the ``gguf`` package."""

    def __init__(self, path: Path, skeleton: Skeleton) -> None:
        shapes = {name: skeleton.header(name)[0] for name in skeleton.keys}
        self._reader = Reader(path, skeleton.config.to_dict(), shapes)

    def block(self, block: BlockPlan, names: Sequence[str]) -> dict[str, Tensor]:
        """Return the tensors of a block by the model's own names, weights unpacked."""
        del block
        return {name: self._reader.read(name) for name in names}

    def raise_late(self) -> None:
        """Do nothing: whatever is wrong is raised when it is read."""


def file_name(model: str, part: OutputPlan) -> str:
    """Return the name of the file, by the custom of those who publish them.

    One whose types are not all those of its file type says so.
    """
    stem = re.sub(r"[^A-Za-z0-9._-]+", "-", Path(model).name).strip("-.") or "model"
    file_type = file_type_of(part).upper()
    return f"{stem}-{file_type}{'-MIXED' * bool(part.types)}.gguf"


def gguf_fields(skeleton: Skeleton, tokenizer: Any, *, model: str, file_type: str) -> list[Any]:
    """Return the metadata of a file; what a model has that it cannot express is refused."""
    config = skeleton.config.to_dict()
    # Of the embeddings, which may have more rows than the tokenizer has tokens.
    rows = next(
        skeleton.header(name)[0][0]
        for name in skeleton.keys
        if re.search(r"embed_tokens|wte|embed_in|word_embeddings", name)
    )
    raw = config if skeleton.folder is None else read_config(skeleton.folder)
    name = published_name(raw, folder=skeleton.folder, called=model)
    if tokenizer is not None:
        name = name_for_stripping(name, strips_like_phi3(tokenizer_json(tokenizer)))
    return [
        *metadata(config, name=name, file_type=file_type),
        *tokenizer_metadata(tokenizer, vocab_size=rows, config=text_part(config)),
    ]


def to_block_bytes(target: Target, kind: str, parts: list[Part]) -> Tensor:
    """Return what is written for a tensor: blocks uint8 [rows, bytes], or plain numbers.

    Raises:
        VerificationError: the blocks do not read back as they were.
    """
    held = parts[0] if len(parts) == 1 else None
    if isinstance(held, QuantizedTensor | GgufTensor):
        order = arch.row_order(target)
        # Stacked experts are codes [experts * out, in]: a half of them is rows of each.
        if len(target.shape) > 2:
            order = arch.expert_rows(target, len(held.codes))
        return pack_checked(_reordered(_as_gguf(held, kind), order), target.name)
    tensors = [part for part in parts if isinstance(part, Tensor)]
    tensor = arch.apply(target, tensors)
    if kind in (gguf_mix.F16, gguf_mix.F32):
        return tensor.to(torch.float16 if kind == gguf_mix.F16 else torch.float32).contiguous()
    rows = tensor.reshape(-1, tensor.shape[-1])
    step = max(1, CHUNK_ELEMENTS // rows.shape[1])
    return torch.cat(
        [pack_checked(round_rows(part, kind), target.name) for part in rows.split(step)]
    )


def pack_checked(layer: GgufTensor, name: str) -> Tensor:
    """Pack a layer, and check that its bytes read back as it is."""
    data = blocks.pack(layer)
    back = blocks.unpack(data, layer.kind)
    for part in ("codes", "scale", "sub_scale", "minimum", "sub_minimum"):
        ours, theirs = getattr(layer, part), getattr(back, part)
        # By value: sub-minima may be uint8 here, and come back as int8.
        if ours is not None and not bool((ours == theirs).all()):
            raise VerificationError(f"tensor {name}: its {part} do not come back as they were")
    return data


def _as_gguf(layer: QuantizedTensor | GgufTensor, kind: str) -> GgufTensor:
    if isinstance(layer, QuantizedTensor):
        return GgufTensor(gguf_mix.kind_of(layer.scheme) or kind, layer.codes, layer.scale)
    return layer


def _reordered(layer: GgufTensor, order: Tensor | None) -> GgufTensor:
    """Return the layer with its rows in the order of the file."""
    if order is None:
        return layer
    parts = (layer.codes, layer.scale, layer.sub_scale, layer.minimum, layer.sub_minimum)
    return GgufTensor(layer.kind, *(None if p is None else p[order] for p in parts))  # type: ignore[arg-type]


def round_rows(weight: Tensor, kind: str) -> GgufTensor:
    """Round rows of a weight by searched scales, for tensors that are not tuned.

    Args:
        weight: [rows, columns], any float dtype.
        kind: block type of the result.
    """
    scheme = gguf_mix.scheme_of(kind)
    assert scheme is not None
    matrix = quantize_matrix(weight, scheme)
    if matrix.nested is None:
        return GgufTensor(kind, matrix.codes, matrix.scale)
    return nested_tensor(kind, matrix.codes, matrix.nested)
