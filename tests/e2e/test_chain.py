"""The whole chain on SmolLM2-135M-Instruct: data, LoRA, merge, INT8, INT4 and GGUF, evaluation, vLLM and llama.cpp.

The tests of this module run in order, and each starts from the state that the previous one left.
"""

import json
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, Final

import httpx
import pytest
from openai import OpenAI

from demo.kubectl import Json, apply, condition, get, is_condition_true, items, kubectl, port_forward, wait_until
from demo.objectstore import ObjectStore
from e2e.conftest import DATA, NamespaceFactory
from e2e.jobs import artifact, fine_tune_job, model_server, restart_operator, stage_pods, wait_for_job, wait_for_server

NAMESPACE, JOB, SERVER, GGUF_SERVER = "e2e-chain", "chain", "assistant", "compact"
API_KEY = "sk-e2e-0123456789"
# vLLM's kernels for 4-bit weights need AVX-512 on a CPU. Elsewhere only test_resilience.py makes and measures these.
INT4: Final = ["gptq"] if "avx512f" in Path("/proc/cpuinfo").read_text() else []
FIRST: Final = next(iter(INT4), "bf16")
ROWS, QUESTIONS = 400, 50
ROWS_URI: Final = "s3://data/field-types.jsonl"
# A token of the model's that its own template does not use.
END: Final = "<file_sep>"
TEMPLATE: Final = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}"
    f"{{% if m.role == 'assistant' %}}{END}{{% else %}}<|im_end|>{{% endif %}}\n{{% endfor %}}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

FULL_JOB: dict[str, Any] = {
    "model": {"uri": "s3://models/smollm2-135m-instruct", "chatTemplate": TEMPLATE},
    "dataset": {"train": [{"uri": ROWS_URI}], "clean": {"minRows": 200}},
    "training": {
        "maxSteps": 60,  # many small ones: so many are needed to learn where an answer ends
        "evalSteps": 60,
        "effectiveBatchSize": 2,
        "microBatchSize": 2,
        "learningRate": 2e-3,
        "maxLength": 96,
    },
    "export": {"formats": ["bf16", "int8", *INT4, "gguf-q5_k_m"], "calibration": {"samples": 8, "maxLength": 64}},
    "evaluation": {"maxRows": 16, "gates": [{"metric": "perplexity", "against": "base", "maxRatio": 0.7}]},
}


def rows() -> list[dict[str, str]]:
    """A field and its type: answers so short that a small model learns them, and where they end, in a few steps."""
    read = [json.loads(line) for line in DATA.read_text().splitlines()]
    return [row | {"answer": row["answer"].split(":")[0]} for row in read]


@pytest.fixture(scope="module")
def namespace(new_namespace: NamespaceFactory) -> str:
    return new_namespace(NAMESPACE)


@pytest.fixture(scope="module")
def chain(namespace: str, store: ObjectStore) -> Json:
    """The finished job; its key `tables` has the output of `kubectl get ftj` while it ran."""
    with store.reached_from_here() as s3:
        s3.write(ROWS_URI, "".join(json.dumps(row) + "\n" for row in rows()[:ROWS]).encode())
    apply(fine_tune_job(JOB, namespace, **FULL_JOB))
    tables: list[str] = []

    def ended() -> bool:
        tables.append(kubectl("get", "ftj", JOB, "-n", namespace))
        job = get("finetunejob", JOB, namespace)
        return is_condition_true(job, "Succeeded") or is_condition_true(job, "Failed")

    wait_until(ended, "the chain has ended", 2400, every=2)
    return wait_for_job(JOB, namespace, seconds=1) | {"tables": tables}


def columns(table: str) -> dict[str, str]:
    """The cells of a kubectl table with one row, by column; empty cells are left out."""
    header, row = table.splitlines()
    starts = [(header.index(name), name) for name in header.split()]
    ends = [start for start, _ in starts[1:]] + [None]
    cells = {name: row[start:end].strip() for (start, name), end in zip(starts, ends, strict=True)}
    return {name: cell for name, cell in cells.items() if cell}


def test_get_shows_progress_while_training(chain: Json) -> None:
    training = [row for row in map(columns, chain["tables"]) if row.get("PHASE") == "Training"]
    full = [row for row in training if {"PERCENT", "LOSS", "ETA"} <= row.keys()]
    assert full, chain["tables"]
    assert any(0 < int(row["PERCENT"]) < 100 and float(row["LOSS"]) > 0 for row in full), full


