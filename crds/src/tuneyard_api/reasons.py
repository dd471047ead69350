"""Reasons of conditions, events and termination messages: CamelCase words that a person can search for."""

from typing import Final

# A stage or a rollout that went well.
COMPLETED: Final = "Completed"
ADOPTED: Final = "Adopted"

# Bad input, found by prepare before any GPU is asked for.
BUCKET_NOT_FOUND: Final = "BucketNotFound"
OBJECT_NOT_FOUND: Final = "ObjectNotFound"
ACCESS_DENIED: Final = "AccessDenied"
INVALID_CREDENTIALS: Final = "InvalidCredentials"
CREDENTIALS_MISSING: Final = "CredentialsMissing"
UNTRUSTED_CERTIFICATE: Final = "UntrustedCertificate"
DATASET_NOT_FOUND: Final = "DatasetNotFound"
DATASET_EMPTY: Final = "DatasetEmpty"
INVALID_FILE: Final = "InvalidFile"
INVALID_JSON: Final = "InvalidJSON"
INVALID_ROW: Final = "InvalidRow"
MISSING_ANSWER: Final = "MissingAnswer"
TOO_FEW_ROWS: Final = "TooFewRows"
CHAT_TEMPLATE_MISSING: Final = "ChatTemplateMissing"
NO_END_OF_TURN: Final = "NoEndOfTurn"
ANSWERS_NOT_TRAINED: Final = "AnswersNotTrained"
MODEL_NOT_FOUND: Final = "ModelNotFound"
MODEL_WEIGHTS_MISSING: Final = "ModelWeightsMissing"
INVALID_MODEL: Final = "InvalidModel"
UNSUPPORTED_MODEL: Final = "UnsupportedModel"
UNFIT: Final = "Unfit"
OUTPUT_NOT_WRITABLE: Final = "OutputNotWritable"
FORMAT_DOES_NOT_FIT: Final = "FormatDoesNotFit"
INVALID_SPEC: Final = "InvalidSpec"
STORAGE_MISCONFIGURED: Final = "StorageMisconfigured"
STORAGE_ERROR: Final = "StorageError"

# Found later.
GPU_NOT_VISIBLE: Final = "GPUNotVisible"
OUT_OF_MEMORY: Final = "OutOfMemory"
DISK_FULL: Final = "DiskFull"
OOM_KILLED: Final = "OOMKilled"
TRAINING_DIVERGED: Final = "TrainingDiverged"
QUANTIZATION_DIVERGED: Final = "QuantizationDiverged"
GATE_FAILED: Final = "GateFailed"
ARTIFACT_CORRUPT: Final = "ArtifactCorrupt"
ARTIFACT_NOT_FOUND: Final = "ArtifactNotFound"

# Try again: not charged to the user.
STORAGE_UNAVAILABLE: Final = "StorageUnavailable"
PREEMPTED: Final = "Preempted"
WAITING_FOR_NODES: Final = "WaitingForNodes"
PEER_LOST: Final = "PeerLost"

# Pods of an earlier spec have not ended yet.
WAITING_FOR_EARLIER_RUN: Final = "WaitingForEarlierRun"
QUEUED: Final = "Queued"

# A defect of the operator.
INTERNAL_ERROR: Final = "InternalError"

# A person has stopped it.
SUSPENDED: Final = "Suspended"

# A failure that we could not name.
STAGE_CRASHED: Final = "StageCrashed"
# A result that does not fit into a termination message.
RESULT_TOO_LARGE: Final = "ResultTooLarge"
# What a pod said is lost: it was gone before an operator read it.
REASON_LOST: Final = "ReasonLost"
RESULT_LOST: Final = "ResultLost"

# Events of a FineTuneJob.
RESUMED: Final = "Resumed"
REPLACED: Final = "Replaced"
STAGE_STARTED: Final = "StageStarted"
STAGE_WAITING: Final = "StageWaiting"
STAGE_PREEMPTED: Final = "StagePreempted"
STAGE_COMPLETED: Final = "StageCompleted"
STAGE_ADOPTED: Final = "StageAdopted"
STAGE_FAILED: Final = "StageFailed"
DATASET_READY: Final = "DatasetReady"
SUCCEEDED: Final = "Succeeded"

# A ModelServer waits for a release that it may serve.
WAITING_FOR_FINE_TUNE_JOB: Final = "WaitingForFineTuneJob"
FORMAT_NOT_EXPORTED: Final = "FormatNotExported"
FORMAT_NOT_LOADABLE: Final = "FormatNotLoadable"
IMAGE_NOT_CONFIGURED: Final = "ImageNotConfigured"

# A ModelServer rolls a revision out.
ROLLING_OUT: Final = "RollingOut"
MAKING_ROOM: Final = "MakingRoom"
SUPERSEDED: Final = "Superseded"
WAITING_FOR_TURN: Final = "WaitingForTurn"
WAITING: Final = "Waiting"
SERVING: Final = "Serving"
NOT_READY: Final = "NotReady"
SCALED_TO_ZERO: Final = "ScaledToZero"
VERIFIED: Final = "Verified"
ROLLED_BACK: Final = "RolledBack"

# Why a revision does not become ready, beside the reasons above.
REFUSED: Final = "Refused"
UNSCHEDULABLE: Final = "Unschedulable"
QUOTA_EXCEEDED: Final = "QuotaExceeded"
LIMIT_RANGE: Final = "LimitRange"
ADMISSION_DENIED: Final = "AdmissionDenied"
FAILED_CREATE: Final = "FailedCreate"
PROGRESS_DEADLINE_EXCEEDED: Final = "ProgressDeadlineExceeded"
ENGINE_CRASHED: Final = "EngineCrashed"
ENGINE_HUNG: Final = "EngineHung"
VOCABULARY_DIFFERS: Final = "VocabularyDiffers"
INVALID_API_KEY: Final = "InvalidAPIKey"
