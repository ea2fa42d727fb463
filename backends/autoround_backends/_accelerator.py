"""What CUDA and XPU share: torch offers both through modules of the same shape."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cached_property, partial
from importlib.util import find_spec
from typing import Any, Protocol

import torch
from torch import Tensor

from autoround.core.float32_products import EXACT, SHORT, float32_products
from autoround.core.ops import Ops, TorchOps
from autoround.device.parity import disagreement
from autoround.device.protocol import (
    WORTHWHILE_SPEEDUP,
    BlockCall,
    Download,
    Memory,
    Note,
    Speed,
    Step,
    Upload,
    WideProduct,
    sort_speeds,
)
from autoround.device.runtime import TorchRuntime
from autoround.errors import DeviceError
from autoround_backends._compile import Compiled, private_folder
from autoround_backends._streamed import (
    QueuedDownload,
    Recorded,
    Recording,
    SideUpload,
    StreamModule,
)

#: What errors say that are not torch's allocator's: of cuBLAS, of CUDA's driver, of Level Zero.
FULL = ("out of memory", "alloc_failed", "out_of_device_memory", "out_of_resources")

#: Error of products with sums in float32, relative to the largest; bfloat16 has 4e-3, float16 5e-4.
WIDE_ERROR = 1e-5


class DeviceModule(StreamModule, Protocol):
    """The part of ``torch.cuda`` and ``torch.xpu`` that is used here."""

    def device_count(self) -> int:
        """Return how many devices there are."""

    def device(self, device: torch.device) -> AbstractContextManager[object]:
        """Make a device the current one."""

    def mem_get_info(self, device: torch.device) -> tuple[int, int]:
        """Return free and total bytes."""

    def max_memory_allocated(self, device: torch.device) -> int:
        """Return the peak of allocated bytes."""

    def max_memory_reserved(self, device: torch.device) -> int:
        """Return the peak of bytes that torch keeps for itself."""

    def synchronize(self, device: torch.device) -> None:
        """Wait for queued work."""

    def empty_cache(self) -> None:
        """Release cached blocks."""


class AcceleratorRuntime(TorchRuntime):
    """One accelerator reached through a torch device module.

    graph: name of the module's class that records work; empty where there is none.
    recording: options of the module's ``graph``.
    compiles_from: operations of products from which compiling blocks pays, where Triton is there.
    """

    dtypes = (torch.float32, torch.bfloat16, torch.float16)
    timed_size = 2048

    def __init__(
        self,
        name: str,
        index: int,
        *,
        module: DeviceModule,
        graph: str = "",
        recording: Mapping[str, Any] | None = None,
        compiles_from: float = float("inf"),
    ) -> None:
        super().__init__(name, torch.device(name, index))
        self._module = module
        self._graph, self._recording = graph, dict(recording or {})
        self._compiles_from = compiles_from
        self._found: dict[str, Note] = {}

    @cached_property
    def ops(self) -> Ops:
        """Our Triton kernels where they can be had and agree with plain torch, else that."""
        ops, note = triton_ops(self.device, self._module)
        self._found["ops"] = note
        return ops

    @cached_property
    def _speeds(self) -> tuple[Speed, ...]:
        with float32_products(EXACT, self.device):
            measured = [self._measured(dtype) for dtype in self.dtypes]
        ordered = sort_speeds(measured)
        # float16 overflows on the residual streams of many models: only when bfloat16 loses.
        bfloat, half = measured[1], measured[2]
        if ordered[0] is half and bfloat.flops * 1.5 > half.flops:
            return (bfloat, *(s for s in ordered if s is not bfloat))
        return ordered

    @cached_property
    def _short_products(self) -> bool:
        """Whether products of float32 are to be computed from shorter numbers (TF32).

        Only where float32 is what measurement chose, and they are measured to be worth it too:
        every device seen to have them multiplies bfloat16 faster still.
        """
        plain = self.speeds()[0]
        if plain.dtype != torch.float32:
            return False
        with float32_products(SHORT, self.device):
            flops = self._measured(torch.float32).flops
        self._found["products"] = Note(
            f"float32 products: {plain.flops / 1e12:.1f} TFLOP/s, {flops / 1e12:.1f} from "
            "shorter numbers (TF32)"
        )
        return flops >= WORTHWHILE_SPEEDUP * plain.flops

    @contextmanager
    def computing(self) -> Iterator[None]:
        """Make the device the current one, and settle what products of float32 are made of.

        All of their digits count, but where shorter numbers were measured to be worth it: a switch
        that the user's program has set is for its own products.
        """
        precision = SHORT if self._short_products else EXACT
        products = float32_products(precision, self.device)
        with private_folder(), self._module.device(self.device), products:
            yield

    def memory(self) -> Memory:
        """Return total and free bytes of the device."""
        free, total = self._module.mem_get_info(self.device)
        return Memory(total, free)

    def peak_bytes(self) -> int:
        """Return the peak of bytes allocated on the device."""
        return self._module.max_memory_allocated(self.device)

    def peak_reserved_bytes(self) -> int:
        """Return the peak of bytes reserved on the device: what other processes cannot have."""
        return self._module.max_memory_reserved(self.device)

    def out_of_memory(self, error: BaseException) -> bool:
        """Tell whether torch's allocator, a library or the driver says that memory is full.

        Args:
            error: that an operation ended with.
        """
        if super().out_of_memory(error):
            return True
        text = str(error).lower()
        return isinstance(error, RuntimeError) and any(words in text for words in FULL)

    def synchronize(self) -> None:
        """Wait for queued work."""
        self._module.synchronize(self.device)

    def release(self) -> None:
        """Release cached blocks."""
        self._module.empty_cache()

    def notes(self) -> tuple[Note, ...]:
        """Say what the operations are made of, and what was tried and given up."""
        _ = self.ops, self._short_products, self._wide_product
        return tuple(self._found.values())

    @cached_property
    def _side(self) -> Any:
        return self._module.Stream(device=self.device)

    @cached_property
    def _recording_stream(self) -> Any:
        # One for all recordings: memory that a stream of each kept would be of use to none.
        return self._module.Stream(device=self.device)

    def upload(self, tensors: Mapping[str, Tensor]) -> Upload:
        """Copy tensors from pinned memory on a stream of its own."""
        pins = "pins" not in self._found
        upload = SideUpload(
            tensors, device=self.device, module=self._module, side=self._side, pin=pins
        )
        if upload.refusal:
            self._note_pins(upload.refusal)
        return upload

    def download(self, tensor: Tensor) -> Download:
        """Copy a tensor to pinned memory behind the work that is queued."""
        if "pins" not in self._found:
            try:
                return QueuedDownload(tensor, device=self.device, module=self._module)
            except RuntimeError as error:
                self._note_pins(str(error) or type(error).__name__)
        return super().download(tensor)

    def _note_pins(self, refusal: str) -> None:
        text = f"memory cannot be pinned, so copies wait: {refusal.splitlines()[0][:200]}"
        self._found["pins"] = Note(text, True)

    @cached_property
    def _wide_product(self) -> WideProduct | None:
        """torch's own product where the device has it and it says what float64 does."""
        try:
            reason = wide_product_refusal(self.device)
        except Exception as error:  # a library and a driver may fail in any way
            reason = (str(error) or type(error).__name__).splitlines()[0][:200]
        if not reason:
            self._found["wide"] = Note("Hessians: products of 16 bit, summed in float32")
            return torch_wide_product
        self._found["wide"] = Note(f"Hessians: inputs are made float32 first: {reason}", True)
        return None

    def wide_product(self) -> WideProduct | None:
        """Return torch's product of 16-bit operands with sums in float32, if there is one here."""
        return self._wide_product

    def compiles_from(self) -> float:
        """Return from how many operations compiling is worth it; never without Triton."""
        return self._compiles_from if find_spec("triton") is not None else float("inf")

    def compile(self, call: BlockCall) -> BlockCall:
        """Return a call that is compiled when it is first made, where that is known to pay."""
        return call if self.compiles_from() == float("inf") else Compiled(call)

    def capture(self, step: Step, examples: Sequence[Tensor]) -> Step:
        """Record a step as a graph; the step itself where that fails or says something else."""
        make = getattr(self._module, self._graph, None) if self._graph else None
        if make is None:
            return step
        # A recording has the addresses of tables that the operations made for it.
        ops = self.__dict__.get("ops")
        keeping = getattr(ops, "keeping_tables", nullcontext)
        try:
            with keeping() as kept:
                recorded = Recorded(
                    step,
                    examples,
                    device=self.device,
                    module=self._module,
                    graph=make(),
                    how=Recording(
                        self._recording,
                        self._recording_stream,
                        getattr(ops, "filling_tables", nullcontext),
                    ),
                )
            recorded.kept = kept or []
        except RuntimeError as error:  # of torch, for anything that a graph cannot hold
            reason = str(error).splitlines()[0][:200]
        else:
            self._found["graph"] = Note("steps are recorded as graphs")
            return recorded
        # The error held what the attempt had made; the step itself needs that memory.
        self.release()
        self._found["graph"] = Note(f"steps are not recorded as graphs: {reason}", True)
        return step


