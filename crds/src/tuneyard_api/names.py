"""Every name, label and path that two parts of tuneyard must agree on."""

from typing import Final, Literal

GROUP: Final = "tuneyard.dev"
VERSION: Final = "v1alpha1"
API_VERSION: Final = f"{GROUP}/{VERSION}"
FIELD_MANAGER: Final = "tuneyard-operator"

# Labels on every child; `kubectl get pods -l tuneyard.dev/finetunejob=x` finds a job's pods.
LABEL_FINETUNEJOB: Final = f"{GROUP}/finetunejob"
LABEL_STAGE: Final = f"{GROUP}/stage"
LABEL_MODELSERVER: Final = f"{GROUP}/modelserver"
LABEL_REVISION: Final = f"{GROUP}/revision"
# Kueue's, on the Jobs of a queue.
LABEL_QUEUE: Final = "kueue.x-k8s.io/queue-name"
# On a stage's Job: how often the run had failed, and the stage had started again, before that Job (JSON).
ANNOTATION_BEFORE: Final = f"{GROUP}/before"
# On either kind: another value asks to try again what has failed.
ANNOTATION_RETRY: Final = f"{GROUP}/retry"
# The Job controller's, on the pods of an Indexed Job.
ANNOTATION_INDEX: Final = "batch.kubernetes.io/job-completion-index"
# https://kubernetes.io/docs/concepts/overview/working-with-objects/common-labels/
LABEL_APP_NAME: Final = "app.kubernetes.io/name"
LABEL_APP_INSTANCE: Final = "app.kubernetes.io/instance"
LABEL_APP_COMPONENT: Final = "app.kubernetes.io/component"
LABEL_APP_PART_OF: Final = "app.kubernetes.io/part-of"
MANAGED_BY: Final = {"app.kubernetes.io/managed-by": "tuneyard"}
MANAGED_SELECTOR: Final = ",".join(f"{key}={value}" for key, value in MANAGED_BY.items())

Stage = Literal["prepare", "train", "export", "evaluate", "publish"]

# Paths inside the pods.
JOB_DIR: Final = "/etc/tuneyard/job"
JOB_FILE: Final = f"{JOB_DIR}/job.json"
CREDENTIALS_DIR: Final = "/etc/tuneyard/s3"
TRACKING_DIR: Final = "/etc/tuneyard/tracking"
API_KEY_DIR: Final = "/etc/tuneyard/auth"
API_KEY_FILE: Final = f"{API_KEY_DIR}/key"
WORK_DIR: Final = "/work"
MODEL_DIR: Final = "/models/model"
DRAFT_DIR: Final = "/models/draft"  # of speculative decoding
RUN_DIR: Final = "/run/tuneyard"
TERMINATION_LOG: Final = "/dev/termination-log"  # the kubelet's default terminationMessagePath

# Environment of the pods.
ENV_DIGESTS: Final = "TUNEYARD_DIGESTS"
ENV_THREADS: Final = "TUNEYARD_THREADS"
ENV_PODS_KILLED: Final = "TUNEYARD_PODS_KILLED_FOR_MEMORY"
ENV_TERMINATION_LOG: Final = "TUNEYARD_TERMINATION_LOG"
ENV_PROGRESS_PORT: Final = "TUNEYARD_PROGRESS_PORT"
# The trainer image's interpreter with llmcompressor.
ENV_QUANTIZER_PYTHON: Final = "TUNEYARD_QUANTIZER_PYTHON"
# The trainer image's folder with llama.cpp's tools, libraries and converter.
ENV_LLAMACPP: Final = "TUNEYARD_LLAMACPP"
# The trainer image's library that allocates memory for what trains.
ENV_ALLOCATOR: Final = "TUNEYARD_ALLOCATOR"
# Of the pods of several nodes, as torchrun has them; the last is set by Kubernetes.
ENV_MASTER_ADDR: Final = "MASTER_ADDR"
ENV_MASTER_PORT: Final = "MASTER_PORT"
ENV_COMPLETION_INDEX: Final = "JOB_COMPLETION_INDEX"

PROGRESS_PORT: Final = 8080
MASTER_PORT: Final = 29500  # torchrun's own choice
PROXY_PORT: Final = 8080
METRICS_PORT: Final = 8082  # of the proxy, for the kubelet and Prometheus
ENGINE_PORT: Final = 8083  # of the engine's supervisor, for the kubelet

# A stage's exit codes: BSD sysexits where one fits (EX_DATAERR, EX_TEMPFAIL, EX_CONFIG).
EXIT_DONE: Final = 0
EXIT_UNKNOWN: Final = 1
EXIT_BAD_INPUT: Final = 65
EXIT_TRY_AGAIN: Final = 75
EXIT_DOES_NOT_FIT: Final = 78
