"""States of both kinds, each played in the simulated cluster, and the health that Argo CD must show for them.

The health is written here by hand; `condition` is the type of the condition whose words Argo CD shows.
"""

from collections.abc import Callable
from typing import Final, NamedTuple

from support.builders import FOREIGN_SERVICE, NEW, OLD, artifact
from support.finetuning import FineTuning
from support.podstatus import PREEMPTED, termination
from support.reports import CHAIN
from support.serving import FOLLOWS, Serving, following, serving
from tuneyard_api.names import EXIT_BAD_INPUT, Stage
from tuneyard_operator.machinery.objects import Json, condition
from tuneyard_operator.machinery.plan import Rejection

UNOBSERVED: Final = "Waiting for the operator"
OUTDATED: Final = "The operator has not observed the new spec yet"


class State(NamedTuple):
    """One object, and what Argo CD makes of it."""

    name: str  # of the file in testdata
    health: str
    condition: str  # its type; or a whole message, where no condition says it
    play: Callable[[], Json]
    says_reason: bool = True  # the message begins with the condition's reason

    def message(self, obj: Json) -> str:
        found = condition(obj, self.condition)
        if not found:
            return self.condition
        words = (found["reason"] if self.says_reason else "", found["message"])
        return ": ".join(filter(None, words))


# FineTuneJobs.


def _running(stage: Stage, **spec: object) -> FineTuning:
    """The stage's pod runs, and the operator has seen it."""
    cluster = FineTuning(**spec).at(stage).run(stage)
    cluster.step()
    return cluster


def _at(stage: Stage) -> Callable[[], Json]:
    return lambda: _running(stage).job


def _finished() -> FineTuning:
    return FineTuning().prepared().finish(*CHAIN[1:])


def _fails(stage: Stage, reason: str, message: str) -> Callable[[], Json]:
    """The stage has found its input wrong."""

    def play() -> Json:
        cluster = _running(stage)
        cluster.exit(stage, EXIT_BAD_INPUT, termination(reason, message)).fail_job(stage, "PodFailurePolicy")
        cluster.step()
        return cluster.job

    return play


def _out_of_memory() -> Json:
    cluster = _running("train")
    cluster.exit("train", 1, reason="OOMKilled").fail_job("train", failed=4)
    cluster.step()
    return cluster.job


def _unschedulable() -> Json:
    cluster = FineTuning().at("train")
    cluster.kubelet.leave_unscheduled(cluster.create_pod("train"), "0/4 nodes are available: 4 Insufficient gpu.")
    cluster.step()
    return cluster.job


def _preempted() -> Json:
    cluster = _running("train")
    cluster.exit("train", *PREEMPTED).step()
    return cluster.job


def _waiting_for_nodes() -> Json:
    cluster = FineTuning(resources={"nodes": 2}).prepared()
    cluster.kubelet.start(cluster.job_controller.create_pod(cluster.job_of("train"), 0))
    cluster.step()
    return cluster.job


def _queued() -> Json:
    cluster = FineTuning(queueName="gpus").prepared()
    cluster.step()
    return cluster.job


def _suspended() -> Json:
    cluster = _running("train").change(suspend=True)
    cluster.step()
    cluster.step()
    return cluster.job


def _resumed() -> Json:
    cluster = _running("train").change(suspend=True)
    cluster.step()
    cluster.change(suspend=False).step()
    return cluster.job


def _stopping() -> Json:
    cluster = _running("train").change(suspend=True)
    cluster.reconcile()
    return cluster.job


def _replaced() -> Json:
    cluster = _running("train", onSpecChange="Replace").change(training={"maxSteps": 7})
    cluster.reconcile()
    return cluster.job


def _changed(cluster: FineTuning) -> Json:
    """The API server has the new spec, and the operator has not seen it."""
    cluster.change(training={"maxSteps": 7})
    return cluster.update(cluster.job)


def _runs_again() -> Json:
    cluster = _finished().change(rerun="2026-11-01")
    cluster.step()
    cluster.step()
    return cluster.job