def torch_wide_product(left: Tensor, right: Tensor) -> Tensor:
    """Multiply matrices of 16-bit numbers with sums in float32.

    Args:
        left, right: [a, b] and [b, c] of one dtype.
    """
    return torch.mm(left, right, out_dtype=torch.float32)


def wide_product_refusal(device: torch.device) -> str:
    """Return why torch's product of 16-bit operands is no use on a device; empty if it is.

    Its sums are compared with those of float64: some are beyond float16, and all have more digits
    than either dtype.
    """
    rng = torch.Generator().manual_seed(0)
    for dtype in (torch.bfloat16, torch.float16):
        inputs = (64 * torch.randn((256, 64), generator=rng)).to(dtype)
        exact = inputs.double().t() @ inputs.double()
        there = inputs.to(device)
        product = torch_wide_product(there.t(), there).to("cpu").double()
        apart = float((product - exact).abs().max() / exact.abs().max())
        # Not "greater than": a NaN is apart as well.
        if not apart <= WIDE_ERROR:
            return f"products of {str(dtype).removeprefix('torch.')} are off by {apart:.1e}"
    return ""


def triton_ops(device: torch.device, module: DeviceModule | None = None) -> tuple[Ops, Note]:
    """Return operations for a device, and what they are made of.

    module: of the device; None for one that Triton's interpreter works on.
    """
    plain = "fake-quantize and sign step in plain torch"
    if find_spec("triton") is None:
        return TorchOps(), Note(f"{plain}: triton is not installed", True)
    try:
        from autoround_backends._triton_cache import keep_kernels

        unkept = keep_kernels()
        from autoround_backends._triton_ops import TritonOps

        ops = TritonOps(device) if module is None else TritonOps(device, on_device(module, device))
        # A kernel may compile and still compute something else: it is tried before it is used.
        reason = disagreement(ops, device)
    except Exception as error:  # a compiler and a driver may fail in any way
        text = (str(error) or type(error).__name__).splitlines()[0][:200]
        return TorchOps(), Note(f"{plain}: Triton fails: {type(error).__name__}: {text}", True)
    if reason:
        return TorchOps(), Note(f"{plain}: Triton kernels disagree with it: {reason}", True)
    kept = f", and not kept for the next run: {unkept}" if unkept else ""
    return ops, Note(f"fake-quantize and sign step in Triton, in agreement with plain torch{kept}")


def on_device(
    module: DeviceModule, device: torch.device
) -> partial[AbstractContextManager[object]]:
    """Return what makes a device the current one for a moment."""
    return partial(module.device, device)


def checked_index(name: str, index: int | None, *, devices: Sequence[str]) -> int:
    """Return a device index that exists.

    Raises:
        DeviceError: the index is beyond the last device.
    """
    chosen = index or 0
    if chosen >= len(devices):
        raise DeviceError(
            f"{name}:{chosen} does not exist; devices of this backend: {', '.join(devices)}"
        )
    return chosen