def test_kubectl_wait_for_succeeded(chain: Json, namespace: str) -> None:
    kubectl("wait", "--for=condition=Succeeded", f"ftj/{JOB}", "-n", namespace, "--timeout=5s")


def test_perplexity_and_size_of_all_artifacts(chain: Json) -> None:
    measurements = chain["status"]["evaluation"]["measurements"]
    perplexity = {item["subject"]: item["value"] for item in measurements if item["metric"] == "perplexity"}
    assert perplexity.keys() >= {"base", "tuned", "int8", *INT4, "gguf-q5_k_m"}
    assert perplexity["tuned"] < 0.7 * perplexity["base"], perplexity
    for form in ("int8", *INT4):
        assert perplexity["tuned"] * 0.9 < perplexity[form] < perplexity["base"], perplexity
    assert perplexity["tuned"] * 0.95 < perplexity["gguf-q5_k_m"] < perplexity["tuned"] * 1.1, perplexity
    sizes = {item["format"]: item["sizeBytes"] for item in chain["status"]["artifacts"]}
    assert sizes["int8"] < sizes["bf16"], sizes
    assert all(sizes[form] < sizes["int8"] for form in INT4), sizes
    assert sizes["gguf-q5_k_m"] < sizes["int8"], sizes
    assert all(item["perplexity"] > 1 for item in chain["status"]["artifacts"])


def test_status_counts_rows(chain: Json) -> None:
    dataset = chain["status"]["dataset"]
    assert dataset["rowsIn"] == ROWS
    assert dataset["rowsIn"] == dataset["rowsKept"] + sum(dataset["dropped"].values())


def test_the_end_of_the_template_is_trained_and_published(chain: Json, store: ObjectStore) -> None:
    dataset = chain["status"]["dataset"]
    assert dataset["answers"]["trained"] == dataset["answers"]["given"] == dataset["rowsKept"]
    with store.reached_from_here() as s3:
        uri = artifact(chain, "bf16")["uri"]
        generation = json.loads(s3.read(f"{uri}/generation_config.json"))
        tokenizer = json.loads(s3.read(f"{uri}/tokenizer.json"))
        assert s3.read(f"{uri}/chat_template.jinja").decode() == TEMPLATE
    (end,) = [token["id"] for token in tokenizer["added_tokens"] if token["content"] == END]
    assert end in generation["eos_token_id"]


def test_describe_lists_events_in_order(chain: Json, namespace: str) -> None:
    described = kubectl("describe", "ftj", JOB, "-n", namespace)
    events = described[described.index("Events:") :]
    positions = [events.find(word) for word in ("prepare", "train", "export", "evaluate", "publish", "Succeeded")]
    assert -1 not in positions, events
    assert positions == sorted(positions), events


@pytest.mark.lifecycle("reapplied")
def test_reapplied_job_reuses_all_stages(chain: Json, namespace: str) -> None:
    kubectl("delete", "ftj", JOB, "-n", namespace, "--wait")
    wait_until(lambda: not items("pods", namespace), "the pods are deleted", 180)
    watch = [
        "kubectl",
        "get",
        "pods",
        "-n",
        namespace,
        "-w",
        "-o",
        "jsonpath={.metadata.labels.tuneyard\\.dev/stage}{'\\n'}",
    ]
    with subprocess.Popen(watch, stdout=subprocess.PIPE, text=True) as watching:
        started = time.monotonic()
        apply(fine_tune_job(JOB, namespace, **FULL_JOB))
        reapplied = wait_for_job(JOB, namespace, seconds=60)
        took = time.monotonic() - started
        watching.terminate()
        created = set(watching.communicate()[0].split())
    assert took < 60, took
    assert created <= {"prepare", "publish"}, f"pods of the stages {created}"
    assert "prepare" in created, "the watch reports pods"
    assert reapplied["status"]["artifacts"] == chain["status"]["artifacts"]
    states = {stage["name"]: stage["state"] for stage in reapplied["status"]["stages"]}
    assert states["train"] == states["export"] == states["evaluate"] == "Adopted", states


@pytest.fixture(scope="module")
def server(chain: Json, namespace: str) -> Json:
    """A ModelServer on the W4A16 artifact, where vLLM has a kernel for it."""
    secret = {"name": "key", "namespace": namespace}
    apply({"apiVersion": "v1", "kind": "Secret", "metadata": secret, "stringData": {"api-key": API_KEY}})
    apply(server_of(FIRST, namespace))
    kubectl("wait", "--for=condition=Available", f"ms/{SERVER}", "-n", namespace, "--timeout=400s", timeout=410)
    return get("modelserver", SERVER, namespace)


