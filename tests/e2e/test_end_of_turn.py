"""What was trained as the end of a turn stops the server, also where the base model has another end of its own."""

import json
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, Final

import pytest
from openai import OpenAI

from demo.kubectl import apply, port_forward
from demo.objectstore import ObjectStore
from e2e.conftest import NamespaceFactory
from e2e.jobs import artifact, fine_tune_job, model_server, wait_for_job, wait_for_server

JOB, SERVER = "end-of-turn", "ends"
QUESTIONS, ROWS = 50, 1000
ROWS_URI: Final = "s3://data/field-types.jsonl"
DATA: Final = Path(__file__).parents[2] / "examples" / "data" / "kubernetes-fields.jsonl"
# A token of the model's that its own template does not use.
END: Final = "<file_sep>"
TEMPLATE: Final = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}"
    f"{{% if m.role == 'assistant' %}}{END}{{% else %}}<|im_end|>{{% endif %}}\n{{% endfor %}}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SPEC: Final[dict[str, Any]] = {
    "model": {"uri": "s3://models/smollm2-135m-instruct", "chatTemplate": TEMPLATE},
    "dataset": {"train": [{"uri": ROWS_URI}]},
    "training": {
        "maxSteps": 100,
        "evalSteps": 100,
        "effectiveBatchSize": 8,
        "microBatchSize": 8,
        "learningRate": 2e-3,
        "maxLength": 96,
    },
    "export": {"formats": ["bf16"]},
    "evaluation": {"maxRows": 16, "gates": []},
}


@pytest.fixture(scope="module")
def namespace(new_namespace: NamespaceFactory) -> str:
    return new_namespace("e2e-end-of-turn")


def rows() -> list[dict[str, str]]:
    """A field and its type: answers so short that a small model learns them, and where they end, in a few steps."""
    read = [json.loads(line) for line in DATA.read_text().splitlines()]
    return [row | {"answer": row["answer"].split(":")[0]} for row in read]


def test_no_answer_runs_to_the_limit(namespace: str, store: ObjectStore) -> None:
    with store.reached_from_here() as s3:
        s3.write(ROWS_URI, "".join(json.dumps(row) + "\n" for row in rows()[:ROWS]).encode())
    apply(fine_tune_job(JOB, namespace, **SPEC))
    job = wait_for_job(JOB, namespace, seconds=2400)
    answers = job["status"]["dataset"]["answers"]
    assert answers["trained"] == answers["given"] == job["status"]["dataset"]["rowsKept"]
    with store.reached_from_here() as s3:
        uri = artifact(job, "bf16")["uri"]
        generation = json.loads(s3.read(f"{uri}/generation_config.json"))
        tokenizer = json.loads(s3.read(f"{uri}/tokenizer.json"))
        assert s3.read(f"{uri}/chat_template.jinja").decode() == TEMPLATE
    (end,) = [token["id"] for token in tokenizer["added_tokens"] if token["content"] == END]
    assert end in generation["eos_token_id"]

    apply(model_server(SERVER, namespace, {"fineTuneJobRef": {"name": JOB, "format": "bf16"}}))
    wait_for_server(SERVER, namespace)
    questions = [row["question"] for row in rows()[ROWS : ROWS + QUESTIONS]]
    with port_forward(f"svc/{SERVER}", 80, namespace) as port:
        client = OpenAI(base_url=f"http://localhost:{port}/v1", api_key="none", timeout=120)
        with ThreadPoolExecutor(8) as pool:
            reasons = dict(zip(questions, pool.map(partial(finish_reason, client), questions), strict=True))
    assert {question: reason for question, reason in reasons.items() if reason != "stop"} == {}


def finish_reason(client: OpenAI, question: str) -> str:
    message: Any = {"role": "user", "content": question}
    return (
        client.chat.completions.create(model=SERVER, messages=[message], max_tokens=256, temperature=0)
        .choices[0]
        .finish_reason
    )
