"""Whatever spec the API server stores, the operator answers with a condition or a child, and never with an exception.

TUNEYARD_EXAMPLES=5000 draws that many specs of each kind; without it the same twenty-five are drawn every time.
"""

import json
from typing import Any, Final

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from support.builders import NAMESPACE
from support.cluster import SimulatedCluster
from support.fuzzedspecs import specs
from support.randomworlds import EXAMPLES
from tuneyard_api.kind import Kind
from tuneyard_api.kinds import KINDS
from tuneyard_api.names import API_VERSION
from tuneyard_api.validation import problems
from tuneyard_operator.machinery.objects import condition_in

Json = dict[str, Any]
SLOW: Final = [HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large]
PROFILE: Final = settings(
    max_examples=EXAMPLES or 25, derandomize=not EXAMPLES, deadline=None, database=None, suppress_health_check=SLOW
)
# The conditions that say that a spec is wrong.
TOLD_BY: Final = {"FineTuneJob": "Failed", "ModelServer": "Progressing"}


def stored(kind: Kind, spec: Json) -> Json:
    metadata = {"name": "x", "namespace": NAMESPACE, "uid": "uid-x", "generation": 1}
    return {"apiVersion": API_VERSION, "kind": kind.kind, "metadata": metadata, "spec": json.loads(json.dumps(spec))}


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.kind)
@PROFILE
@given(data=st.data())
def test_every_spec_has_a_status(kind: Kind, data: st.DataObject) -> None:
    obj = stored(kind, data.draw(specs(kind)))
    cluster = SimulatedCluster(obj)
    for _ in range(2):
        step = cluster.reconcile()
        status = kind.status.model_validate(step.status)
        json.dumps([step.status, step.apply, step.create])  # as it is sent
        assert status.conditions, "it is never left without a status"  # type: ignore[attr-defined]
        assert step.status["reason"] or step.apply or step.create
    mistakes = problems(kind, obj)
    if mistakes:
        told = condition_in(step.status["conditions"], TOLD_BY[kind.kind])
        assert told["reason"] == "InvalidSpec"
        assert all(str(mistake) in told["message"] for mistake in mistakes[:3])
        assert not (step.apply or step.create)