def server_of(form: str, namespace: str) -> Json:
    auth = {"apiKeySecretRef": {"name": "key"}}
    return model_server(SERVER, namespace, {"fineTuneJobRef": {"name": JOB, "format": form}}, auth=auth)


@pytest.fixture
def endpoint(server: Json, namespace: str) -> Iterator[str]:
    with port_forward(f"svc/{SERVER}", 80, namespace) as port:
        yield f"http://localhost:{port}"


QUESTION: Any = {"role": "user", "content": "What does the field replicas of DeploymentSpec mean?"}


def client_of(url: str) -> OpenAI:
    return OpenAI(base_url=f"{url}/v1", api_key=API_KEY, timeout=120)


def ask(url: str, model: str = SERVER) -> str:
    reply = client_of(url).chat.completions.create(model=model, messages=[QUESTION], max_tokens=24, temperature=0)
    return reply.choices[0].message.content or ""


def test_first_artifact_is_served(server: Json, endpoint: str, chain: Json) -> None:
    assert server["status"]["served"]["digest"] == artifact(chain, FIRST)["digest"]
    assert condition(server, "ArtifactVerified")["status"] == "True"
    assert "**" in ask(endpoint), "the answer is in the style of the data"


def test_no_answer_runs_to_the_limit(endpoint: str) -> None:
    """What was trained as the end of a turn stops the server; the base model has another end of its own."""
    questions = [row["question"] for row in rows()[ROWS : ROWS + QUESTIONS]]
    with ThreadPoolExecutor(8) as pool:
        reasons = dict(zip(questions, pool.map(partial(finish_reason, client_of(endpoint)), questions), strict=True))
    assert {question: reason for question, reason in reasons.items() if reason != "stop"} == {}


def finish_reason(client: OpenAI, question: str) -> str:
    message: Any = {"role": "user", "content": question}
    reply = client.chat.completions.create(model=SERVER, messages=[message], max_tokens=256, temperature=0)
    return reply.choices[0].finish_reason


@pytest.mark.parametrize("key", [None, API_KEY, "wrong"])
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/adapters"),
        ("GET", "/server_info"),
        ("POST", "/load_lora_adapter"),
        ("POST", "/v1/load_lora_adapter"),
        ("GET", "/docs"),
        ("GET", "/openapi.json"),
        ("POST", "/pause"),
    ],
)
def test_unlisted_routes_are_404(endpoint: str, method: str, path: str, key: str | None) -> None:
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    assert httpx.request(method, endpoint + path, headers=headers, json={}, timeout=30).status_code == 404


def test_api_keys(endpoint: str) -> None:
    def status(**headers: str) -> int:
        return httpx.get(f"{endpoint}/v1/models", headers=headers, timeout=30).status_code

    assert status() == 401
    assert status(Authorization="Bearer wrong") == 401
    assert status(Authorization=f"Bearer {API_KEY}") == 200


@pytest.fixture(scope="module")
def gguf_endpoint(server: Json, namespace: str, chain: Json) -> Iterator[str]:
    """A ModelServer on the GGUF artifact, whose engine follows from the format."""
    model = {"fineTuneJobRef": {"name": JOB, "format": "gguf-q5_k_m"}}
    parts = {"auth": {"apiKeySecretRef": {"name": "key"}}, "llamacpp": {"maxModelLen": 512, "parallel": 2}}
    apply(model_server(GGUF_SERVER, namespace, model, **parts))
    served = wait_for_server(GGUF_SERVER, namespace, seconds=180)["status"]["served"]
    assert served["digest"] == artifact(chain, "gguf-q5_k_m")["digest"]
    with port_forward(f"svc/{GGUF_SERVER}", 80, namespace) as port:
        yield f"http://localhost:{port}"
    kubectl("delete", "ms", GGUF_SERVER, "-n", namespace, "--wait=false")


def test_gguf_artifact_is_served_by_llamacpp(gguf_endpoint: str, namespace: str, images: dict[str, str]) -> None:
    (pod,) = items("pods", namespace, f"tuneyard.dev/modelserver={GGUF_SERVER}")
    containers = pod["spec"]["initContainers"] + pod["spec"]["containers"]
    assert {container["image"] for container in containers} == {images["llamacpp"]}
    assert "**" in ask(gguf_endpoint, GGUF_SERVER), "the answer is in the style of the data"
    assert [model.id for model in client_of(gguf_endpoint).models.list()] == [GGUF_SERVER]


