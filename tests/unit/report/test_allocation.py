from __future__ import annotations

import xml.etree.ElementTree as ET

from autoround.core.allocate import Allocation
from autoround.mixed_precision.layer_groups import LayerGroup
from autoround.mixed_precision.score_file import Scores
from autoround.mixed_precision.search import ChosenAllocation
from autoround.report.allocation import allocation_lines, allocation_svg, uniform_allocations
from autoround.types import Scheme

from ._values import layer

W2, W4 = Scheme(2, 128, True), Scheme(4, 128, True)
SCORES = Scores({}, {}, tokens=64, seconds=12.4, peak_bytes=1_500_000_000)
#: Two groups of one layer of 64 × 128 weights; only the first one may stay in 16 bit.
CHOSEN = ChosenAllocation(
    groups=(
        LayerGroup("h.0.q", (layer("h.0.q"),), (W2, W4, None), (2048, 4096, 16384)),
        LayerGroup("h.1.q", (layer("h.1.q"),), (W2, W4), (2048, 4096)),
    ),
    losses=((0.5, 0.25, 0.0), (0.125, 0.0625)),
    picks=(2, 0),
    fixed=1_000_000,
    budget=("avg_bits", 9.0),
    corners=(Allocation((0, 0), 4096.0, 0.625), Allocation((2, 0), 18432.0, 0.125)),
    unreached=(),
)


def test_an_allocation_in_words() -> None:
    assert allocation_lines(CHOSEN, SCORES) == [
        "budget       avg_bits 9",
        "allocation   1 layers to W2 g128 sym, 1 layers to 16 bit",
        "size         1.02 MB: 0.02 MB in 0.0 M weights, 9.000 bits each with scales and zero "
        "points, and 1.00 MB besides",
        "predicted    KL 0.125 nats per token, on 64 tokens",
        "scored in    12 s, 1.50 GB of memory at most",
        "alternative  W2 g128 sym for all: 2.000 bits, predicted KL 0.625",
        "alternative  W4 g128 sym for all: 4.000 bits, predicted KL 0.3125",
    ]


def test_layers_are_listed_with_the_losses_of_their_options() -> None:
    short = allocation_lines(CHOSEN, SCORES)
    assert allocation_lines(CHOSEN, SCORES, layers=True) == [
        *short,
        "h.0.q  16 bit  of: W2 g128 sym 5.00e-01  W4 g128 sym 2.50e-01  16 bit 0.00e+00",
        "h.1.q  W2 g128 sym  of: W2 g128 sym 1.25e-01  W4 g128 sym 6.25e-02",
    ]


def test_uniform_allocations_are_of_options_that_all_layers_can_take() -> None:
    assert uniform_allocations(CHOSEN) == [
        ("W2 g128 sym", 2.0, 0.625),
        ("W4 g128 sym", 4.0, 0.3125),
    ]


def test_the_drawing_names_the_choice_and_its_alternatives() -> None:
    texts = [element.text for element in ET.fromstring(allocation_svg(CHOSEN)).iter()]
    assert {"chosen, 9.00 bits", "W2 g128 sym", "W4 g128 sym"} <= set(texts)
