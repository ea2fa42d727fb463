"""Uploads on a side stream and recorded steps, on a module that stands for torch's own."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor

from autoround_backends._accelerator import AcceleratorRuntime
from autoround_backends._streamed import Recorded, Recording, SideUpload
from autoround_backends.cuda import RECORDING

CPU = torch.device("cpu")


class Stream:
    """A queue that does everything at once, and notes who waits for whom."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.waited: list[str] = []

    def wait_stream(self, other: Stream) -> None:
        self.waited.append(other.name)


class Event:
    """A mark in a queue; the device has got there once it was waited for."""

    def __init__(self, log: list[str]) -> None:
        self._log, self.done = log, False

    def record(self, stream: Stream) -> None:
        self._log.append(f"mark on {stream.name}")

    def query(self) -> bool:
        return self.done

    def synchronize(self) -> None:
        self._log.append("waited")
        self.done = True


class Graph:
    """Plays what was recorded, by doing it again."""

    def __init__(self, module: Module) -> None:
        self._module = module
        self.plays = 0

    def replay(self) -> None:
        self.plays += 1
        for found, exact in zip(self._module.outputs, self._module.again(), strict=True):
            found.copy_(exact)


class Module:
    """Stands for torch.cuda or torch.xpu: one stream in use, one beside it."""

    def __init__(self, *, fails: str = "", wrong: bool = False) -> None:
        self.current, self.sides = Stream("main"), []  # type: ignore[var-annotated]
        self.inside = self.current
        self.fails, self.wrong = fails, wrong
        self.recording = False
        self.outputs: Sequence[Tensor] = ()
        self.again: Any = None
        self.guards: list[torch.device] = []
        self.log: list[str] = []

    def Stream(self, device: torch.device) -> Stream:  # noqa: N802
        self.sides.append(Stream(f"side {len(self.sides)}"))
        return self.sides[-1]

    @contextmanager
    def stream(self, stream: Stream) -> Iterator[None]:
        self.inside = stream
        yield
        self.inside = self.current

    def current_stream(self, device: torch.device) -> Stream:
        return self.inside

    @contextmanager
    def device(self, device: torch.device) -> Iterator[None]:
        self.guards.append(device)
        yield
        self.guards.pop()

    def empty_cache(self) -> None:
        self.log.append("cache emptied")

    def Event(self) -> Event:  # noqa: N802
        return Event(self.log)

    @contextmanager
    def graph(self, graph: Graph, stream: Stream | None = None, **options: str) -> Iterator[None]:
        # As torch's: without a stream it takes one of whichever device is the current one, and
        # what is done on another device is done, and not recorded.
        self.recording = stream is not None and self.guards == [CPU]
        self.log.append(f"recorded on {stream.name if stream else None} {options}")
        if self.fails:
            raise RuntimeError(self.fails)
        yield
        self.recording = False

    def CUDAGraph(self) -> Graph:  # noqa: N802
        return Graph(self)


def test_an_upload_is_waited_for_by_the_device_only(monkeypatch: pytest.MonkeyPatch) -> None:
    module = Module()
    side = module.Stream(CPU)
    used: list[Stream] = []
    monkeypatch.setattr(Tensor, "record_stream", lambda self, stream: used.append(stream))
    given = {"a": torch.arange(3.0), "b": torch.ones((2, 2), dtype=torch.bfloat16)}
    upload = SideUpload(given, device=CPU, module=module, side=side, pin=False)
    assert side.waited == ["main"], "what lies on the device may still be being computed"
    assert module.current.waited == []
    found = upload.result()
    assert module.current.waited == ["side 0"]
    assert used == [module.current, module.current]
    assert all(torch.equal(found[name], tensor) for name, tensor in given.items())


