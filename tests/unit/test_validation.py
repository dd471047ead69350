"""What is wrong with an object is said all at once: the field's path, what is wrong, and what to write instead."""

from typing import Any

import pytest

from support.verdicts import VERDICTS, Verdict
from support.wrongspecs import WRONG_SPECS, WrongSpec
from tuneyard_api.crd import build_crd
from tuneyard_api.kind import Kind
from tuneyard_api.kinds import KINDS
from tuneyard_api.validation import explain, problems

Json = dict[str, Any]
BY_NAME = {kind.kind: kind for kind in KINDS}


@pytest.mark.parametrize("verdict", VERDICTS, ids=lambda verdict: verdict.message[:30] or "accepted")
def test_every_rule(verdict: Verdict) -> None:
    """tests/contract/test_crds.py asks the API server the same."""
    found = problems(BY_NAME[verdict.kind], verdict.document())
    assert bool(found) == bool(verdict.message), explain(found)
    assert verdict.message in explain(found)


def messages(schema: Json) -> set[str]:
    """Of the rules in CEL that judge an object by itself, not against what was stored before."""
    found = {rule["message"] for rule in schema.get("x-kubernetes-validations", []) if "oldSelf" not in rule["rule"]}
    children = [*schema.get("properties", {}).values(), *filter(None, [schema.get("items")])]
    return found.union(*map(messages, children))


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.kind)
def test_every_rule_of_the_schema_is_covered(kind: Kind) -> None:
    schema = build_crd(kind)["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    broken = {verdict.message for verdict in VERDICTS if verdict.kind == kind.kind and verdict.message}
    assert not {message for message in messages(schema) if not any(each in message for each in broken)}


@pytest.mark.parametrize("wrong", WRONG_SPECS, ids=lambda wrong: wrong.path)
def test_wrong_specs(wrong: WrongSpec) -> None:
    (problem,) = problems(BY_NAME[wrong.kind], wrong.document())
    assert problem.path.startswith(wrong.path)
    assert wrong.remedy in problem.message


def test_all_problems_at_once() -> None:
    part = {"training": {"lora": {"rank": 0}, "epochs": 1, "maxSteps": 1}, "resources": {"limits": {"cpu": "x"}}}
    found = problems(BY_NAME["FineTuneJob"], Verdict("FineTuneJob", part, name="x" * 45).document())
    assert [problem.path for problem in found] == [
        *("metadata.name", "spec.training.lora.rank", "spec.resources.limits.cpu")
    ]


@pytest.mark.parametrize("spec", [None, [], "x", {"model": None}, {"resources": 1, "dataset": {"train": {}}}])
def test_nonsense_is_no_crash(spec: object) -> None:
    assert problems(BY_NAME["FineTuneJob"], {"metadata": {"name": "x"}, "spec": spec})


@pytest.mark.parametrize("part", [{"priorityClassName": ""}, {"resources": {"runtimeClassName": "", "limits": {}}}])
def test_empty_text_is_as_good_as_none(part: Json) -> None:
    """Templates write it."""
    assert not problems(BY_NAME["FineTuneJob"], Verdict("FineTuneJob", part).document())
