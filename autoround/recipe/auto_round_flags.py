"""Flags and arguments of auto-round that are none here, each with the word for what it does.

Those that are, under whatever name, are in :mod:`autoround.recipe.flags`. Imports nothing.
"""

from __future__ import annotations

from collections.abc import Mapping

_TASKS = (
    "'autoround eval OUT --tasks ...' runs lm-eval's tasks on what is written, and those of files; "
    "--eval scores perplexity, KL divergence and top-1 agreement"
)
_ACTIVATIONS = "weights are quantized to integers, and activations, keys and values stay in 16 bit"
_DIFFUSION = "diffusion models are not quantized here"
_ROTATIONS = "weights are not rotated or smoothed here: no work is added to inference"
_AWQ = (
    "scales are searched by importance in every recipe but rtn; --format auto_awq writes AWQ's "
    "files"
)
_NEVER = "models are opened without any code of theirs, always"

#: Our word, and the names it is for.
_GROUPS: tuple[tuple[str, tuple[str, ...]], ...] = (
    (
        _TASKS,
        (
            *("tasks", "task", "eval_bs", "limit", "num_fewshot", "eval_gen_kwargs"),
            *("fewshot_as_multiturn", "eval_task_by_task", "eval_backend", "vllm_args"),
            *("eval_model_dtype", "add_bos_token"),
        ),
    ),
    (
        _ACTIVATIONS,
        (
            *("data_type", "dtype", "act_bits", "act_group_size", "act_asym", "act_sym"),
            *("act_data_type", "act_dtype", "act_dynamic", "disable_act_dynamic"),
            *("static_kv_dtype", "static_kv_granularity", "static_attention_dtype"),
            "static_attention_granularity",
        ),
    ),
    (
        _DIFFUSION,
        (
            *("prompt_file", "metrics", "metric", "image_save_dir", "guidance_scale"),
            *("calib_num_inference_steps", "num_inference_steps", "generator_seed"),
            "diffusion_tuning_cache_size",
        ),
    ),
    (
        _ROTATIONS,
        (
            *("rotation_type", "rotation_hadamard_type", "rotation_backend", "rotation_size"),
            *("rotation_block_size", "fuse_online_to_weight", "allow_online_rotation"),
            *("layerwise", "r1", "r2", "r3", "r4", "random_r1", "random_r2", "random_r3"),
            *("random_r4", "trainable_rotation", "trainable_smooth", "online_r1_rotation"),
            *("smooth_lr", "loss_type", "kl_top_k", "fuse_rmsnorm", "svdquant_rank"),
            *("enable_svdquant_smooth", "svdquant_smooth_num_grids", "svdquant_residual_iters"),
            *("svdquant_smooth_max_calibration_calls", "enable_svdquant_residual_early_stop"),
            *("svdquant_low_rank_dtype", "svdquant_target_modules", "svdquant_exclude_modules"),
            "svdquant_model_adapter",
        ),
    ),
    (
        _AWQ,
        (
            *("awq_duo_scaling", "awq_n_grid", "awq_seqlen", "awq_smooth_batch_size"),
            *("awq_apply_clip", "awq_clip_as_init", "enable_neuqi"),
        ),
    ),
    (_NEVER, ("trust_remote_code", "disable_trust_remote_code")),
    ("write --recipe rtn, which does not search scales", ("disable_opt_rtn",)),
    ("write --recipe opt-rtn", ("enable_opt_rtn",)),
    (
        "choose a recipe: rtn, opt-rtn, flash, signround, turbo, light, default, best",
        ("algorithm", "algorithms", "alg", "algs", "alg_config", "alg_configs"),
    ),
    ("write --avg-bits 3 --options W2,W4,W8", ("schemes",)),
    ("a budget counts scales and zero points, always", ("ignore_scale_zp_bits",)),
    ("set allocate.fused (--set allocate.fused=true) ", ("shared_layers",)),
    ("set tuning.compute_dtype=float32 (--set)", ("disable_amp", "amp")),
    (
        "weights are read as they are stored; set tuning.compute_dtype (--set) for the blocks",
        ("model_dtype",),
    ),
    ("set tuning.deterministic=true (--set)", ("enable_deterministic_algorithms",)),
    ("set tuning.tune_minmax=false (--set)", ("disable_minmax_tuning",)),
    ("ranges are tuned unless tuning.tune_minmax is false", ("enable_minmax_tuning",)),
    ("set tuning.quantized_inputs=false (--set)", ("disable_quanted_input",)),
    (
        "a block's inputs are quantized unless tuning.quantized_inputs is false",
        ("enable_quanted_input",),
    ),
    (
        "of a few validations the best iterate is kept: tuning.num_validations",
        ("not_use_best_mse",),
    ),
    ("recipes w2 and w3 tune end to end for few bits", ("enable_alg_ext",)),
    (
        "SignSGD on rounding offsets and ranges, block by block, is what there is",
        (
            *("momentum", "nblocks", "enable_adam", "enable_lfq", "enable_norm_bias_tuning"),
            "lr_scheduler",
        ),
    ),
    ("set output.max_shard_size=5GB (--set)", ("max_shard_size",)),
    ("scales are float16 in every format but GGUF's", ("scale_dtype",)),
    (
        "scales of scales are those of GGUF's types: --format gguf:q4_k_m",
        ("super_bits", "super_group_size"),
    ),
    (
        "layers are kept by --ignore-layers, or given bits by rules (layers)",
        ("to_quant_block_names",),
    ),
    (
        "one block at a time is in memory, always",
        ("low_cpu_mem_usage", "disable_low_cpu_mem_usage"),
    ),
    ("weights are read block by block, always", ("model_free", "disable_model_free")),
    ("models with a vision tower need no flag", ("mllm", "processor")),
    ("set quantize_vision=true (--set)", ("quant_nontext_module",)),
    ("set calibration.images to a file of images (--set)", ("extra_data_dir", "template")),
    ("a model is a folder, or a name on the Hugging Face hub", ("platform",)),
    ("a model is quantized whole", ("num_hidden_layers", "debug_layer_num")),
    ("a tied head that is quantized is written beside the embeddings", ("untie_embeddings",)),
    ("the output folder is named by --output-dir", ("export_dir",)),
)

UNSUPPORTED: Mapping[str, str] = {name: words for words, names in _GROUPS for name in names}


def our_word(name: str) -> str:
    """Return what to write in place of a flag of auto-round that is none here; empty for others.

    Args:
        name: of a flag or an argument, with or without its dashes.
    """
    plain = name.lstrip("-").replace("-", "_").partition("=")[0]
    return UNSUPPORTED.get(plain, UNSUPPORTED.get(plain.removeprefix("no_"), "")).strip()
