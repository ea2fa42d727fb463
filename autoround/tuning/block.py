"""One block: collect its input statistics, tune its rounding, carry both activation streams on."""

from __future__ import annotations

import time
from collections.abc import Mapping

import torch
from torch import Tensor

from autoround.core.batches import BatchLoader, Samples
from autoround.core.reconstruction import DeviceHooks, Hyperparameters, Reconstruction
from autoround.core.rtn import Target
from autoround.core.step_recordings import StepRecordings
from autoround.events import StepDone
from autoround.model.importance import Importance
from autoround.model.runner import BlockRunner
from autoround.model.stacked_experts import as_matrix
from autoround.session.activations import ActivationStreams
from autoround.session.block_output import BlockOutput, QuantizedWeight
from autoround.session.loaded_block import LoadedBlock, load_block, observe_inputs
from autoround.session.prefetch import BlockPrefetcher, StoredBlock
from autoround.session.session import Session
from autoround.settings import FRESH, FULL, QUANTIZED
from autoround.tuning.dense_weights import dequantize, original_matrices
from autoround.tuning.experts import undertrained_experts
from autoround.tuning.init_choice import tune_as_chosen
from autoround.tuning.layer_errors import LateErrors, layer_errors
from autoround.tuning.phase_clock import PhaseClock
from autoround.tuning.reconstruct import (
    TunedWeights,
    hyperparameters_for,
    round_weights,
    tune_weights,
)
from autoround.tuning.rounding_init import with_gptq_offsets
from autoround.tuning.step_memory import StepMemory, split_at_marks
from autoround.tuning.targets import make_target
from autoround.types import BlockPlan, BlockResult

#: Phases of a block, as a clock is told of them.
READ, FORWARD, INITIALISE, TUNE = "read", "forward", "initialise", "tune"
FORWARD_QUANTIZED, JUDGE = "forward quantized", "layer errors"