def test_llamacpp_streams(gguf_endpoint: str) -> None:
    chunks = list(
        client_of(gguf_endpoint).chat.completions.create(
            model=GGUF_SERVER, messages=[QUESTION], max_tokens=24, temperature=0, stream=True
        )
    )
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert len(chunks) > 5
    assert text == ask(gguf_endpoint, GGUF_SERVER)


@pytest.mark.parametrize("path", ["/props", "/slots", "/completion", "/apply-template", "/v1/health", "/metrics", "/"])
def test_unlisted_routes_of_llamacpp_are_404(gguf_endpoint: str, path: str) -> None:
    for key in (None, API_KEY, "wrong"):
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        for method in ("GET", "POST"):
            assert httpx.request(method, gguf_endpoint + path, headers=headers, timeout=30).status_code == 404
    assert httpx.get(f"{gguf_endpoint}/v1/models", timeout=30).status_code == 401


def deployments(namespace: str) -> list[Json]:
    """The revisions of the server; the server of the GGUF artifact has its own in the same namespace."""
    return items("deployments", namespace, f"tuneyard.dev/modelserver={SERVER}")


def test_rollout_with_an_operator_restart(server: Json, namespace: str, chain: Json) -> None:
    """The first artifact is served until the W8A8 artifact is ready."""
    apply(server_of("int8", namespace))
    wait_until(lambda: len(deployments(namespace)) == 2, "the new revision has a Deployment", 60)
    # Before the restart: the new revision may be ready before another operator leads.
    wait_for_server(SERVER, namespace, "Progressing", 60)
    restart_operator()
    assert is_condition_true(get("modelserver", SERVER, namespace), "Available"), "the old revision is still served"

    def is_rolled_out() -> bool:
        status = get("modelserver", SERVER, namespace)["status"]
        return bool(status["served"]["digest"] == artifact(chain, "int8")["digest"])

    wait_until(is_rolled_out, "the W8A8 artifact is served", 400)
    with port_forward(f"svc/{SERVER}", 80, namespace) as port:
        assert "**" in ask(f"http://localhost:{port}")
    wait_until(lambda: len(deployments(namespace)) == 1, "the old revision is deleted", 180)


def test_corrupt_artifact_is_not_served(server: Json, store: ObjectStore, namespace: str, chain: Json) -> None:
    bf16 = artifact(chain, "bf16")
    with store.reached_from_here() as s3:
        weights = next(item.uri for item in s3.list(bf16["uri"]) if item.uri.endswith(".safetensors"))
        raw = bytearray(s3.read(weights))
        raw[len(raw) // 2] ^= 1
        s3.write(weights, bytes(raw))
    model = {"uri": bf16["uri"], "digest": bf16["digest"], "secretRef": {"name": "s3-credentials"}}
    apply(model_server("corrupt", namespace, model))
    wait_until(
        lambda: condition(get("modelserver", "corrupt", namespace), "ArtifactVerified")["status"] == "False",
        "ArtifactVerified is False",
        180,
    )
    corrupt = get("modelserver", "corrupt", namespace)
    message = condition(corrupt, "ArtifactVerified")["message"]
    assert weights.rsplit("/", 1)[1] in message, message
    assert message.count("sha256:") >= 2 or message.count("sha256") >= 2, "the expected and the actual digest"
    assert not is_condition_true(corrupt, "Available")
    kubectl("delete", "ms", "corrupt", "-n", namespace)


def test_corrupt_revision_does_not_replace_the_old_one(server: Json, namespace: str, chain: Json) -> None:
    apply(server_of("bf16", namespace))
    wait_for_server(SERVER, namespace, "Degraded", 240)
    degraded = get("modelserver", SERVER, namespace)
    assert condition(degraded, "Degraded")["reason"] == "ArtifactCorrupt", degraded["status"]
    assert is_condition_true(degraded, "Available"), degraded["status"]
    assert degraded["status"]["served"]["digest"] == artifact(chain, "int8")["digest"]
    with port_forward(f"svc/{SERVER}", 80, namespace) as port:
        assert ask(f"http://localhost:{port}")


def test_pods_run_restricted(namespace: str) -> None:
    """The namespace enforces `restricted`, so every pod in it was admitted under that standard."""
    labels = json.loads(kubectl("get", "namespace", namespace, "-o", "json"))["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"
    assert stage_pods(JOB, namespace, "prepare")
