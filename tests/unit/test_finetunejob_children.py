"""The Jobs and the ConfigMap of a FineTuneJob."""

import json
from typing import Any

import pytest

from support.builders import SETTINGS, fine_tune_job
from support.finetuning import FineTuning
from support.reports import DIGESTS, PREPARED
from tuneyard_api.kinds.finetunejob import FineTuneJobSpec
from tuneyard_api.names import Stage
from tuneyard_api.registry import BACKENDS
from tuneyard_api.runs import revision
from tuneyard_api.stages import STAGES
from tuneyard_operator.finetunejob.children import config_map, stage_job
from tuneyard_operator.machinery.objects import Json, name


def pod_of(stage: Stage, **spec: Any) -> Json:
    job = fine_tune_job(**spec)
    built = stage_job(job, revision(job), FineTuneJobSpec.model_validate(job["spec"]), stage, DIGESTS, SETTINGS)
    pod: Json = built["spec"]["template"]["spec"]
    return pod


class TestChildren:
    @pytest.mark.parametrize("stage", STAGES)
    def test_pods_are_restricted(self, stage: Stage) -> None:
        pod = pod_of(stage)
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod["automountServiceAccountToken"] is False
        assert pod["enableServiceLinks"] is False
        assert pod["restartPolicy"] == "Never"
        for container in pod["containers"]:
            security = container["securityContext"]
            assert security["allowPrivilegeEscalation"] is False
            assert security["readOnlyRootFilesystem"] is True
            assert security["capabilities"] == {"drop": ["ALL"]}

    def test_only_training_gets_the_secret_of_the_tracking_server(self) -> None:
        tracking = {"mlflow": {"secretRef": {"name": "mlflow"}}}
        for stage in STAGES:
            pod = pod_of(stage, training={"tracking": tracking})
            mounted = {item["name"]: item["mountPath"] for item in pod["containers"][0]["volumeMounts"]}
            assert mounted.get("tracking") == ("/etc/tuneyard/tracking" if stage == "train" else None)
            volumes = {volume["name"]: volume for volume in pod["volumes"]}
            assert set(mounted) == set(volumes)
            if stage == "train":
                secret = volumes["tracking"]["secret"]
                assert (secret["secretName"], secret["optional"]) == ("mlflow", True)
        assert "tracking" not in str(pod_of("train"))

    def test_only_training_asks_for_gpus(self) -> None:
        resources = {
            "gpus": 2,
            "requests": {"cpu": "1"},
            "limits": {"cpu": "1500m", "memory": "8Gi"},
            "nodeSelector": {"gpu": "a"},
            "runtimeClassName": "nvidia",
            "tolerations": [{"key": "gpu", "operator": "Exists"}],
            "affinity": {"nodeAffinity": {}},
            "topologySpreadConstraints": [{"topologyKey": "zone"}],
        }
        for stage in STAGES:
            pod = pod_of(stage, resources=resources)
            limits = pod["containers"][0]["resources"]["limits"]
            expected = {"cpu": "1500m", "memory": "8Gi"} | ({"nvidia.com/gpu": "2"} if stage == "train" else {})
            assert limits == expected, stage
            for placed in (*resources.keys() - {"gpus", "requests", "limits"},):
                assert (placed in pod) is (stage == "train"), stage

    def test_without_gpus_all_stages_have_the_placement(self) -> None:
        resources = {"gpus": 0, "nodeSelector": {"disk": "fast"}}
        assert pod_of("export", resources=resources)["nodeSelector"] == {"disk": "fast"}

    @pytest.mark.parametrize(
        ("resources", "threads"),
        [
            ({"limits": {"cpu": "2"}}, "2"),
            ({"limits": {"cpu": "1500m"}, "requests": {"cpu": "100m"}}, "2"),
            ({"requests": {"cpu": 3}}, "3"),
            ({"requests": {"cpu": "0.5"}}, "1"),
            ({}, None),
        ],
    )
    def test_threads(self, resources: Json, threads: str | None) -> None:
        env = {each["name"]: each["value"] for each in pod_of("train", resources=resources)["containers"][0]["env"]}
        assert env.get("TUNEYARD_THREADS") == threads

    def test_user_labels_are_not_copied(self) -> None:
        job = fine_tune_job()
        spec = FineTuneJobSpec.model_validate(job["spec"])
        for child in (config_map(job, revision(job)), stage_job(job, revision(job), spec, "train", DIGESTS, SETTINGS)):
            assert "argocd" not in json.dumps(child)
            assert set(child["metadata"]["labels"]) <= {
                *(f"app.kubernetes.io/{key}" for key in ("managed-by", "part-of", "name", "instance", "component")),
                "tuneyard.dev/finetunejob",
                "tuneyard.dev/revision",
                "tuneyard.dev/stage",
            }
            (owner,) = child["metadata"]["ownerReferences"]
            assert (owner["uid"], owner["controller"]) == ("uid-x", True)

    @pytest.mark.parametrize("stage", STAGES)
    def test_pods_have_the_users_labels_and_identity(self, stage: Stage) -> None:
        options = {"labels": {"team": "ml"}, "annotations": {"x/y": "z"}, "serviceAccountName": "trainer"}
        job = fine_tune_job(pod=options)
        spec = FineTuneJobSpec.model_validate(job["spec"])
        template = stage_job(job, revision(job), spec, stage, DIGESTS, SETTINGS)["spec"]["template"]
        assert template["metadata"]["annotations"] == {"x/y": "z"}
        assert template["metadata"]["labels"]["team"] == "ml"
        assert template["metadata"]["labels"]["app.kubernetes.io/instance"] == "x"
        assert template["metadata"]["labels"]["app.kubernetes.io/component"] == stage
        assert template["spec"]["serviceAccountName"] == "trainer"
        assert template["spec"]["automountServiceAccountToken"] is False
        assert "serviceAccountName" not in pod_of(stage)

    def test_nodes_of_a_training_are_spread(self) -> None:
        spread = [{"topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "DoNotSchedule"}]
        (constraint,) = pod_of("train", resources={"topologySpreadConstraints": spread})["topologySpreadConstraints"]
        assert constraint == {
            "topologyKey": "kubernetes.io/hostname",
            "maxSkew": 1,
            "whenUnsatisfiable": "DoNotSchedule",
            "labelSelector": {"matchLabels": {"tuneyard.dev/finetunejob": "x", "tuneyard.dev/stage": "train"}},
            "matchLabelKeys": ["tuneyard.dev/revision"],
        }

    def test_job_file(self) -> None:
        job = fine_tune_job()
        built = config_map(job, revision(job))
        assert built["immutable"] is True
        stored = json.loads(built["data"]["job.json"])
        assert stored["metadata"] == {"name": "x", "namespace": "team", "uid": "uid-x"}
        FineTuneJobSpec.model_validate(stored["spec"])

    def test_names_have_the_revision(self) -> None:
        job = fine_tune_job()
        built = stage_job(job, revision(job), FineTuneJobSpec.model_validate(job["spec"]), "train", DIGESTS, SETTINGS)
        assert name(built) == f"x-train-{revision(job)}"
        assert name(config_map(job, revision(job))) == f"x-{revision(job)}"
        namesake = fine_tune_job()
        namesake["metadata"]["uid"] = "another"
        assert revision(namesake) != revision(job)

    def test_failure_policy(self) -> None:
        job = fine_tune_job(retryPolicy={"backoffLimit": 7})
        spec = FineTuneJobSpec.model_validate(job["spec"])
        built = stage_job(job, revision(job), spec, "train", DIGESTS, SETTINGS)["spec"]
        assert built["backoffLimit"] == 7
        rules = built["podFailurePolicy"]["rules"]
        codes = {rule["action"]: rule["onExitCodes"]["values"] for rule in rules if "onExitCodes" in rule}
        assert codes == {"FailJob": [65, 78], "Ignore": [75]}
        assert built["podReplacementPolicy"] == "Failed", "two pods never write one checkpoint"
        assert built["template"]["spec"]["terminationGracePeriodSeconds"] == 120

    def test_image_follows_from_stage_and_backend(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(BACKENDS, "peft", BACKENDS["peft"]._replace(image="axolotl"))
        settings = SETTINGS.model_copy(update={"images": {"axolotl": "axolotl:1"}})
        cluster = FineTuning().prepared()
        spec = FineTuneJobSpec.model_validate(cluster.job["spec"])
        for stage in STAGES:
            job = stage_job(cluster.job, revision(cluster.job), spec, stage, DIGESTS, settings)
            (container,) = job["spec"]["template"]["spec"]["containers"]
            assert container["image"] == ("axolotl:1" if stage == "train" else "trainer:1")

    def test_backend_without_an_image_is_waited_for(self, monkeypatch: pytest.MonkeyPatch) -> None:
        cluster = FineTuning()
        cluster.step()
        cluster.complete("prepare", PREPARED)
        monkeypatch.setitem(BACKENDS, "peft", BACKENDS["peft"]._replace(image="axolotl"))
        assert cluster.step().create == []
        assert "no image for axolotl" in cluster.stage("train")["message"]
