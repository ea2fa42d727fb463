"""Every file type of llama.cpp that is written is a format that describes itself."""

# Tests: autoround/formats/gguf/file_types.py
from __future__ import annotations

import gguf
import pytest
import torch

from autoround.errors import FormatError
from autoround.formats.gguf.file_types import BASES
from autoround.formats.gguf.format import FORMATS, file_type_of
from autoround.types import OutputPlan, QuantizedTensor, Scheme

from ....tiny_quantized import make_plan, nearest

ONE = FORMATS[0]


def test_formats_are_named_by_the_file_types_that_llama_cpp_knows() -> None:
    known = {kind.name.removeprefix("MOSTLY_").lower() for kind in gguf.LlamaFileType}
    names = [one.name.removeprefix("gguf:") for one in FORMATS]
    assert names == list(BASES)
    assert set(names) <= known
    for one in FORMATS:
        output = OutputPlan(one.name, one.layout_for([]).name, "float32")
        assert file_type_of(output) == one.file_type == one.name.removeprefix("gguf:")


def test_its_file_says_what_each_tensor_is_in_and_holds_the_tokenizer() -> None:
    assert (ONE.writer, ONE.gguf_types, ONE.holds_tokenizer) == ("gguf", True, True)
    assert (ONE.merges_layers, ONE.holds_transposed, ONE.config_keys) == (False, True, ())
    assert ONE.config(make_plan(()), OutputPlan(ONE.name, ONE.name, "float32")) == {}
    assert not ONE.reads({"quant_method": "gguf"})


@pytest.mark.parametrize("chosen", [True, False])
def test_kept_tensors_are_in_the_dtype_of_the_file_whatever_was_chosen(chosen: bool) -> None:
    assert ONE.kept_dtype("bfloat16", chosen=chosen) == "float32"


def test_there_are_no_tensors_by_name() -> None:
    layout = ONE.layouts[0]
    held: QuantizedTensor = nearest(torch.randn(4, 32), Scheme(4, 32, True))
    with pytest.raises(FormatError, match=f"^{ONE.name} has no tensors by name"):
        layout.to_tensors(held)
    with pytest.raises(FormatError, match=f"layer a: {ONE.name} has no tensors by name"):
        layout.from_tensors({}, held.scheme, name="a")
