"""The images of pods by role: what runs in them. A backend and an engine name the role of their image."""

from typing import Final

from tuneyard_api.registry import BACKENDS, ENGINES
from tuneyard_operator.settings import Settings

TRAINER: Final = "trainer"  # all stages that need no backend
SERVER: Final = "server"  # of the engines that name no other
ROLES: Final = frozenset(
    {TRAINER, SERVER, *(backend.image for backend in BACKENDS.values()), *(engine.image for engine in ENGINES.values())}
)


class NoImageError(LookupError):
    """The settings have no image for a role."""


def image(settings: Settings, role: str) -> str:
    """The reference of a role's image. Raises NoImageError where the settings have none."""
    references = {TRAINER: settings.trainer_image, SERVER: settings.server_image, **settings.images}
    if role not in references:
        raise NoImageError(
            f"This installation has no image for {role}: use another backend or engine, or ask who runs the operator "
            f"to set images.{role} in the chart's values (without the chart: TUNEYARD_IMAGES, a JSON object by role)"
        )
    return references[role]