def test_what_the_host_holds_is_copied_beside_the_step(monkeypatch: pytest.MonkeyPatch) -> None:
    module = Module()
    side = module.Stream(CPU)
    monkeypatch.setattr(Tensor, "record_stream", lambda self, stream: None)
    # Of another kind than the host's memory, which the tensors are in.
    elsewhere = torch.device("meta")
    upload = SideUpload({"a": torch.ones(3)}, device=elsewhere, module=module, side=side, pin=False)
    assert side.waited == [], "it would begin when the step that is being computed has ended"
    assert upload.result()["a"].device == elsewhere
    assert module.current.waited == ["side 0"]


def test_memory_that_cannot_be_pinned_is_copied_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tries: list[int] = []

    def refuse(self: Tensor) -> Tensor:
        tries.append(1)
        raise RuntimeError("CUDA error: out of memory\nmore")

    monkeypatch.setattr(Tensor, "pin_memory", refuse)
    monkeypatch.setattr(Tensor, "record_stream", lambda self, stream: None)
    module = Module()
    runtime = AcceleratorRuntime("cuda", 0, module=module, graph="CUDAGraph")  # type: ignore[arg-type]
    runtime.device = CPU
    for turn in range(2):
        tensors = {"a": torch.ones(3), "b": torch.ones(2)}
        found = runtime.upload(tensors).result()
        assert all(torch.equal(found[name], tensors[name]) for name in tensors)
        assert len(tries) == 1, f"asked once in a run, not again at upload {turn}"
    note = runtime._found["pins"]
    assert note.slower
    assert note.text.endswith("copies wait: CUDA error: out of memory")


def test_a_download_is_waited_for_when_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    module = Module()
    runtime = AcceleratorRuntime("cuda", 0, module=module, graph="CUDAGraph")  # type: ignore[arg-type]
    runtime.device = CPU
    monkeypatch.setattr(Tensor, "pin_memory", lambda self: self)
    loss = torch.tensor(2.0, requires_grad=True)
    download = runtime.download(loss)
    assert (module.log, download.ready()) == (["mark on main"], False)
    loss.detach().fill_(5.0)
    assert float(download.result()) == 2.0, "what it was when its copy was queued"
    assert (module.log, download.ready()) == (["mark on main", "waited"], True)

    def refuse(self: Tensor) -> Tensor:
        raise RuntimeError("no more may be locked")

    monkeypatch.setattr(Tensor, "pin_memory", refuse)
    download = runtime.download(loss)
    assert download.ready()
    assert float(download.result()) == 5.0
    assert runtime._found["pins"].slower


