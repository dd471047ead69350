"""References of the images in a registry, and the values of the Helm chart that name them."""

from collections.abc import Mapping


def remote(tag: str, registry: str) -> str:
    """`tuneyard/<name>:<tag>` as `<registry>/<name>:<tag>`."""
    return f"{registry.rstrip('/')}/{tag.removeprefix('tuneyard/')}"


def helm_values(references: Mapping[str, str]) -> str:
    """A values file (YAML) that sets `images.<role>` of the chart.

    Args:
        references: the reference of each role's image.
    """
    return "\n".join(["images:", *(f"  {role}: {reference}" for role, reference in references.items()), ""])
