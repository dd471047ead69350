"""What must hold over a whole run: pure functions of its history, in the API server's order.

Each returns what it found wrong, as sentences; an empty list is what we want.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from chaos.facts import (
    CONDITION_OF,
    Alive,
    Run,
    at_the_end,
    digest_of,
    exit_code,
    is_ready,
    is_running,
    label,
    last_words,
    moments,
    name,
    owner,
    run_of_child,
    run_of_status,
    stage_of,
    stage_states,
    true_conditions,
    uid,
)
from chaos.watching import Record
from tuneyard_api import names, reasons

Json = dict[str, Any]
History = Sequence[Record]

# How long Available may outlive the last ready pod: the operator is killed, and another one takes over.
STALE_SECONDS: Final = 45.0
FINISHED: Final = ("Succeeded", "Adopted", "Failed")


def ends_as_expected(history: History, expected: Mapping[tuple[str, str], str]) -> list[str]:
    """`expected`: by kind and name a condition that is True, and after a colon its reason, where that matters."""
    there = at_the_end(history)
    found = {(kind, name(thing)): true_conditions(thing) for kind, thing in there.things.values()}
    wrong = []
    for key, outcome in expected.items():
        condition, _, reason = outcome.partition(": ")
        conditions = found.get(key, {})
        if condition not in conditions or (reason and conditions[condition] != reason):
            wrong.append(f"{' '.join(key)} is not {outcome}, but {conditions or 'silent'}")
    return wrong


def stages_commit_once(history: History) -> list[str]:
    """Of all pods of a FineTuneJob's name and a stage's digest one said Completed; the others found it done."""
    pods: defaultdict[tuple[str, str, str], set[str]] = defaultdict(set)
    for record in history:
        pod = record.object
        if record.kind == "Pod" and stage_of(pod) and last_words(pod).get("reason") == reasons.COMPLETED:
            run = run_of_child(pod)
            pods[f"{run.namespace}/{run.job}", stage_of(pod), digest_of(pod)].add(name(pod))
    return [
        f"{job}: {stage} {digest[:8]} was completed more than once, by {', '.join(sorted(by))}"
        for (job, stage, digest), by in pods.items()
        if len(by) > 1
    ]


def one_pod_at_a_time(history: History) -> list[str]:
    """No two pods run the same stage of the same run; for train, not even for a namesake."""
    running: defaultdict[tuple[str, ...], set[str]] = defaultdict(set)
    wrong = []
    for together in moments(history):
        touched = set()
        for record in (each for each in together if each.kind == "Pod" and stage_of(each.object)):
            pod, run = record.object, run_of_child(record.object)
            key = (run.namespace, run.job, stage_of(pod), "" if stage_of(pod) == "train" else run.revision)
            touched.add(key)
            running[key].discard(name(pod))
            if record.type != "DELETED" and is_running(pod):
                running[key].add(name(pod))
        wrong += [
            f"{'/'.join(key[:3])} runs {len(running[key])} times: {', '.join(sorted(running[key]))}"
            for key in touched
            if len(running[key]) > 1
        ]
    return wrong


def no_orphans(history: History) -> list[str]:
    """At the end: nothing outlives its owner, nothing is left of earlier runs and revisions."""
    there = at_the_end(history)
    wrong = []
    for kind, thing in there.things.values():
        above = owner(thing)
        if above.get("kind") in ("FineTuneJob", "ModelServer", "Job") and above["uid"] not in there.things:
            wrong.append(f"{kind} {name(thing)} outlives its {above['kind']} {above['name']}")
    return [*wrong, *_left_jobs(there), *_left_deployments(there)]


def _left_jobs(there: Alive) -> Iterator[str]:
    runs = {uid(job): run_of_status(job) for job in there.of("FineTuneJob")}
    for job in there.of("Job"):
        run = runs.get(owner(job).get("uid", ""))
        if run and run_of_child(job) != run:
            yield f"Job {name(job)} is of an earlier run of {run.job}"


def _left_deployments(there: Alive) -> Iterator[str]:
    servers = {uid(server): server for server in there.of("ModelServer")}
    for deployment in there.of("Deployment"):
        server = servers.get(owner(deployment).get("uid", ""))
        if server is None or "Progressing" in true_conditions(server):
            continue
        status = server.get("status", {})
        known = {status.get(key, {}).get("revision") for key in ("served", "failed")}
        if label(deployment, names.LABEL_REVISION) not in known:
            yield f"Deployment {name(deployment)} is neither served nor coming"


def nothing_goes_backwards(history: History) -> list[str]:
    """Generations, stages, counts and percents only grow; a stage starts again only after it has lost a pod."""
    wrong: list[str] = []
    last: dict[str, Json] = {}
    lost: defaultdict[tuple[Run, str], set[str]] = defaultdict(set)
    fell: defaultdict[tuple[Run, str, str], int] = defaultdict(int)
    for record in history:
        thing = record.object
        if record.kind == "Pod" and _is_lost(record):
            lost[run_of_child(thing), stage_of(thing)].add(name(thing))
        if record.kind not in ("FineTuneJob", "ModelServer") or record.type == "DELETED":
            continue
        before, after = last.get(uid(thing), {}).get("status", {}), thing.get("status", {})
        wrong += [f"{record.kind} {name(thing)}: {said}" for said in _shrunk(before, after)]
        if record.kind == "FineTuneJob" and before.get("observedGeneration") == after.get("observedGeneration"):
            run = run_of_status(thing)
            for what, stage in _fallen(last.get(uid(thing), {}), thing):
                fell[run, stage, what] += 1
                if fell[run, stage, what] > len(lost[run, stage]):
                    wrong.append(f"FineTuneJob {name(thing)}: {what} of {stage} fell, and no pod of it was lost")
        last[uid(thing)] = thing
    return wrong


def _is_lost(record: Record) -> bool:
    """A container that has failed counts before its pod's phase says so: a kubelet may tell the two apart."""
    pod = record.object
    return (
        record.type == "DELETED"
        or "deletionTimestamp" in pod["metadata"]
        or pod.get("status", {}).get("phase") == "Failed"
        or bool(exit_code(pod))
    )


