"""spec.engine of a ModelServer, and what it excludes."""

from typing import Final

from tuneyard_api.registry import ARTIFACT_FORMATS, ENGINES, loads, module_name
from tuneyard_api.rules import Rule

AUTO: Final = "auto"


def engine_rules() -> tuple[Rule, ...]:
    """What spec.engine excludes: options of another engine, and formats that it cannot load."""
    return tuple(rule for engine in ENGINES for rule in (_only_its_options(engine), _only_its_formats(engine)))


def _only_its_options(engine: str) -> Rule:
    field = module_name(engine)
    return Rule(
        f"{field} has the options of the engine {engine}: write engine: {engine} or {AUTO}, or leave {field} out",
        lambda spec: spec.engine in (AUTO, engine) or field not in spec.model_fields_set,
        cel=f"!has(self.engine) || self.engine in ['{AUTO}', '{engine}'] || !has(self.{field})",
        field=field,
    )


def _only_its_formats(engine: str) -> Rule:
    others = [name for name in ARTIFACT_FORMATS if not loads(engine, name)]
    return Rule(
        f"the engine {engine} cannot load {', '.join(others)}: write engine: {AUTO}, or another format",
        lambda spec: not (
            spec.engine == engine
            and spec.model.fine_tune_job_ref is not None
            and spec.model.fine_tune_job_ref.format in others
        ),
        cel=f"!has(self.engine) || self.engine != '{engine}' || !has(self.model.fineTuneJobRef) || "
        f"!has(self.model.fineTuneJobRef.format) || !(self.model.fineTuneJobRef.format in {others})",
        field="model.fineTuneJobRef.format",
    )
