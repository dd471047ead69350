"""Chat templates: where they are found, and rendered as transformers does it."""

import json
from pathlib import Path

import pytest
from jinja2 import TemplateError

from support.tinymodel import write_model
from tuneyard_trainer.data.examples import Message
from tuneyard_trainer.data.template import ChatTemplate, find_template

URI = "s3://models/tiny"


def test_find_template(tmp_path: Path) -> None:
    model = write_model(tmp_path / "model", template="configured")
    assert find_template(model, None, URI) == "configured"
    (model / "chat_template.jinja").write_text("a file")
    assert find_template(model, None, URI) == "a file"
    assert find_template(model, "given", URI) == "given"
    several = {"chat_template": [{"name": "tool_use", "template": "t"}, {"name": "default", "template": "d"}]}
    (model / "chat_template.jinja").unlink()
    (model / "tokenizer_config.json").write_text(json.dumps(several))
    assert find_template(model, None, URI) == "d"
    (model / "tokenizer_config.json").unlink()
    assert find_template(model, None, URI) is None


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("{{ messages | tojson }}", '[{"role": "user", "content": "ä<"}]'),
        ("{{ bos_token }}{{ tools is none }}", "<s>True"),
        ("{% for m in messages %}{% break %}{% endfor %}x", "x"),
        ("{% generation %}{{ messages[0].content }}{% endgeneration %}", "ä<"),
        ("  {% if true %}\n  a\n{% endif %}\n", "  a\n"),
        (
            "{% set x = 1 %}{% generation %}{% set x = 2 %}{{ x }}{% endgeneration %}{{ x }}",
            "21",
        ),
        ("{{ {'b': 1, 'a': 'ä'} | tojson(separators=(',', ':'), sort_keys=true) }}", '{"a":"ä","b":1}'),
        ("{{ strftime_now('%d %b %Y') }}", "26 Jul 2024"),
    ],
)
def test_template_like_transformers(template: str, expected: str) -> None:
    assert ChatTemplate(template, {"bos_token": "<s>"}).render([Message("user", "ä<")]) == expected


def test_template_sandbox() -> None:
    with pytest.raises(TemplateError):
        ChatTemplate("{{ ''.__class__.__mro__[1].__subclasses__() }}", {}).render([])


def test_template_sees_further_fields() -> None:
    message = Message("assistant", "", {"tool_calls": [{"name": "add"}]})
    assert ChatTemplate("{{ messages[0].tool_calls[0].name }}", {}).render([message]) == "add"


def test_reasoning_has_the_names_that_templates_read() -> None:
    template = ChatTemplate("{{ messages[0].reasoning_content }}{{ messages[0].thinking }}{{ messages[0].x }}", {})
    for name in ("reasoning_content", "thinking", "reasoning"):
        assert template.render([Message("assistant", "", {name: "Hm.", "x": None})]) == "Hm.Hm."