def _shrunk(before: Json, after: Json) -> Iterator[str]:
    was, now = before.get("observedGeneration", 0), after.get("observedGeneration", 0)
    if now < was:
        yield f"observedGeneration went from {was} to {now}"
    if now != was or "stages" not in before:
        return
    for key, count in before.get("restarts", {}).items():
        if after.get("restarts", {}).get(key, 0) < count:
            yield f"restarts.{key} fell from {count}"
    old, new = stage_states({"status": before}), stage_states({"status": after})
    for stage, state in old.items():
        if state in FINISHED and new.get(stage) != state:
            yield f"{stage} was {state} and is {new.get(stage)}"
    gone = true_conditions({"status": before}).keys() - true_conditions({"status": after}).keys()
    for condition in sorted(gone & {*CONDITION_OF.values(), "Succeeded", "Failed"}):
        yield f"{condition} was True and is no longer"


def _fallen(before: Json, after: Json) -> Iterator[tuple[str, str]]:
    """(what, of which stage)."""
    old, new = stage_states(before), stage_states(after)
    for stage, state in old.items():
        if state == "Running" and new.get(stage) == "Pending":
            yield "the state", stage
    running = [stage for stage, state in new.items() if state == "Running" and old.get(stage) == "Running"]
    was, now = (each.get("status", {}).get("progress", {}).get("percent", 0) for each in (before, after))
    if running and now < was:
        yield "the percentage", running[0]


def job_conditions_were_true(history: History) -> list[str]:
    """What a FineTuneJob's status says had happened before it was written."""
    wrong: list[str] = []
    done: defaultdict[Run, set[str]] = defaultdict(set)
    started: defaultdict[Run, set[str]] = defaultdict(set)
    failed: defaultdict[Run, set[str]] = defaultdict(set)
    for together in moments(history):
        for record in together:
            if record.kind == "Pod" and stage_of(record.object):
                run, pod = run_of_child(record.object), record.object
                done[run] |= _done_by(pod)
                started[run] |= {stage_of(pod)} if is_running(pod) or exit_code(pod) is not None else set()
                failed[run] |= {str(last_words(pod).get("reason"))} if exit_code(pod) else set()
            if record.kind == "Job" and "Complete" in true_conditions(record.object):
                done[run_of_child(record.object)].add(stage_of(record.object))
            if record.kind == "Job" and "Failed" in true_conditions(record.object):
                # Its pod may be gone with its words.
                failed[run_of_child(record.object)] |= {reasons.STAGE_CRASHED, reasons.REASON_LOST}
        for record in (each for each in together if each.kind == "FineTuneJob"):
            run = run_of_status(record.object)
            untrue = _untrue(record.object, done[run], started[run] | done[run], failed[run])
            wrong += [f"FineTuneJob {run.job}: {said}" for said in untrue]
    return wrong


