"""What a family of models has to go through, in the tests and for docs/models.md alike."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from autoround.data.tokens import Tokens
from autoround.device.registry import open_device
from autoround.events import ignore
from autoround.inference.hf_quantizer import AutoRoundConfig
from autoround.inference.load import load
from autoround.model.block_calls import Media, batch_media
from autoround.model.build import build_empty
from autoround.model.runner import BlockRunner
from autoround.model.skeleton import Skeleton, adopt_model, open_model
from autoround.pipeline import run
from autoround.planning.estimate import make_estimate
from autoround.planning.plan import make_plan
from autoround.preparation import Request
from autoround.session.session import Session
from autoround.types import Plan

from .runs import NEAREST, logits, run_pass, small, tensors_of
from .tiny import token_ids
from .zoo import FAMILIES, IMAGE, make_model

#: Tokens that mean something to no family.
LEGAL = 90
SAMPLES, LENGTH = 3, 24
#: Tensors of a packed layer.
PACKED = ("qweight", "qzeros", "scales")


@dataclass(frozen=True)
class Passed:
    """What a family came through with.

    difference: of the logits of the packed result from those of the same weights in 16 bit,
    loaded by transformers itself. change: of these from the original's. better: whether tuning
    lowered the loss of the last block. images: layers that were tuned on images, as text.
    """

    name: str
    blocks: int
    layers: int
    kept: tuple[str, ...]
    experts: int
    difference: float
    change: float
    losses: tuple[float, float]
    images: str = ""


def text(rows: int, seqlen: int, *, seed: int = 0) -> Tensor:
    """Draw tokens that are neither special nor an image's."""
    return 4 + token_ids(rows, seqlen, seed=seed) % LEGAL


def go_through(name: str, folder: Path) -> Passed:
    """Save, open, plan, tune, write and load a family's tiny model; compare what comes out."""
    model = make_model(name)
    source, out = folder / "source", folder / "out"
    model.save_pretrained(source)
    skeleton = open_model(source)
    own = model.state_dict()
    for key in skeleton.keys:
        # By transformers' rules, tensor by tensor: as it would have loaded the whole.
        assert torch.equal(skeleton.read([key])[key], own[key]), key
    values: dict[str, object] = {"output.format": "auto_round,fake", "tuning.iters": 12}
    recipe = small(values)
    request = Request(skeleton, recipe, open_device("cpu"), "tiny", None, text(4, 16))
    result = run(request, out, sink=ignore)
    packed = load(out / "auto_round", device="cpu", backend="torch", dtype=torch.float32)
    plain = type(model).from_pretrained(out / "fake", dtype=torch.float32).eval()
    ids = text(2, 16, seed=5)
    wanted = logits(plain, ids)
    layers = [x for block in result.plan.blocks for x in block.layers]
    last = result.blocks[-1]
    return Passed(
        name,
        len(result.plan.blocks),
        sum(x.scheme is not None for x in layers),
        tuple(sorted({x.name.rpartition(".")[2] for x in layers if x.scheme is None})),
        max((x.experts for x in layers), default=0),
        float((logits(packed, ids) - wanted).abs().max()),
        float((logits(model, ids) - wanted).abs().max()),
        (last.loss_before, last.loss_after),
        images_through(name, model) if name in MEDIA else "",
    )


def write_quantized_family(name: str, folder: Path) -> Path:
    """Round a family's tiny model to the nearest levels and write it; returns the folder."""
    make_model(name).save_pretrained(folder / "source")
    values: dict[str, object] = {**NEAREST, "output.format": "auto_round"}
    skeleton = open_model(folder / "source")
    request = Request(skeleton, small(values), open_device("cpu"), "tiny", None, text(4, 16))
    run(request, folder / "out", sink=ignore)
    return folder / "out"


