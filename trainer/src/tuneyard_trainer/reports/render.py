"""Renders the templates of this package; HTML is escaped."""

from functools import cache

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape


def render(template: str, **values: object) -> str:
    """The text of a template, given by its file's name in templates/ without .j2."""
    return _environment().get_template(f"{template}.j2").render(**values)


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("tuneyard_trainer.reports"),
        autoescape=select_autoescape(("html.j2",)),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["figure"] = figure
    return environment


def figure(value: float | None) -> str:
    """Four significant digits; nothing where there is no value."""
    return "" if value is None else f"{value:.4g}"
