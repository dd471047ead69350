"""training.overrides: what a job may add to Axolotl's config.yaml, and what other fields set."""

from collections.abc import Mapping
from difflib import get_close_matches
from fnmatch import fnmatch
from functools import cache
from importlib.resources import files
from typing import Any, Final

from tuneyard_api import reasons
from tuneyard_trainer.runtime.errors import BadInput

SETTINGS: Final = "settings.txt"
"""The names in config.yaml that Axolotl knows: tests/integration_axolotl compares it with its schema."""

_BY_FIELD: Final[Mapping[str, tuple[str, ...]]] = {
    "model.uri": (
        "base_model",
        "base_model_config",
        "revision_of_model",
        "tokenizer_config",
        "tokenizer_type",
        "processor_type",
        "type_of_model",
        "is_llama_derived_model",
        "load_in_8bit",
    ),
    "model.chatTemplate": ("chat_template", "chat_template_jinja", "default_system_message"),
    "dataset": (
        "datasets",
        "test_datasets",
        "val_set_size",
        "pretraining_dataset",
        "streaming",
        "dataset_prepared_path",
        "push_dataset_to_hub",
        "shuffle_merged_datasets",
        "skip_prepare_dataset",
        "train_on_inputs",
        "dataset_exact_deduplication",
    ),
    "output.uri": ("output_dir", "hub_model_id", "hub_strategy", "save_safetensors", "merge_lora"),
    "training.method": (
        "adapter",
        "load_in_4bit",
        "rl",
        "trl",
        "reward_model",
        "process_reward_model",
        "relora",
        "qat",
        "unfrozen_parameters",
        "lisa_step_interval",
    ),
    "training.lora.rank": ("lora_r",),
    "training.lora.alpha": ("lora_alpha",),
    "training.lora.dropout": ("lora_dropout",),
    "training.lora.targetModules": ("lora_target_modules", "lora_target_linear", "lora_target_parameters"),
    "training.lora.variant": ("peft_use_rslora", "peft_use_dora"),
    "training.learningRate": ("learning_rate",),
    "training.scheduler": ("lr_scheduler",),
    "training.warmupRatio": ("warmup_steps", "warmup_ratio"),
    "training.epochs or training.maxSteps": ("num_epochs", "max_steps"),
    "training.effectiveBatchSize": ("gradient_accumulation_steps", "batch_size"),
    "training.microBatchSize": ("micro_batch_size", "eval_batch_size", "auto_find_batch_size"),
    "training.maxLength": ("sequence_len", "eval_sequence_len", "excess_length_strategy"),
    "training.packing": (
        "sample_packing",
        "sample_packing_sequentially",
        "eval_sample_packing",
        "batch_flattening",
        "curriculum_sampling",
        "pad_to_sequence_len",
    ),
    "training.precision": ("bf16", "fp16", "bfloat16", "float16", "fp8"),
    "training.attention": (
        "attn_implementation",
        "flash_attention",
        "sdp_attention",
        "eager_attention",
        "xformers_attention",
        "flex_attention",
        "sage_attention",
    ),
    "training.gradientCheckpointing": ("gradient_checkpointing", "gradient_checkpointing_kwargs"),
    "training.seed": ("seed",),
    "training.evalSteps": ("eval_steps", "evals_per_epoch", "eval_strategy", "logging_steps"),
    "training.keep": ("load_best_model_at_end", "metric_for_best_model", "greater_is_better"),
    "training.earlyStopping": ("early_stopping_patience",),
    "training.checkpoints": (
        "save_steps",
        "save_strategy",
        "saves_per_epoch",
        "save_total_limit",
        "save_only_model",
        "save_first_step",
        "resume_from_checkpoint",
        "auto_resume_from_checkpoints",
        "dynamic_checkpoint",
    ),
    "training.tracking": (
        "use_mlflow",
        "mlflow_experiment_name",
        "mlflow_run_name",
        "mlflow_tracking_uri",
        "use_tensorboard",
    ),
    "resources": ("device", "device_map", "world_size", "local_rank", "ddp", "use_ray"),
}
_OWNED: Final = {key: field for field, keys in _BY_FIELD.items() for key in keys}