def loaded_both_ways(folder: Path) -> dict[str, Any]:
    """Load a quantized checkpoint by autoround, and by transformers through us, in float32."""
    config = AutoRoundConfig(backend="torch")
    own_class: Any = type(build_empty(folder))
    through = own_class.from_pretrained(folder, dtype=torch.float32, quantization_config=config)
    own = load(folder, device="cpu", backend="torch", dtype=torch.float32)
    return {"load": own, "from_pretrained": through.eval()}


def come_back(folder: Path, again: Path) -> None:
    """Load a checkpoint both ways, save it, and load that: the packed tensors stay bit for bit.

    Args:
        folder: the quantized checkpoint.
        again: an empty folder to save into.
    """
    ids = text(2, 16, seed=5)
    files = tensors_of(folder)
    quantized = {n: t for n, t in files.items() if n.rpartition(".")[2] in PACKED}
    assert len(quantized) >= 3 * 8
    models = loaded_both_ways(folder)
    expected = logits(models["load"], ids)
    for way, model in models.items():
        assert torch.equal(logits(model, ids), expected), way
        state = model.state_dict()
        assert set(state) - set(model.all_tied_weights_keys) <= set(files) <= set(state), way
        model.save_pretrained(again / way)
        for held in (state, tensors_of(again / way)):
            assert all(torch.equal(held[n], t) for n, t in quantized.items()), way
        assert tensors_of(again / way).keys() == files.keys(), way
        for other, model_again in loaded_both_ways(again / way).items():
            assert torch.equal(logits(model_again, ids), expected), (way, other)
    models["load"].load_state_dict(models["from_pretrained"].state_dict())
    assert torch.equal(logits(models["load"], ids), expected)
    # Unpacked it is a checkpoint like any other, for transformers without us.
    load(folder, device="cpu", dense=True, dtype=torch.float32).save_pretrained(again / "plain")
    own_class: Any = type(build_empty(folder))
    plain = own_class.from_pretrained(again / "plain", dtype=torch.float32).eval()
    assert not hasattr(plain.config, "quantization_config")
    torch.testing.assert_close(logits(plain, ids), expected, atol=1e-4, rtol=1e-4)


def images_through(name: str, model: Any) -> str:
    """Run a model's blocks one by one on images, as the model itself does, and tune them so."""
    ids, media = samples_with_images(name)
    skeleton = adopt_model(model)
    runner = BlockRunner(skeleton, device=torch.device("cpu"), dtype=torch.float32)
    first = torch.cat([runner.embed(i[None], [m]) for i, m in zip(ids, media, strict=True)])
    runner.prepare(ids, media)
    rows = torch.tensor([2, 0, 1])
    hidden = first[rows]
    with torch.no_grad():
        for index, block in enumerate(skeleton.blocks):
            read = skeleton.read(skeleton.names_under(block))
            weights = {n.removeprefix(block + "."): t for n, t in read.items()}
            placed = runner.place(weights) | runner.buffers(index)
            hidden = runner.run(index, placed, hidden=hidden, rows=rows)
    torch.testing.assert_close(hidden, last_output(model, skeleton, ids, media)[rows])
    tuned = tune_on(skeleton, ids, media)
    assert all(before >= after for before, after in tuned)
    return f"{len(tuned)} of {len(skeleton.blocks)} blocks"


def last_output(model: Any, skeleton: Skeleton, ids: Tensor, media: list[Media]) -> Tensor:
    """Return what a model's last block puts out, sample by sample."""
    found: list[Tensor] = []

    def note(module: Any, args: Any, out: Any) -> None:
        found.append((out[0] if isinstance(out, tuple) else out).detach())

    handle = model.get_submodule(skeleton.blocks[-1]).register_forward_hook(note)
    try:
        with torch.no_grad():
            for own, given in zip(ids, media, strict=True):
                model(input_ids=own[None], use_cache=False, **batch_media([given]))
    finally:
        handle.remove()
    return torch.cat(found)


