"""Where the metrics of a training go beside its event files: spec.training.tracking."""

from pydantic import Field

from tuneyard_api.base import Model, SecretRef


class Mlflow(Model):
    """An MLflow tracking server (https://mlflow.org/docs/latest/ml/tracking/)."""

    secret_ref: SecretRef = Field(
        description="Secret with MLFLOW_TRACKING_URI and, if needed, MLFLOW_TRACKING_TOKEN, or "
        "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD; and ca.crt (PEM). Only the pods of the train stage "
        "get it."
    )
    experiment: str | None = Field(
        default=None,
        min_length=1,
        max_length=500,
        description="The experiment that gets the run; it is created where there is none. Default: the job's name.",
    )


class Tracking(Model):
    """A server that does not answer delays no training and fails none; status.training.mlflow says what it lacks."""

    mlflow: Mlflow | None = None