_REFUSED: Final[Mapping[str, tuple[str, ...]]] = {
    "it loads code of its own into the stage": ("plugins", "trainer_cls", "trust_remote_code", "use_kernels"),
    "the rows are tokenized already": (
        *("special_tokens", "tokens", "added_tokens_overrides", "eot_tokens", "tokenizer_*", "processor_*", "image_*"),
        *("chat_template_kwargs", "role_boundaries", "min_sample_len", "max_prompt_len", "pretrain*", "preprocess_*"),
        *("streaming_*", "dataset_processes", "dataset_shard_*", "shuffle_before_*", "num_dataset_shards_to_save"),
    ),
    "the adapter would not fit the base model": (
        *("resize_token_embeddings_to_32x", "shrink_embeddings", "mean_resizing_embeddings", "fix_untrained_tokens"),
        *(
            "peft",
            "peft_layer_replication",
            "peft_init_lora_weights",
            "peft_ensure_weight_tying",
            "lora_fan_in_fan_out",
        ),
        *("overrides_of_model_*", "rope_scaling", "reinit_weights", "is_*_derived_model", "num_labels", "cls_model_*"),
        *("gptq", "quantization", "quantize_*", "model_quantization_*", "use_onebitllms", "use_pose", "pose_*", "s2_*"),
        *("experts_implementation", "llama4_*", "gemma4_*", "scaling_softmax*", "freeze_mm_modules"),
    ),
    "no engine serves an adapter with whole modules or trained tokens": (
        *("lora_modules_to_save", "peft_trainable_token_indices", "lora_rank_pattern", "lora_alpha_pattern"),
    ),
    "a run starts with a new adapter, or from its own checkpoint": ("lora_model_dir", "lora_on_cpu"),
    "checkpoint and adapter are those of one device or of DDP": (
        *("deepspeed", "deepcompile", "fsdp*", "*_parallel_size", "dp_*_size", "sequence_parallel_degree"),
        *("heads_k_stride", "ring_attn_func", "accelerator_config", "qlora_sharded_*", "expert_parallel*"),
    ),
    "pods reach no such server": (
        *("use_wandb", "use_comet", "use_trackio", "use_otel_metrics", "hf_*", "hub_*", "ray_*", "vllm"),
        *("wandb_*", "mlflow_*", "comet_*", "trackio_*", "otel_*", "gradio_*", "resources_per_worker"),
    ),
    "the stage validates and generates nothing else": (
        *("bench_*", "do_*_eval", "eval_*", "generat*", "num_generation_samples", "evaluation_strategy"),
    ),
    "training.method says what is trained": (
        *("dpo_*", "kto_*", "rl_*", "cpo_*", "orpo_*", "rpo_*", "simpo_*", "ebft", "center_rewards_*", "relora_*"),
        *("precompute_ref_log_probs", "jagged_*", "lisa_*", "diffusion*"),
    ),
    "the stage sets it": ("axolotl_config_path", "is_preprocess", "dataset_num_proc", "total_num*", "total_super*"),
}


def check_overrides(overrides: Mapping[str, Any]) -> None:
    """Raises BadInput for a key that Axolotl does not know, that another field sets, or that breaks a promise."""
    for key in sorted(overrides):
        path = f"training.overrides.{key}"
        if field := _OWNED.get(key):
            message, advice = f"{path} is set by another field of the spec", f"Leave it out, and set {field}."
        elif key not in _known():
            near = get_close_matches(key, _known(), n=1)
            message = f"Axolotl has no setting {key}, which training.overrides names"
            advice = f"Did you mean {near[0]}?" if near else "Look it up in Axolotl's reference of config.yaml."
        elif why := next((why for why, names in _REFUSED.items() if any(fnmatch(key, name) for name in names)), None):
            message, advice = f"{path} is not possible here: {why}", "Leave it out."
        else:
            continue
        raise BadInput(reasons.INVALID_SPEC, message, advice)


@cache
def _known() -> frozenset[str]:
    return frozenset((files(__package__) / SETTINGS).read_text().split())
