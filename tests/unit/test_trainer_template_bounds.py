"""A chat template is a user's code: whatever it raises or takes is a TemplateError that names the line."""

import resource
import signal
import time

import pytest
from jinja2 import TemplateError

from tuneyard_trainer.data import template as templates
from tuneyard_trainer.data.examples import Message
from tuneyard_trainer.data.template import ChatTemplate
from tuneyard_trainer.runtime.bounds import Bounded, TooSlow

CHAT = [Message("user", "a"), Message("assistant", "b")]

BROKEN = {
    "adds unlike things": ("{{ 1 }}\n{{ messages[0].content + 1 }}", "line 2: TypeError"),
    "counts what is missing": ("{{ tools | length }}", "line 1: TypeError"),
    "calls what is no function": ("{{ messages() }}", "line 1: TypeError"),
    "asks for a key of nothing": ("\n\n{{ nothing.key }}", "line 3: 'nothing' is undefined"),
    "divides by zero": ("{{ 1 // 0 }}", "line 1: ZeroDivisionError"),
    "calls itself": ("{% macro a() %}{{ a() }}{% endmacro %}{{ a() }}", "RecursionError"),
    "is deep": ("{{ " + "(" * 3000 + "1" + ")" * 3000 + " }}", "RecursionError"),
    "asks for an unknown filter": ("{{ messages | nosuch }}", "line 1: No filter named 'nosuch'"),
    "has half a character": (r"{{ '\ud800' }}", "UnicodeEncodeError"),
    "leaves the sandbox": ("{{ ''.__class__.__mro__ }}", "unsafe"),
    "has a long range": ("{% for i in range(10 ** 9) %}{% endfor %}", "OverflowError"),
    "is not Jinja": ("{% for %}", "line 1: Expected an expression"),
    "rejects": ("{{ raise_exception('no system prompt') }}", "no system prompt"),
    "wants gigabytes": ("{{ 'a' * 10 ** 10 }}", "needs more than 512 MiB of memory"),
    "doubles": (
        "{% set n = namespace(t='ab') %}{% for i in range(99) %}{% set n.t = n.t ~ n.t %}{% endfor %}",
        "needs more than 512 MiB of memory",
    ),
    "renders millions": ("{{ 'a' * (2 ** 20) }}", "renders 1048576 characters"),
}
ENDLESS = {
    "loops": "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "a large power": "{% set x = 10 ** (10 ** 8) %}",
    "a large power of a message": "{% set x = (messages | length) ** (10 ** 10) %}",
}


@pytest.mark.parametrize(("source", "says"), BROKEN.values(), ids=BROKEN)
def test_errors_are_named(source: str, says: str) -> None:
    with pytest.raises(TemplateError) as raised:
        ChatTemplate(source, {}).render(CHAT)
    assert says in str(raised.value)
    assert len(str(raised.value)) < 400


@pytest.mark.parametrize("source", ENDLESS.values(), ids=ENDLESS)
def test_endless_templates_end(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(templates, "RENDER_SECONDS", 0.2)
    started = time.process_time()
    with pytest.raises(TemplateError, match=r"does not end within 0.2 seconds"):
        ChatTemplate(source, {}).render(CHAT)
    assert time.process_time() - started < 5


def test_long_messages_are_rendered() -> None:
    """The bound on the text grows with what is said."""
    long = Message("user", "a" * 2**20)
    assert len(ChatTemplate("{{ messages[0].content * 2 }}", {}).render([long])) == 2**21


def test_bounds_are_lifted() -> None:
    """After the block, and after an error in it, nothing of them is left."""
    limits, handler = resource.getrlimit(resource.RLIMIT_AS), signal.getsignal(signal.SIGPROF)
    with Bounded(60, 2**28):
        assert resource.getrlimit(resource.RLIMIT_AS) != limits
    with pytest.raises(TooSlow), Bounded(0.01, 2**28):
        while True:
            pass
    with pytest.raises(MemoryError), Bounded(60, 2**28):
        bytearray(2**30)
    assert resource.getrlimit(resource.RLIMIT_AS) == limits
    assert (signal.getsignal(signal.SIGPROF), signal.getitimer(signal.ITIMER_PROF)) == (handler, (0.0, 0.0))


def test_each_chat_of_a_batch_has_all_of_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Together they take longer than one may; the one that does not end is found."""
    monkeypatch.setattr(templates, "RENDER_SECONDS", 0.2)
    busy = "{% for i in range(10 ** 5) %}{% endfor %}"
    template = ChatTemplate(busy + "{% if messages[0].content == 'x' %}" + ENDLESS["loops"] + "{% endif %}so", {})
    handler = signal.getsignal(signal.SIGPROF)
    started = time.process_time()
    with template.bounded():
        while time.process_time() - started < 0.5:
            assert template.render(CHAT) == "so"
        with pytest.raises(TemplateError, match=r"does not end within 0.2 seconds"):
            template.render([Message("user", "x")])
        assert template.render(CHAT) == "so"
    assert (signal.getsignal(signal.SIGPROF), signal.getitimer(signal.ITIMER_PROF)) == (handler, (0.0, 0.0))