def tune_on(skeleton: Skeleton, ids: Tensor, media: list[Media]) -> list[tuple[float, float]]:
    """Tune all blocks on images and text; returns the losses of those that were run."""
    recipe, runtime = small({"tuning.iters": 8}), open_device("cpu")
    plan: Plan = make_plan(recipe, skeleton, runtime=runtime, calibration="images", model="tiny")
    make_estimate(plan, skeleton, runtime=runtime)
    lengths = torch.full((len(ids),), ids.shape[1])
    tokens = Tokens(ids, lengths, "images", tuple(media))
    job = Session(plan, skeleton, runtime, tokens, ignore)
    results = [output.result for output in run_pass(job)]
    losses = [(r.loss_before, r.loss_after) for r in results]
    return [pair for pair in losses if pair[0] == pair[0]]


def samples_with_images(name: str) -> tuple[Tensor, list[Media]]:
    """Return tokens with places for an image each, elsewhere in each sample, and its pixels."""
    ids = text(SAMPLES, LENGTH, seed=7)
    media: list[Media] = []
    for row in range(SAMPLES):
        pixels, places = MEDIA[name]
        given = {key: _made(shape, row) for key, shape in pixels.items()}
        start = 2 + 3 * row
        if places:
            ids[row, start - 1] = IMAGE + 2
            ids[row, start : start + places] = IMAGE
        kinds = (ids[row : row + 1] == IMAGE).long()
        if name in TYPED:
            given[TYPED[name]] = kinds
        if name == "mllama":
            given["cross_attention_mask"] = torch.ones(1, LENGTH, 1, 1, dtype=torch.int64)
        media.append(given)
    return ids, media


def _made(shape: Any, row: int) -> Tensor:
    if isinstance(shape, list):
        return torch.tensor(shape)
    generator = torch.Generator().manual_seed(row)
    return torch.randn(shape, generator=generator)


_GRID = {"pixel_values": (16, 3 * 2 * 14 * 14), "image_grid_thw": [[1, 4, 4]]}
_TILES = {"pixel_values": (1, 3, 3, 28, 28), "image_sizes": [[28, 56]]}
_PLAIN = {"pixel_values": (1, 3, 28, 28)}
_STACK = {"pixel_values": (1, 1, 3, 28, 28)}
#: What each family is given of one image (shapes of pixels, or values), and the tokens it takes.
MEDIA: Mapping[str, tuple[Mapping[str, Any], int]] = {
    "llava": (_PLAIN, 4),
    "pixtral": ({**_PLAIN, "image_sizes": [[28, 28]]}, 4),
    "llava_next": (_TILES, 14),
    "llava_onevision": (_TILES, 14),
    "qwen2_vl": (_GRID, 4),
    "qwen2_5_vl": (_GRID, 4),
    "qwen3_vl": (_GRID, 4),
    "qwen3_vl_moe": (_GRID, 4),
    "glm4v": (_GRID, 4),
    "gemma3": (_PLAIN, 4),
    "paligemma": (_PLAIN, 4),
    "mistral3": ({"pixel_values": (1, 3, 28, 56), "image_sizes": [[28, 56]]}, 2),
    "smolvlm": (_STACK, 1),
    "idefics3": (_STACK, 1),
    "idefics2": (_STACK, 4),
    "internvl": (_PLAIN, 1),
    "mllama": (
        {
            "pixel_values": (1, 1, 1, 3, 28, 28),
            "aspect_ratio_ids": [[1]],
            "aspect_ratio_mask": [[[1]]],
        },
        0,
    ),
    "aya_vision": (_PLAIN, 1),
    "cohere2_vision": (_PLAIN, 1),
    "got_ocr2": ({"pixel_values": (1, 3, 64, 64)}, 1),
    "aria": (_PLAIN, 2),
    "kimi_k25": ({"pixel_values": (16, 3, 14, 14), "image_grid_thw": [[1, 4, 4]]}, 4),
}
#: Families whose model is told which tokens are an image's.
TYPED = {
    "gemma3": "token_type_ids",
    "paligemma": "token_type_ids",
    **{name: "mm_token_type_ids" for name, (given, _) in MEDIA.items() if given is _GRID},
}
assert set(MEDIA) <= set(FAMILIES)