def _rejected(message: str, *, final: bool) -> Callable[[], Json]:
    def play() -> Json:
        cluster = FineTuning()
        cluster.rejection = Rejection("Job x-prepare", message, final=final)
        cluster.step()
        return cluster.job

    return play


def _lifetime_changed() -> Json:
    cluster = _finished().change(ttlSecondsAfterFinished=86400)
    cluster.step()
    return cluster.job


def _stepped(**spec: object) -> Callable[[], Json]:
    def play() -> Json:
        cluster = FineTuning(**spec)
        cluster.step()
        return cluster.job

    return play


FINE_TUNE_JOBS: Final = (
    State("progressing_noStatus", "Progressing", UNOBSERVED, lambda: FineTuning().job),
    State("progressing_pending", "Progressing", "Succeeded", _stepped()),
    State("progressing_preparing", "Progressing", "Succeeded", _at("prepare")),
    State("progressing_training", "Progressing", "Succeeded", _at("train")),
    State("progressing_exporting", "Progressing", "Succeeded", _at("export")),
    State("progressing_evaluating", "Progressing", "Succeeded", _at("evaluate")),
    State("progressing_publishing", "Progressing", "Succeeded", _at("publish")),
    State("progressing_unschedulable", "Progressing", "Succeeded", _unschedulable),
    State("progressing_preempted", "Progressing", "Succeeded", _preempted),
    State("progressing_waitingForNodes", "Progressing", "Succeeded", _waiting_for_nodes),
    State("progressing_queued", "Progressing", "Succeeded", _queued),
    State("progressing_overQuota", "Progressing", "Succeeded", _rejected("exceeded quota", final=False)),
    State("progressing_resumed", "Progressing", "Succeeded", _resumed),
    State("progressing_replaced", "Progressing", "Succeeded", _replaced),
    State("progressing_runsAgain", "Progressing", "Succeeded", _runs_again),
    State("progressing_changedAfterSuccess", "Progressing", OUTDATED, lambda: _changed(_finished())),
    State("suspended_created", "Suspended", "Suspended", _stepped(suspend=True), says_reason=False),
    State("suspended_stopping", "Suspended", "Suspended", _stopping, says_reason=False),
    State("suspended_stopped", "Suspended", "Suspended", _suspended, says_reason=False),
    State("healthy_succeeded", "Healthy", "Succeeded", lambda: _finished().job, says_reason=False),
    State("healthy_lifetimeChanged", "Healthy", "Succeeded", _lifetime_changed, says_reason=False),
    State("degraded_badData", "Degraded", "Failed", _fails("prepare", "InvalidJSON", "s3://data/d.jsonl, line 3")),
    State("degraded_gateFailed", "Degraded", "Failed", _fails("evaluate", "GateFailed", "perplexity 9.1 > 8.0")),
    State("degraded_outOfMemory", "Degraded", "Failed", _out_of_memory),
    State("degraded_invalidSpec", "Degraded", "Failed", _stepped(resources={"limits": {"memory": "16GB"}})),
    State("degraded_rejected", "Degraded", "Failed", _rejected("Invalid value: nodeSelector", final=True)),
)


# ModelServers.


def _served() -> Json:
    return serving().server


def _first_rollout() -> Json:
    cluster = Serving()
    cluster.step(0)
    return cluster.server


def _next_rollout() -> Json:
    cluster = serving().wants(NEW)
    cluster.step(60)
    return cluster.server


def _broken(cluster: Serving, digest: str) -> Json:
    cluster.step(60)
    cluster.fail_fetch(digest, "ArtifactCorrupt", 65, restarts=4)
    cluster.step(90)
    return cluster.server


def _crashing() -> Json:
    cluster = Serving()
    cluster.step(0)
    cluster.fail_container(OLD, "engine", 1, "RuntimeError: no kernel image is available", restarts=5)
    cluster.step(60)
    return cluster.server


