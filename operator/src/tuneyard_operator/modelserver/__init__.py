"""ModelServer: one Deployment per revision behind one Service."""

from tuneyard_operator.modelserver.controller import CONTROLLER

__all__ = ["CONTROLLER"]
