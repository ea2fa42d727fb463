"""Files of a model beside its weights and config: tokenizer, generation, licence."""

from __future__ import annotations

from pathlib import Path

from autoround.model.files.source import INDEX

#: Side files of a checkpoint that describe tokenizer, generation and licence.
COPIED = (
    *("*.json", "*.txt", "*.model", "*.jinja", "*.tiktoken"),
    *("LICEN[CS]E*", "[Ll]icen[cs]e*", "NOTICE*", "[Nn]otice*", "COPYING*", "USE_POLICY*"),
)

#: Files among them that this run writes itself, or that describe other weights.
NOT_COPIED = (
    "config.json",
    INDEX,
    "plan.json",
    "quantize_config.json",
    "quant_config.json",
    "adapter_config.json",
)


def side_files(source: Path) -> list[Path]:
    """Return the files of a model that describe its tokenizer, generation and licence."""
    found = dict.fromkeys(path for pattern in COPIED for path in sorted(source.glob(pattern)))
    return [path for path in found if path.is_file() and path.name not in NOT_COPIED]