def _scaled_to_zero() -> Json:
    cluster = serving().change(replicas=0)
    cluster.step(60)
    cluster.sync_deployments()
    cluster.step(90)
    return cluster.server


def _follows(play: Callable[[Serving], object]) -> Callable[[], Json]:
    def played() -> Json:
        cluster = Serving(FOLLOWS)
        play(cluster)
        cluster.step(0)
        return cluster.server

    return played


def _trains_again() -> Json:
    cluster = following()
    cluster.train()
    cluster.step(60)
    return cluster.server


def _failed_gate(cluster: Serving) -> object:
    return cluster.publish(evaluation={"gates": [{"passed": False}], "gatesFailed": 1})


def _next_release_failed() -> Json:
    cluster = following()
    cluster.publish(NEW, evaluation={"gates": [{"passed": False}], "gatesFailed": 1})
    cluster.step(60)
    return cluster.server


def _format_not_exported() -> Json:
    cluster = Serving({"fineTuneJobRef": {"name": "tune", "format": "gptq"}})
    cluster.publish()
    cluster.step(0)
    return cluster.server


def _name_taken() -> Json:
    cluster = Serving()
    cluster.create(FOREIGN_SERVICE)
    cluster.step(0)
    return cluster.server


def _pods_deleted() -> Json:
    cluster = serving()
    for pod in cluster.pods_of(cluster.deployment_of(OLD)):
        cluster.remove(pod)
    cluster.sync_deployments()
    cluster.step(60)
    return cluster.server


def _engine_died() -> Json:
    cluster = serving()
    cluster.kubelet.crash(cluster.pod_of(OLD))
    cluster.sync_deployments()
    cluster.step(60)
    return cluster.server


def _invalid_while_serving() -> Json:
    cluster = serving().change(resources={"limits": {"memory": "16GB"}})
    cluster.step(60)
    return cluster.server


def _unobserved_change() -> Json:
    cluster = serving().wants(NEW)
    return cluster.update(cluster.server)


MODEL_SERVERS: Final = (
    State("progressing_noStatus", "Progressing", UNOBSERVED, lambda: Serving(artifact(OLD)).server),
    State("progressing_firstRollout", "Progressing", "Progressing", _first_rollout, says_reason=False),
    State("progressing_nextRollout", "Progressing", "Progressing", _next_rollout, says_reason=False),
    State("progressing_specChanged", "Progressing", OUTDATED, _unobserved_change),
    State("progressing_waitsForJob", "Progressing", "Available", _follows(lambda cluster: None)),
    State("progressing_waitsForTraining", "Progressing", "Available", _follows(Serving.train)),
    State("progressing_notReady", "Progressing", "Available", _pods_deleted),
    State("healthy_serves", "Healthy", "Available", _served, says_reason=False),
    State("healthy_jobTrainsAgain", "Healthy", "Available", _trains_again, says_reason=False),
    State("healthy_nextReleaseFailedGate", "Healthy", "Available", _next_release_failed, says_reason=False),
    State("suspended_scaledToZero", "Suspended", "Available", _scaled_to_zero, says_reason=False),
    State("degraded_firstArtifactCorrupt", "Degraded", "Degraded", lambda: _broken(Serving(), OLD)),
    State("degraded_rolledBack", "Degraded", "Degraded", lambda: _broken(serving().wants(NEW), NEW)),
    State("degraded_engineCrashes", "Degraded", "Degraded", _crashing),
    State("degraded_engineDied", "Degraded", "Degraded", _engine_died),
    State("degraded_nameTaken", "Degraded", "Degraded", _name_taken),
    State("degraded_gateFailed", "Degraded", "Available", _follows(_failed_gate)),
    State("degraded_invalidSpec", "Degraded", "Progressing", _invalid_while_serving),
    State("degraded_formatNotExported", "Degraded", "Progressing", _format_not_exported),
)

STATES: Final = {"FineTuneJob": FINE_TUNE_JOBS, "ModelServer": MODEL_SERVERS}
