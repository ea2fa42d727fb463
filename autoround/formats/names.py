"""The names of the built-in formats, for whoever asks for no more: it imports nothing."""

from __future__ import annotations

#: In the order of :data:`autoround.formats.registry.BUILT_IN`.
BUILT_IN_NAMES = (
    "auto_round",
    "auto_round:auto_gptq",
    "auto_round:auto_awq",
    "auto_gptq",
    "gptq_v2",
    "auto_awq",
    "compressed-tensors",
    "llm_compressor",
    "mlx",
    "fake",
    "gguf:q4_0",
    "gguf:q4_1",
    "gguf:q5_0",
    "gguf:q5_1",
    "gguf:q8_0",
    "gguf:q2_k_s",
    "gguf:q3_k_s",
    "gguf:q3_k_m",
    "gguf:q3_k_l",
    "gguf:q4_k_s",
    "gguf:q4_k_m",
    "gguf:q5_k_s",
    "gguf:q5_k_m",
    "gguf:q6_k",
)
