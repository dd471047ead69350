"""The same work with datasets.map: python -m bench.prepare_datasets MODEL DATA FOLDER SETTINGS

Reads chats, drops those with the same content, renders and tokenizes the others with their assistant's tokens marked,
and saves them. Runs in an environment with datasets and transformers. SETTINGS as in prepare_run.py.
"""

import hashlib
import json
import sys
from pathlib import Path
from typing import Any, Final

from datasets import load_dataset
from transformers import AutoTokenizer

BATCH: Final = 256
# The model's own template, with the assistant's text marked as return_assistant_tokens_mask needs it.
TEMPLATE: Final = """
{%- for message in messages %}
{%- if loop.first and messages[0]['role'] != 'system' %}
{{- '<|im_start|>system\\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\\n' }}
{%- endif %}
{{- '<|im_start|>' + message['role'] + '\\n' }}
{%- if message['role'] == 'assistant' %}
{%- generation %}{{- message['content'] + '<|im_end|>' }}{%- endgeneration %}
{%- else %}
{{- message['content'] + '<|im_end|>' }}
{%- endif %}
{{- '\\n' }}
{%- endfor %}"""


def main() -> None:
    model, data, folder = map(Path, sys.argv[1:4])
    given = json.loads(sys.argv[4])
    tokenizer = AutoTokenizer.from_pretrained(model, chat_template=TEMPLATE)
    rows: Any = load_dataset("json", data_files=str(data), split="train", cache_dir=str(folder / "cache"))
    seen: set[bytes] = set()

    def is_first(row: dict[str, Any]) -> bool:
        text = json.dumps(row["messages"], sort_keys=True).casefold()
        key = hashlib.sha256(" ".join(text.split()).encode()).digest()[:16]
        known = key in seen
        seen.add(key)
        return not known

    def tokenized(batch: dict[str, Any]) -> dict[str, Any]:
        made = tokenizer.apply_chat_template(
            batch["messages"], tokenize=True, return_dict=True, return_assistant_tokens_mask=True
        )
        return {"input_ids": made["input_ids"], "assistant_masks": made["assistant_masks"]}

    rows = rows.filter(is_first)
    rows = rows.map(
        tokenized, batched=True, batch_size=BATCH, num_proc=given["threads"], remove_columns=rows.column_names
    )
    rows.save_to_disk(str(folder / "saved"))
    print(json.dumps({"rows": len(rows), "tokens": sum(map(len, rows["input_ids"])) if given.get("count") else None}))


if __name__ == "__main__":
    main()
