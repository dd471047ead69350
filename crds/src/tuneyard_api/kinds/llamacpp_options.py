"""The options of llama-server that spec.llamacpp.extraArgs may have: those of the version in the image.

Left out are options that tuneyard sets, and those that would open the pod: files, tools, other hosts, logs of requests.
tests/integration/test_llamacpp.py compares the names with the program's own.
"""

from typing import Final

_NAMES: Final = """
adaptive-decay adaptive-target backend-sampling batch-size cache-idle-slots cache-prompt cache-reuse
cache-type-k-draft cache-type-v-draft chat-template chat-template-kwargs check-tensors checkpoint-min-step
cont-batching context-shift cpu-mask cpu-mask-batch cpu-mask-batch-draft cpu-mask-draft cpu-moe cpu-moe-draft
cpu-range cpu-range-batch cpu-range-draft cpu-strict cpu-strict-batch cpu-strict-batch-draft cpu-strict-draft
ctx-checkpoints defrag-thold device device-draft draft draft-max draft-min draft-n draft-n-min draft-p-min
draft-p-split dry-allowed-length dry-base dry-multiplier dry-penalty-last-n dry-sequence-breaker dynatemp-exp
dynatemp-range fit fit-ctx fit-target frequency-penalty gpu-layers gpu-layers-draft grammar ignore-eos json-schema
kv-offload logit-bias main-gpu min-p mirostat mirostat-ent mirostat-lr n-cpu-ffn n-cpu-moe n-cpu-moe-draft
n-gpu-layers n-gpu-layers-draft n-predict no-cache-idle-slots no-cache-prompt no-cont-batching no-context-shift
no-kv-offload no-op-offload no-perf no-prefill-assistant no-reasoning-preserve no-repack no-skip-chat-parsing
no-spec-draft-backend-sampling no-warmup numa op-offload override-kv override-tensor override-tensor-draft perf poll
poll-batch poll-batch-draft poll-draft prefill-assistant presence-penalty prio prio-batch prio-batch-draft prio-draft
reasoning reasoning-budget reasoning-budget-message reasoning-effort reasoning-format reasoning-preserve repack
repeat-last-n repeat-penalty reverse-prompt rope-freq-base rope-freq-scale rope-scale rope-scaling sampler-seq
samplers sampling-seq seed skip-chat-parsing slot-prompt-similarity spec-default spec-draft-backend-sampling
spec-draft-cpu-mask spec-draft-cpu-mask-batch spec-draft-cpu-moe spec-draft-cpu-range spec-draft-cpu-strict
spec-draft-cpu-strict-batch spec-draft-device spec-draft-n-cpu-moe spec-draft-n-max spec-draft-n-min spec-draft-ncmoe
spec-draft-ngl spec-draft-override-tensor spec-draft-p-min spec-draft-p-split spec-draft-poll spec-draft-poll-batch
spec-draft-prio spec-draft-prio-batch spec-draft-threads spec-draft-threads-batch spec-draft-type-k spec-draft-type-v
spec-ngram-map-k-min-hits spec-ngram-map-k-size-m spec-ngram-map-k-size-n spec-ngram-map-k4v-min-hits
spec-ngram-map-k4v-size-m spec-ngram-map-k4v-size-n spec-ngram-min-hits spec-ngram-mod-n-match spec-ngram-mod-n-max
spec-ngram-mod-n-min spec-ngram-simple-min-hits spec-ngram-simple-size-m spec-ngram-simple-size-n spec-ngram-size-m
spec-ngram-size-n spec-synth-len spec-synth-rates spec-type split-mode spm-infill swa-checkpoints swa-full temp
temperature tensor-split threads threads-batch threads-batch-draft threads-draft threads-http top-k top-n-sigma
top-nsigma top-p typical typical-p ubatch-size warmup xtc-probability xtc-threshold yarn-attn-factor yarn-beta-fast
yarn-beta-slow yarn-ext-factor yarn-orig-ctx
"""
OPTIONS: Final = frozenset(_NAMES.split())
