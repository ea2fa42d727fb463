"""Every flag that auto-round 0.16.1 shows in its help works here, or has a word of ours."""

from __future__ import annotations

import pytest

from autoround.recipe.auto_round_flags import UNSUPPORTED, our_word
from autoround.recipe.flags import RUN_ALIASES, RUN_FLAGS, option_spellings

#: As its help lists them; asked of it by machine.
SHOWN = """
act_asym act_bits act_data_type act_dtype act_group_size add_bos_token alg alg_config
alg_configs algorithm algorithms algs allow_online_rotation asym awq-apply-clip
awq-clip-as-init awq-duo-scaling awq-n-grid awq_apply_clip awq_clip_as_init
awq_duo_scaling awq_n_grid awq_seqlen awq_smooth_batch_size batch_size bit bits bs
calib_num_inference_steps data_type dataset debug_layer_num device device_map devices
diffusion_tuning_cache_size disable_act_dynamic disable_amp disable_low_cpu_mem_usage
disable_minmax_tuning disable_model_free disable_opt_rtn disable_quanted_input
disable_torch_compile disable_trust_remote_code dtype
enable-svdquant-residual-early-stop enable-svdquant-smooth enable_adam enable_alg_ext
enable_deterministic_algorithms enable_lfq enable_minmax_tuning enable_neuqi
enable_norm_bias_tuning enable_opt_rtn enable_quanted_input enable_torch_compile
eval-gen-kwargs eval_backend eval_bs eval_gen_kwargs eval_model_dtype eval_task_by_task
extra_data_dir fewshot-as-multiturn fewshot_as_multiturn format formats fp_layers
fuse_online_to_weight fuse_rmsnorm generator_seed gradient_accumulate_steps group_size
guidance_scale ignore_layers ignore_scale_zp_bits image_save_dir iter iters kl_top_k
layer_config layerwise limit loss_type low_cpu_mem_usage low_gpu_mem_usage lr
max_shard_size metric metrics minmax_lr mllm model model_dtype model_free model_name
model_name_or_path momentum nblocks no-allow_online_rotation no-enable_adam
no-enable_alg_ext no-enable_lfq no-enable_minmax_tuning no-enable_norm_bias_tuning
no-enable_quanted_input no-fuse_online_to_weight no-fuse_rmsnorm no-layerwise
no-not_use_best_mse no-online_r1_rotation no-quant_lm_head no-r1 no-r2 no-r3 no-r4
no-random_r1 no-random_r2 no-random_r3 no-random_r4 no-trainable_rotation
no-trainable_smooth no-untie_embeddings not_use_best_mse nsample nsamples num-fewshot
num_fewshot num_hidden_layers num_inference_steps online_r1_rotation output_dir platform
prompt prompt_file quant_lm_head quant_nontext_module r1 r2 r3 r4 random_r1 random_r2
random_r3 random_r4 rotation-hadamard-type rotation_backend rotation_block_size
rotation_size rotation_type scale_dtype scheme schemes seed seq_len seqlen shared_layers
smooth_lr static_attention_dtype static_attention_granularity static_kv_dtype
static_kv_granularity super_bits super_group_size svdquant-exclude-modules
svdquant-low-rank-dtype svdquant-model-adapter svdquant-rank svdquant-residual-iters
svdquant-smooth-max-calibration-calls svdquant-smooth-num-grids svdquant-target-modules
task tasks template to_quant_block_names train_bs trainable_rotation trainable_smooth
untie_embeddings vllm_args
"""


def known() -> set[str]:
    """Return all spellings of options that work."""
    words = {word for flag in RUN_FLAGS for option in flag.options for word in option.split("/")}
    names = [alias for flag in RUN_FLAGS for alias in flag.aliases]
    names += [name for own, aliases in RUN_ALIASES.items() for name in (own, *aliases)]
    # Of quantize alone: what continues a text.
    return words | {word for name in names for word in option_spellings(name)} | {"--prompt"}


def test_every_flag_works_or_has_a_word() -> None:
    flags = [f"--{name}" for name in SHOWN.split()]
    works = known().intersection(flags)
    assert len(flags) == len(set(flags)) > 170
    assert len(works) >= 37
    assert [flag for flag in flags if flag not in works and not our_word(flag)] == []


def test_no_flag_that_works_is_told_to_be_none() -> None:
    assert not {f"--{name}" for name in UNSUPPORTED} & known()


@pytest.mark.parametrize("name", ["--act_bits", "act_bits", "--act-bits", "--act_bits=8"])
def test_a_word_by_any_spelling(name: str) -> None:
    assert "activations" in our_word(name)


def test_other_names_have_none() -> None:
    assert our_word("--bitz") == our_word("") == our_word("bits") == ""