class Steps:
    """A step with a parameter of its own, counted."""

    def __init__(self, module: Module) -> None:
        self.module = module
        self.weight = torch.full((3,), 2.0)
        self.calls = 0

    def __call__(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        self.calls += 1
        out = [inputs[0] * self.weight, inputs[0].sum()]
        if self.module.recording:
            held = list(inputs)
            self.module.outputs = out
            self.module.again = lambda: [held[0] * self.weight, held[0].sum()]
            if self.module.wrong:
                self.module.again = lambda: [held[0] + self.weight, held[0].sum()]
        return out


def test_a_recorded_step_is_played() -> None:
    module = Module()
    step = Steps(module)
    recorded = Recorded(step, [torch.ones(3)], device=CPU, module=module, graph=Graph(module))
    assert step.calls == 4, "three to warm up and one to record"
    assert [side.waited for side in module.sides] == [["main"]]
    # Memory of the first run is given back before the copies of results are made.
    assert module.log == ["cache emptied", "recorded on side 0 {}"]
    assert module.guards == []
    for size in (3.0, 5.0):
        product, total = recorded([torch.full((3,), size)])
        assert torch.equal(product, torch.full((3,), 2.0 * size))
        assert float(total) == 3 * size
    step.weight.mul_(10.0)
    assert torch.equal(recorded([torch.ones(3)])[0], torch.full((3,), 20.0))
    assert step.calls == 4
    found = recorded([torch.ones(3, dtype=torch.float64)])
    assert found[0].dtype == torch.float64
    assert step.calls == 5, "another kind of batch goes through the step itself"


def test_what_goes_with_a_recording_ends_before_it_is_played() -> None:
    module = Module()
    graph = Graph(module)

    @contextmanager
    def around() -> Iterator[None]:
        assert not module.recording
        yield
        assert not module.recording, "the recording has ended"
        module.log.append(f"filled after {graph.plays} plays")

    Recorded(
        Steps(module),
        [torch.ones(3)],
        device=CPU,
        module=module,
        graph=graph,
        how=Recording(around=around),
    )
    assert module.log[-1] == "filled after 0 plays"
    assert graph.plays == 1


@pytest.mark.parametrize(
    ("module", "reason"),
    [
        (Module(fails="operation not permitted when stream is capturing\nmore"), "not permitted"),
        (Module(wrong=True), "a recorded step gives other numbers than the step itself"),
    ],
)
def test_a_step_that_cannot_be_recorded_is_done(module: Module, reason: str) -> None:
    step = Steps(module)
    runtime = AcceleratorRuntime("cuda", 0, module=module, graph="CUDAGraph")  # type: ignore[arg-type]
    runtime.device = CPU
    assert runtime.capture(step, [torch.ones(3)]) is step
    note = runtime._found["graph"]
    assert note.slower
    assert reason in note.text
    assert "\n" not in note.text


def test_what_is_recorded_is_noted() -> None:
    module = Module()
    runtime = AcceleratorRuntime("cuda", 0, module=module, graph="CUDAGraph")  # type: ignore[arg-type]
    runtime.device = CPU
    captured = runtime.capture(Steps(module), [torch.ones(3)])
    assert isinstance(captured, Recorded)
    assert runtime._found["graph"] == ("steps are recorded as graphs", False)


def test_steps_of_a_second_device_are_recorded_there() -> None:
    module = Module()
    options = {"capture_error_mode": "thread_local"}
    runtime = AcceleratorRuntime(
        "cuda",
        1,
        module=module,  # type: ignore[arg-type]
        graph="CUDAGraph",
        recording=options,
    )
    runtime.device = CPU
    for turn in range(2):
        captured = runtime.capture(Steps(module), [torch.ones(3)])
        # Done and not recorded, it would return the numbers of the first batch for ever.
        assert torch.equal(captured([torch.full((3,), 7.0)])[0], torch.full((3,), 14.0)), turn
    assert len(module.sides) == 1, "one stream for all recordings"
    assert module.log[-1] == f"recorded on side 0 {options}"


def test_torch_takes_the_options_of_a_recording() -> None:
    assert {"stream", *RECORDING} <= set(inspect.signature(torch.cuda.graph.__init__).parameters)
    if hasattr(torch.xpu, "graph"):  # not in torch 2.8, where steps are not recorded there
        assert "stream" in inspect.signature(torch.xpu.graph.__init__).parameters


def test_what_a_recording_reads_is_kept_with_it() -> None:
    class Tables:
        @contextmanager
        def keeping_tables(self) -> Iterator[list[Tensor]]:
            yield [torch.ones(1)]

    module = Module()
    runtime = AcceleratorRuntime("cuda", 0, module=module, graph="CUDAGraph")  # type: ignore[arg-type]
    runtime.device = CPU
    runtime.__dict__["ops"] = Tables()
    captured = runtime.capture(Steps(module), [torch.ones(3)])
    assert isinstance(captured, Recorded)
    assert [float(table) for table in captured.kept] == [1.0]


def test_without_graphs_steps_are_done() -> None:
    module = Module()
    for name in ("", "XPUGraph"):
        runtime = AcceleratorRuntime("xpu", 0, module=module, graph=name)  # type: ignore[arg-type]
        step = Steps(module)
        assert runtime.capture(step, [torch.ones(3)]) is step
        assert runtime._found == {}