class BlockTuner:
    """Tunes the blocks of a pass in their order; one block's weights are in memory at a time.

    Args:
        session: the pass.
        runner: runs the blocks.
        streams: inputs of the next block; None where the plan needs no data.
        prefetcher: reads the blocks.
        recordings: of steps of the blocks before; None for none.
        clock: is told how long phases take; None where nobody asks.
    """

    def __init__(
        self,
        session: Session,
        runner: BlockRunner,
        streams: ActivationStreams | None,
        prefetcher: BlockPrefetcher,
        recordings: StepRecordings | None = None,
        clock: PhaseClock | None = None,
    ) -> None:
        self.session, self.runner, self.streams = session, runner, streams
        self.prefetcher = prefetcher
        self.recordings = StepRecordings() if recordings is None else recordings
        self._memory = StepMemory(session, give_up=self._give_up)
        self._clock = PhaseClock() if clock is None else clock
        self._adopted = False

    def tune(self, block: BlockPlan) -> BlockOutput:
        """Quantize a block, and make its outputs the inputs of the next one.

        Raises:
            AutoRoundError: its weights cannot be read or held by a grid, or its loss is not finite.
        """
        started = time.perf_counter()
        session, streams = self.session, self.streams
        self._adopt_before(block)
        measure = self._clock.measure
        with measure(READ):
            stored = self.prefetcher.next(block)
        importance, loaded = Importance(), LoadedBlock(block, self.runner, {})
        if streams is not None:
            loaded = self._load(block, stored)
            with measure(FORWARD):
                importance = self._advance_full(loaded, streams)
            # On a device these are copies of their own, which all that follows needs the memory of.
            loaded = loaded.without_quantized()
        with measure(INITIALISE):
            targets = self._fit_targets(block, stored, importance)
        host, source = stored.host, stored.source
        del stored
        batch = 1 if streams is None else min(session.tuning.batch_size, len(streams.full))
        label = _block_label(block)
        with measure(TUNE):
            tuned = self._memory.run(
                lambda: self._tune(loaded, targets, importance), where=label, batch=batch
            )
        with measure(JUDGE):
            dequantized = self._dequantize(block, tuned.weights)
            errors = layer_errors(
                block.quantized,
                tuned.weights,
                original_matrices(session, block, host, targets),
                dequantized=dequantized,
                download=session.runtime.download,
            )
        # A recording keeps the dict, and needs the weights in it, but no offsets.
        targets.update({n: target._replace(offsets=None) for n, target in targets.items()})
        targets = {}
        if streams is not None and self._quantized_goes_on(block):
            with measure(FORWARD_QUANTIZED):
                self._advance_quantized(loaded, streams, tuned.weights, dequantized)
        return BlockOutput(
            tuned.weights,
            {name: tensor for name, tensor in host.items() if name not in block.quantized_tensors},
            self._read_result(block, tuned, errors, started=started, tokens=importance.tokens),
            source,
            # End to end, blocks are handed over when all of them are tuned.
            dequantized={} if session.tuning.end_to_end.steps else dequantized,
        )

    def _read_result(
        self,
        block: BlockPlan,
        tuned: TunedWeights,
        errors: LateErrors,
        *,
        started: float,
        tokens: Mapping[str, Tensor],
    ) -> BlockResult:
        """Return the figures of a block; the device is waited for here, with its work queued."""
        session = self.session
        layer_figures = errors.read()
        return BlockResult(
            block.index,
            block.name,
            tuned.loss_before,
            tuned.loss_after,
            max(0.0, time.perf_counter() - started),
            session.tuning.iters,
            tuned.best_step,
            session.runtime.peak_bytes(),
            {path: tuple(seen.tolist()) for path, seen in tokens.items()},
            layer_errors=layer_figures,
            peak_reserved_bytes=session.runtime.peak_reserved_bytes(),
            micro_batch=0 if session.tuning.low_memory else self._memory.micro_batch,
            streams_on_host=self._memory.on_host and not session.tuning.low_memory,
            init_rounding=tuned.init_rounding,
        )

    def _dequantize(
        self, block: BlockPlan, weights: Mapping[str, QuantizedWeight]
    ) -> dict[str, Tensor]:
        """Dequantize a block once for all that asks for its weights; not where memory is short."""
        if self._memory.on_host or self.session.tuning.low_memory:
            return {}
        return self._memory.run(
            lambda: dequantize(self.session, weights, torch.float32), where=_block_label(block)
        )

    def run_finished(self, block: BlockPlan, output: BlockOutput) -> None:
        """Make the outputs of a finished block the inputs of the next one, as tuning it did.

        Args:
            block: whose inputs the streams are.
            output: the block as it was tuned.

        Raises:
            AutoRoundError: its weights cannot be read.
        """
        session, streams = self.session, self.streams
        assert streams is not None
        self._adopt_before(block)
        stored = self.prefetcher.next(block)
        loaded = self._load(block, stored)
        self._advance_full(loaded, streams, observed=False)
        # By what fitted when it was tuned, after its inputs had been observed.
        self._memory.adopt(output.result)
        if self._quantized_goes_on(block):
            weights = output.on(session.runtime.device).layers
            self._advance_quantized(loaded.without_quantized(), streams, weights, {})

    def _adopt_before(self, block: BlockPlan) -> None:
        """Go on with what fitted the device before, where blocks are finished."""
        store = self.session.store
        if not self._adopted and store is not None and 0 < block.index <= store.done:
            self._memory.adopt(store.result(block.index - 1))
        self._adopted = True

    def _give_up(self, on_host: bool) -> None:
        """Drop what is on the device beside a step: recordings, and with ``on_host`` the rest."""
        self.recordings.clear()
        if on_host:
            self.prefetcher.stop()
            if self.streams is not None and not self.streams.mapped:
                self.streams.on(torch.device("cpu"))

    def _load(self, block: BlockPlan, stored: StoredBlock) -> LoadedBlock:
        return self._memory.run(
            lambda: load_block(self.session, self.runner, block, stored.by_param),
            where=_block_label(block),
        )

    def _advance_quantized(
        self,
        block: LoadedBlock,
        streams: ActivationStreams,
        weights: Mapping[str, QuantizedWeight],
        dequantized: Mapping[str, Tensor],
    ) -> None:
        """Run the quantized stream through a block that lacks the weights that got a scheme."""
        dtype = self.session.compute_dtype

        def in_dtype() -> dict[str, Tensor]:
            if not dequantized:
                return dequantize(self.session, weights, dtype)
            return {name: weight.to(dtype) for name, weight in dequantized.items()}

        dense_weights = self._memory.run(in_dtype, where=_block_label(block.plan))
        self._advance(block.with_weights(dense_weights), streams, QUANTIZED)

    def _quantized_goes_on(self, block: BlockPlan) -> bool:
        """Tell whether anything after a block reads the quantized stream."""
        last, tuning = block.index + 1 == len(self.session.plan.blocks), self.session.tuning
        return tuning.quantized_inputs and (not last or bool(tuning.tuned_head))

    def _fit_targets(
        self, block: BlockPlan, stored: StoredBlock, importance: Importance
    ) -> dict[str, Target]:
        """Make the targets of a block, with less on the device where its memory is full."""
        targets = self._memory.run(
            lambda: self._targets(block, stored, importance), where=_block_label(block)
        )
        # A gigabyte for a block of an 8B model, which no step reads.
        importance.release_hessians()
        return targets

    def _targets(
        self, block: BlockPlan, stored: StoredBlock, importance: Importance
    ) -> dict[str, Target]:
        """Group the weights of a block, give them their grids, and initialise their rounding."""
        targets = {
            layer.name: make_target(
                self.session,
                layer,
                as_matrix(layer, stored.by_param[layer.param]),
                importance.get(layer.path),
                largest=stored.largest[layer.param],
            )
            for layer in block.quantized
        }
        if not self.session.tuning.uses_gptq:
            return targets
        return with_gptq_offsets(self.session, block, targets, importance)

    def _advance_full(
        self, block: LoadedBlock, streams: ActivationStreams, *, observed: bool = True
    ) -> Importance:
        """Run the full-precision streams through a block; returns its layers' input statistics.

        Without ``observed`` they are not collected, and the quantized stream is not set up.
        """
        tuning = self.session.tuning
        importance = Importance(
            hessians=tuning.uses_gptq and observed,
            wide_product=self.session.runtime.wide_product(),
        )
        if observed and not tuning.quantized_inputs:
            streams.restart_quantized()
        wanted = tuning.needs_input_statistics and observed
        with observe_inputs(self.session, block.plan, into=importance, linear=wanted):
            self._advance(block, streams, FULL, importance)
        if streams.fresh is not None:
            self._advance(block, streams, FRESH)
        return importance

    def _advance(
        self,
        block: LoadedBlock,
        streams: ActivationStreams,
        name: str,
        importance: Importance | None = None,
    ) -> None:
        """Run a stream through a block, a batch at a time.

        Args:
            block: with all of its weights.
            streams: both streams.
            name: of the one to run.
            importance: what observes the layers' inputs, to be told which positions count.
        """
        size, broken_off = self.session.tuning.forward_batch_size, [0]

        def go_on() -> Tensor:
            """Run the samples that have not been run; the last one may have broken off."""
            # In memory inputs become outputs one after the other, and may have been moved.
            inputs, outputs = streams.inputs(name), streams.outputs(name)
            parts = split_at_marks(broken_off, len(inputs), self._memory.part(size))
            order = [torch.arange(part.start, part.stop) for part in parts]
            device, upload = self.session.runtime.device, self._hooks().upload
            loader = BatchLoader({"hidden": inputs}, order, device=device, upload=upload)
            for part in parts:
                if importance is not None:
                    mask = None if streams.mask is None else streams.mask[part]
                    importance.mask(mask, stop=part.stop)
                broken_off.append(part.stop)
                rows, batch = loader.next()
                # Hooks on layers are not called inside a compiled block.
                numbers = rows + streams.first_row(name)
                out = block.forward(batch["hidden"], numbers, compiled=importance is None)
                loader.prefetch()
                outputs[part] = out.to(outputs.device)
                broken_off[:] = [part.stop, *(stop for stop in broken_off if stop > part.stop)]
                streams.release_pages()
            return outputs

        with torch.no_grad():
            outputs = self._memory.run(go_on, where=_block_label(block.plan), batch=size)
        streams.advance(name, outputs)

    def _tune(
        self, block: LoadedBlock, targets: Mapping[str, Target], importance: Importance
    ) -> TunedWeights:
        """Tune a block where there is anything to tune and to tune on."""
        session, streams, plan = self.session, self.streams, block.plan
        # Cross-attention to images is not run for samples that have none.
        runs = streams is not None and self.runner.runs(plan.index)
        if streams is None or not runs or not targets:
            return round_weights(session, plan.quantized, targets)

        def forward(weights: Mapping[str, Tensor], hidden: Tensor, rows: Tensor | None) -> Tensor:
            compiled = torch.is_grad_enabled()
            return block.forward(hidden, rows, weights=weights, compiled=compiled)

        def on_step(step: int, loss: float) -> None:
            assert streams is not None
            streams.release_pages()
            self.prefetcher.prefetch(plan)
            session.sink(StepDone(plan.index, step, session.tuning.iters, loss))

        hyperparameters = self._memory.fit(hyperparameters_for(session.tuning, plan.index))
        hooks, kind = self._hooks(), None
        # Parts of a batch are not recorded.
        whole = not hyperparameters.micro_batch and not self.runner.by_sample
        if hooks.capture is not None and whole:
            block, kind = block.of_a_kind(min(hyperparameters.batch_size, len(streams.full)))
        problem = Reconstruction(
            forward,
            targets,
            Samples(streams.quantized, streams.full, streams.mask),
            hooks,
            capturable=not self.runner.by_sample,
            kind=kind,
        )

        def tune(problem: Reconstruction, hyperparameters: Hyperparameters) -> TunedWeights:
            return tune_weights(
                session,
                plan.quantized,
                problem,
                hyperparameters=hyperparameters,
                undertrained=undertrained_experts(plan, importance.tokens),
                on_step=on_step,
                recordings=self.recordings,
            )

        tuned = tune_as_chosen(session, problem, hyperparameters, tune=tune)
        self._spare_memory(plan)
        return tuned

    def _spare_memory(self, block: BlockPlan) -> None:
        """Give up the recording after the last block, or where it leaves too little memory.

        It holds what a step needs at most; half of the device has to be left for all else.
        """
        runtime = self.session.runtime
        last = block.index + 1 == len(self.session.plan.blocks)
        if last or 2 * runtime.peak_bytes() > runtime.memory().total:
            self.recordings.clear()

    def _hooks(self) -> DeviceHooks:
        """Return what the device can do beside the operations."""
        runtime = self.session.runtime
        if self._memory.on_host or not runtime.own_memory:
            return DeviceHooks()
        return DeviceHooks(runtime.upload, runtime.capture, runtime.download)


def _block_label(block: BlockPlan) -> str:
    return f"block {block.name}"
