"""What keeps a pod from starting, and the advice that goes with it."""

import pytest

from tuneyard_operator.machinery.objects import Json
from tuneyard_operator.pods.starting import lacks_room, reason_of, stuck_message, with_advice

NO_VICTIMS = "preemption: 0/3 nodes are available: 3 No preemption victims found: Insufficient cpu."


def unscheduled(causes: str) -> Json:
    message = f"0/3 nodes are available: {causes}. {NO_VICTIMS}"
    why = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}
    return {"metadata": {"name": "p"}, "status": {"conditions": [why]}}


@pytest.mark.parametrize(
    ("causes", "advice"),
    [
        ("3 Insufficient nvidia.com/gpu", "correct spec.resources.gpuResourceName or spec.resources.gpus"),
        ("3 Insufficient memory", "Lower memory in spec.resources, or add a node with more memory."),
        ("3 Insufficient ephemeral-storage", "Lower ephemeral-storage in spec.resources"),
        ("3 Too many pods", "Add a node, or stop other pods."),
        (
            "1 node(s) had untolerated taint {gpu: only}, 2 Insufficient cpu",
            "with the key gpu to spec.resources.tolerations",
        ),
        ("3 node(s) had untolerated taint {node.kubernetes.io/unreachable: }", "node.kubernetes.io/unreachable."),
        ("3 node(s) didn't match Pod's node affinity/selector", "spec.resources.nodeSelector"),
        ("3 node(s) didn't match pod topology spread constraints", "topology spread constraints in spec.resources"),
        ('persistentvolumeclaim "models" not found', "Create the PersistentVolumeClaim models"),
    ],
)
def test_scheduler(causes: str, advice: str) -> None:
    message = stuck_message(unscheduled(causes))
    assert reason_of(message) == "Unschedulable"
    assert advice in message.partition(NO_VICTIMS.rstrip("."))[2]


def test_advice_is_about_nodes_and_not_about_preemption() -> None:
    message = stuck_message(unscheduled("3 node(s) had untolerated taint {gpu: only}"))
    assert message.endswith("if the pod may run on those nodes.") and "Lower cpu" not in message


def test_taint_of_the_control_plane_is_no_advice() -> None:
    causes = "1 node(s) had untolerated taint {node-role.kubernetes.io/control-plane: }, 2 Insufficient nvidia.com/gpu"
    message = stuck_message(unscheduled(causes))
    assert "tolerations" not in message and "Wait until a nvidia.com/gpu is free" in message
    assert lacks_room(unscheduled(causes))


@pytest.mark.parametrize(
    ("reason", "message", "advice"),
    [
        ("ImagePullBackOff", 'Back-off pulling image "x"', "values images; a private registry needs imagePullSecrets"),
        ("CreateContainerConfigError", 'secret "token" not found', "Create what is missing in this namespace"),
        ("RunContainerError", "exec: no such file", "kubectl logs --previous"),
    ],
)
def test_container_that_waits(reason: str, message: str, advice: str) -> None:
    waiting = {"name": "stage", "state": {"waiting": {"reason": reason, "message": message}}}
    found = stuck_message({"metadata": {"name": "p"}, "status": {"containerStatuses": [waiting]}})
    assert found.startswith(f"{reason}: {message}. ") and advice in found


def test_secret_of_a_volume_that_is_missing() -> None:
    warning = 'FailedMount: MountVolume.SetUp failed for volume "auth" : secret "key" not found'
    assert with_advice(warning).startswith(f"{warning}. Create what is missing in this namespace")
    assert with_advice("Unhealthy: it is slow") == "Unhealthy: it is slow"
