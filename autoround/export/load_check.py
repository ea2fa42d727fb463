"""The written folder, loaded and run as a user does it, before it is published."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn

from autoround.core.loss import relative_square_error
from autoround.errors import AutoRoundError, VerificationError, one_line
from autoround.export.staging import MARKER
from autoround.model.block_outputs import watch_outputs
from autoround.storage.files import link, temporary_folder

#: Loads a folder of packed layers onto the CPU in float32: whole, or where the memory has no room
#: for that, so that the modules at the given paths are read as they run.
Loader: TypeAlias = Callable[[Path, Sequence[str]], nn.Module]
#: Largest squared difference from the blocks that were read back, relative to the mean square.
TOLERANCE = 1e-3


class Batch(NamedTuple):
    """What a loaded model is run on, and what has to come out.

    ids: int64 [1, seq]. blocks: paths of the decoder blocks. first: input of the first block
    [1, seq, hidden], put in place of the embeddings, which files hold in 16 bit.
    expected: the last block's output [1, seq, hidden] by the blocks that were read back. Both are
    None where blocks do not run alone: then the outputs have to be finite.
    """

    ids: Tensor
    blocks: tuple[str, ...]
    first: Tensor | None = None
    expected: Tensor | None = None


def check_loads(folder: Path, load: Loader, batch: Batch) -> None:
    """Load a folder of packed layers, run a batch through it, and compare.

    Packed layers are run as they are, in the class that the written config makes, under the names
    that the loader maps: what unpacks well may still not run.

    Args:
        folder: of safetensors files, complete.
        load: what a user loads it by.
        batch: what it is run on.

    Raises:
        VerificationError: it cannot be loaded or run, or computes something else.
    """
    with temporary_folder(None, "autoround-") as beside:
        # Loaders refuse a folder that is marked as unfinished, as this one still is.
        for path in folder.resolve().iterdir():
            if path.is_file() and path.name != MARKER:
                link(path, beside / path.name)
        try:
            model = load(beside, batch.blocks)
            output = _last_output(model, batch)
        except VerificationError:
            raise
        except AutoRoundError as error:
            raise VerificationError(f"what was written cannot be loaded: {error}") from error
    expected = batch.expected
    if expected is None:
        if not bool(output.isfinite().all()):
            raise VerificationError("loaded again, the model puts out NaN or infinity")
        return
    distance = relative_square_error(output, expected)
    if not distance <= TOLERANCE:
        raise VerificationError(
            f"loaded again, the last block's output is {distance:.2e} of its size from that "
            f"of the blocks read back (allowed: {TOLERANCE:.0e}); the files are not used"
        )


def _last_output(model: Any, batch: Batch) -> Tensor:
    """Run a model, and return what its last block puts out."""
    outputs: list[Tensor] = []
    begin, last = batch.blocks[0], batch.blocks[-1]

    def put(module: nn.Module, args: Any, named: Any) -> Any:
        if batch.first is None:
            return None
        if args:
            return (batch.first, *args[1:]), named
        return args, {**named, "hidden_states": batch.first}

    first = model.get_submodule(begin).register_forward_pre_hook(put, with_kwargs=True)
    try:
        with torch.no_grad(), watch_outputs(model, [last], lambda path, out: outputs.append(out)):
            model(input_ids=batch.ids, use_cache=False)
    except AutoRoundError:
        raise
    except Exception as error:  # somebody else's code fails in many unrelated ways
        reason = one_line(error)
        raise VerificationError(f"loaded again, the model cannot be run: {reason}") from error
    finally:
        first.remove()
    if not outputs:
        raise VerificationError(f"loaded again, the model does not run its block {last}")
    return outputs[-1]
