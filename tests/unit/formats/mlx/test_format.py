"""Checkpoints as mlx-lm writes them read back as they were planned."""

from __future__ import annotations

from autoround.formats.mlx.format import FORMATS
from autoround.types import Scheme

from .._plans import output_of, plan_of, read_back, schemes

MLX = FORMATS[0]
W4, W8 = Scheme(4, 32, False), Scheme(8, 64, False)


def test_what_is_written_reads_back_as_planned() -> None:
    plan = plan_of([W4, W8, None], [W4, W4, W4], head=W8)
    assert read_back(MLX, plan) == schemes(plan)


def test_its_config_stands_under_both_keys_and_is_told_from_others() -> None:
    plan = plan_of([W4, W4, W4])
    assert MLX.config_keys == ("quantization", "quantization_config")
    assert MLX.reads(MLX.config(plan, output_of(MLX, plan)))
    assert not MLX.reads({"quant_method": "mlx", "bits": 4, "group_size": 64})


def test_its_engine_runs_each_layer_by_itself_and_none_that_is_turned() -> None:
    assert not MLX.merges_layers
    assert not MLX.holds_transposed
    assert MLX.unfit(MLX.layouts[0], {Scheme(4, 16, True): "layers[2]"}) == (
        "W4 g16 sym of layers[2]: its groups are 32, 64, 128, not 16"
    )
