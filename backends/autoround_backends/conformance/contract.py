"""What a backend and its runtime promise besides numbers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from autoround.device.protocol import Availability
from autoround.errors import DeviceError
from autoround_backends.conformance.subject import Case, Disagreement, Subject, require

#: An index that no machine has.
BEYOND = 10**6
#: Elements of float32 that memory is watched with: 64 MB.
WATCHED = 1 << 24


def contract_cases() -> Iterator[Case]:
    """Yield the cases of this file."""
    yield Case("a backend says what it is", _says_what_it_is, False)
    yield Case("probing changes nothing", _probes_alike, False)
    yield Case("an index beyond the last device is refused", _refuses_beyond, False)
    yield Case("a runtime says what it is", _runtime, False)
    yield Case("a setting is put back", _puts_back, False)
    yield Case("speeds are measured once", _speeds)
    yield Case("memory is accounted for", _memory)
    yield Case("what is uploaded arrives as it was", _uploads)
    yield Case("a download is what was there when it was queued", _downloads)
    yield Case("a product of 16 bit is summed in float32", _multiplies_wide)
    yield Case("a captured step does what the step does", _captures)
    yield Case("a compiled call does what the call does", _compiles)


def _says_what_it_is(subject: Subject) -> None:
    availability = subject.backend.probe()
    require(bool(availability.reason), "probe() gives no reason, nor what it found")
    require(isinstance(subject.backend.rank, int), "rank is no integer")
    require(bool(availability.devices), "probe() names no device")
    for name in availability.devices:
        known = name == subject.backend.name or name.startswith(subject.backend.name + ":")
        require(known, f"device {name!r} is not named after the backend")


def _probes_alike(subject: Subject) -> None:
    first: Availability = subject.backend.probe()
    require(first == subject.backend.probe(), "two probes say different things")


def _refuses_beyond(subject: Subject) -> None:
    try:
        subject.backend.open(BEYOND)
    except DeviceError as error:
        require(str(BEYOND) in str(error), f"the message does not name the index: {error}")
    else:
        raise Disagreement(f"open({BEYOND}) opens something")


def _runtime(subject: Subject) -> None:
    runtime = subject.runtime
    require(runtime.name == subject.backend.name, f"the runtime calls itself {runtime.name!r}")
    require(isinstance(runtime.device, torch.device), "device is no torch.device")
    require(isinstance(runtime.own_memory, bool), "own_memory is neither true nor false")
    require(all(note.text for note in runtime.notes()), "a note without text")
    runtime.synchronize()
    runtime.release()
    require(runtime.peak_bytes() >= 0, "a peak below zero")
    reserved = runtime.peak_reserved_bytes()
    require(reserved >= runtime.peak_bytes(), f"{reserved} bytes reserved, fewer than in use")
    require(
        runtime.out_of_memory(torch.OutOfMemoryError("full")) == runtime.own_memory,
        "torch's own error is not told from others, or is one of the host's memory",
    )
    require(not runtime.out_of_memory(ValueError("a shape")), "any error is one of memory")


def _puts_back(subject: Subject) -> None:
    before = torch.get_num_threads(), torch.get_float32_matmul_precision()
    with subject.runtime.computing():
        pass
    after = torch.get_num_threads(), torch.get_float32_matmul_precision()
    require(before == after, f"threads and precision were {before} and are {after}")


def _speeds(subject: Subject) -> None:
    speeds = subject.runtime.speeds()
    require(all(speed.flops > 0 for speed in speeds), "a speed that is not above zero")
    require(torch.float32 in {speed.dtype for speed in speeds}, "float32 is not among them")
    require(subject.runtime.speeds() == speeds, "they are other ones when asked again")


def _memory(subject: Subject) -> None:
    runtime = subject.runtime
    memory = runtime.memory()
    require(0 < memory.free <= memory.total, f"{memory} is no memory")
    # Written, not only allocated: pages of a host count once they are touched.
    tensor = torch.ones(WATCHED, device=runtime.device)
    runtime.synchronize()
    peak = runtime.peak_bytes()
    require(peak >= tensor.numel() * 4, f"a peak of {peak} with {tensor.numel() * 4} bytes held")
    del tensor
    runtime.release()
    require(runtime.peak_bytes() >= peak, "the peak fell")


def _uploads(subject: Subject) -> None:
    rng = torch.Generator().manual_seed(0)
    tensors = {
        "weight": torch.randn((37, 5), generator=rng),
        "short": torch.randn((4, 4), generator=rng).to(torch.bfloat16),
        "turned": torch.randn((6, 3), generator=rng).t(),
        "codes": torch.arange(7, dtype=torch.uint8),
    }
    uploaded = subject.runtime.upload(tensors).result()
    require(list(uploaded) == list(tensors), "other names, or in another order")
    for name, tensor in tensors.items():
        require(uploaded[name].device.type == subject.runtime.device.type, f"{name} is elsewhere")
        require(torch.equal(uploaded[name].to("cpu"), tensor), f"{name} is not what was given")


def _downloads(subject: Subject) -> None:
    number = torch.arange(3.0).to(subject.runtime.device)
    download = subject.runtime.download(number)
    number.add_(1.0)
    copy = download.result()
    require(copy.device.type == "cpu", "a download is not on the CPU")
    require(copy.tolist() == [0.0, 1.0, 2.0], "a download is not what was there when it was queued")
    require(download.ready(), "a download that was waited for is not ready")


def _multiplies_wide(subject: Subject) -> None:
    multiply = subject.runtime.wide_product()
    if multiply is None:
        return
    rng = torch.Generator().manual_seed(2)
    for dtype in (torch.bfloat16, torch.float16):
        # A part of a wider matrix, as column blocks are; the sums are beyond float16.
        inputs = (100 * torch.randn((300, 48), generator=rng)).to(dtype)
        there = inputs.to(subject.runtime.device)
        product = multiply(there[:, 8:24].t(), there[:, 8:])
        wanted = inputs[:, 8:24].double().t() @ inputs[:, 8:].double()
        require(product.dtype == torch.float32, f"a product in {product.dtype}")
        require(product.shape == wanted.shape, f"a product of shape {tuple(product.shape)}")
        apart = float((product.to("cpu").double() - wanted).abs().max() / wanted.abs().max())
        require(apart <= 1e-5, f"products of {dtype} are off by {apart:.1e}")


def _captures(subject: Subject) -> None:
    device = subject.runtime.device
    weight = torch.randn((8, 8), generator=torch.Generator().manual_seed(1)).to(device)

    def step(inputs: Sequence[Tensor]) -> list[Tensor]:
        return [inputs[0] @ weight, inputs[0].sum()]

    captured = subject.runtime.capture(step, [torch.ones((4, 8), device=device)])
    # The last has other shapes than the recording: the step itself has to answer.
    for rows, seed in ((4, 2), (4, 3), (2, 4)):
        x = torch.randn((rows, 8), generator=torch.Generator().manual_seed(seed)).to(device)
        for output, wanted in zip(captured([x]), step([x]), strict=True):
            near = torch.allclose(output.to("cpu"), wanted.to("cpu"), rtol=1e-4, atol=1e-5)
            require(near, f"other numbers for {rows} rows")
    # Tuning changes its parameters in place between the plays of a recording.
    weight.mul_(2.0)
    x = torch.ones((4, 8), device=device)
    near = torch.allclose(captured([x])[0].to("cpu"), (x @ weight).to("cpu"), rtol=1e-4)
    require(near, "a tensor that was changed in place is not seen")


def _compiles(subject: Subject) -> None:
    device = subject.runtime.device
    rng = torch.Generator().manual_seed(5)
    module = torch.nn.Linear(8, 8, device="meta")
    names = dict(module.named_parameters())
    tensors = {n: torch.randn(p.shape, generator=rng).to(device) for n, p in names.items()}

    def call(
        block: torch.nn.Module,
        inside: dict[str, Tensor],
        arguments: tuple[Tensor, ...],
        named: dict[str, Tensor],
    ) -> Tensor:
        out: Tensor = (
            torch.func.functional_call(block, inside, arguments).square() * named["factor"]
        )
        return out

    compiled = subject.runtime.compile(call)
    # The second is compiled already; the third has a shape that it was not compiled for.
    for rows in (4, 4, 2):
        x = torch.randn((rows, 8), generator=rng).to(device)
        factor = {"factor": torch.full((1,), 0.5, device=device)}
        results = []
        for function in (compiled, call):
            learned = {n: t.clone().requires_grad_() for n, t in tensors.items()}
            out = function(module, learned, (x,), factor)
            results.append([out, *torch.autograd.grad(out.sum(), list(learned.values()))])
        for ours, exact in zip(*results, strict=True):
            near = torch.allclose(ours.to("cpu"), exact.to("cpu"), rtol=1e-4, atol=1e-5)
            require(near, f"other numbers or gradients for {rows} rows")