def _done_by(pod: Json) -> set[str]:
    if exit_code(pod) != 0:
        return set()
    # Prepare tells what earlier runs have done; publish is run again even so.
    found = (last_words(pod).get("result") or {}).get("done", []) if stage_of(pod) == "prepare" else []
    return {stage_of(pod), *found} - ({"publish"} if stage_of(pod) != "publish" else set())


def _untrue(job: Json, done: set[str], started: set[str], failed: set[str]) -> Iterator[str]:
    conditions = true_conditions(job)
    for stage, state in stage_states(job).items():
        if state in ("Succeeded", "Adopted") and stage not in done:
            yield f"{stage} is {state}, and no pod had succeeded"
        if state == "Running" and stage not in started:
            yield f"{stage} is Running, and no pod had started"
        if CONDITION_OF[stage] in conditions and stage not in done:
            yield f"{CONDITION_OF[stage]} is True, and {stage} had not succeeded"
    if "Succeeded" in conditions and "publish" not in done:
        yield "Succeeded is True, and publish had not succeeded"
    if "Failed" in conditions and conditions["Failed"] not in failed | {reasons.INVALID_SPEC}:
        yield f"Failed says {conditions['Failed']}, and no pod had said that"
    if {"Succeeded", "Failed"} <= conditions.keys():
        yield "Succeeded and Failed are both True"


def available_means_ready(history: History, stale: float = STALE_SECONDS) -> list[str]:
    """Available is not True for longer than `stale` seconds while no pod of the served revision is ready."""
    wrong: list[str] = []
    there = Alive()
    since: dict[str, float] = {}
    for together in moments(history):
        for record in together:
            there.take(record)
        now = max(record.at for record in together)
        ready = {_revision(pod) for pod in there.of("Pod") if is_ready(pod)}
        for server in there.of("ModelServer"):
            if "Available" not in true_conditions(server) or _served(server) in ready:
                since.pop(uid(server), None)
            elif now - since.setdefault(uid(server), now) > stale:
                wrong.append(f"ModelServer {name(server)} was Available {stale:.0f} s after its last pod was ready")
                since[uid(server)] = now
    return wrong


def _revision(child: Json) -> tuple[str, str]:
    return label(child, names.LABEL_MODELSERVER), label(child, names.LABEL_REVISION)


def _served(server: Json) -> tuple[str, str]:
    return name(server), server.get("status", {}).get("served", {}).get("revision", "")


def services_point_to_what_was_ready(history: History) -> list[str]:
    """Once a server has had a ready revision, its Service points to such a one."""
    wrong: list[str] = []
    ready: set[tuple[str, str]] = set()
    for together in moments(history):
        ready |= {_revision(each.object) for each in together if each.kind == "Pod" and is_ready(each.object)}
        for record in (each for each in together if each.kind == "Service" and each.type != "DELETED"):
            selector = record.object["spec"].get("selector", {})
            server, revision = selector.get(names.LABEL_MODELSERVER, ""), selector.get(names.LABEL_REVISION, "")
            if (server, revision) not in ready and any(known == server for known, _ in ready):
                wrong.append(f"Service {name(record.object)} points to {revision}, which was never ready")
    return wrong


def is_quiet(history: Iterable[Record], since: float) -> list[str]:
    """Where nothing happens nothing is written: no FineTuneJob and no ModelServer changes after `since`."""
    late = [each for each in history if each.at > since and each.kind in ("FineTuneJob", "ModelServer")]
    return [
        f"{each.kind} {name(each.object)} changed {each.at - since:.1f} s after all had come to rest" for each in late
    ]


INVARIANTS: Final = (
    stages_commit_once,
    one_pod_at_a_time,
    nothing_goes_backwards,
    job_conditions_were_true,
    available_means_ready,
    services_point_to_what_was_ready,
)
"""They hold at every moment, so they may be checked while the run goes on."""


def violations(history: History) -> list[str]:
    """Of all of INVARIANTS, each under its name."""
    return [f"{check.__name__}: {said}" for check in INVARIANTS for said in check(history)]
