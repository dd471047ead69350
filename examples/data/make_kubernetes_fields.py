"""Writes kubernetes-fields.jsonl: questions and answers about the meaning of fields of the Kubernetes API.

Source: api/openapi-spec/swagger.json of kubernetes/kubernetes (Apache-2.0), tag v1.34.4.
Usage: python make_kubernetes_fields.py swagger.json > kubernetes-fields.jsonl

Types that exist in several API versions give exact duplicates, which stay in the file as a test of data cleaning.
"""

import hashlib
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

QUESTIONS = [
    "What does the field {field} of {type} mean?",
    "In Kubernetes, what is {type}.{field} for?",
    "Explain {field} in a {type}.",
]
LENGTHS = range(40, 221)  # characters of an answer


def rows(definitions: dict[str, Any]) -> Iterator[dict[str, str]]:
    for name, definition in sorted(definitions.items()):
        kind = name.rsplit(".", 1)[-1]
        for field, schema in sorted(definition.get("properties", {}).items()):
            text = first_sentences(schema.get("description", ""))
            if field in ("apiVersion", "kind", "metadata", "items") or len(text) not in LENGTHS:
                continue
            choice = int(hashlib.sha256(f"{kind}.{field}".encode()).hexdigest(), 16) % len(QUESTIONS)
            question = QUESTIONS[choice].format(field=field, type=kind)
            yield {"question": question, "answer": f"**{kind}.{field}** ({type_name(schema)}): {text}"}


def type_name(schema: dict[str, Any]) -> str:
    if "$ref" in schema:
        return str(schema["$ref"]).rsplit(".", 1)[-1]
    if schema.get("type") == "array":
        return f"list of {type_name(schema['items'])}"
    return str(schema.get("type", "object"))


def first_sentences(text: str) -> str:
    """As many whole sentences of the text as fit into LENGTHS."""
    kept = ""
    for sentence in re.split(r"(?<=[.!?])\s+(?=[A-Z])", " ".join(text.split())):
        if kept and len(kept) + len(sentence) >= LENGTHS.stop:
            break
        kept = f"{kept} {sentence}".strip()
    return kept


if __name__ == "__main__":
    for row in rows(json.loads(Path(sys.argv[1]).read_text())["definitions"]):
        print(json.dumps(row, ensure_ascii=False))
