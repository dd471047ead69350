"""References of the images in a registry, and the values of the Helm chart that name them."""

from collections.abc import Mapping

Value = str | Mapping[str, str]


def remote(tag: str, registry: str) -> str:
    """`tuneyard/<name>:<tag>` as `<registry>/<name>:<tag>`."""
    return f"{registry.rstrip('/')}/{tag.removeprefix('tuneyard/')}"


def pushed(tag: str, digest: str) -> Mapping[str, str]:
    """The value of `images.<role>` for a pushed `tuneyard/<name>:<tag>`, beside `images.registry`."""
    repository, _, version = tag.removeprefix("tuneyard/").partition(":")
    return {"repository": repository, "tag": version, "digest": digest}


def helm_values(images: Mapping[str, Value], registry: str = "") -> str:
    """A values file (YAML) that sets `images` of the chart.

    Args:
        images: the value of each role: a whole reference, or what `pushed` returns.
    """
    head = [f"  registry: {registry.rstrip('/')}"] if registry else []
    return "\n".join(["images:", *head, *(f"  {role}: {_flow(value)}" for role, value in images.items()), ""])


def _flow(value: Value) -> str:
    if isinstance(value, str):
        return value
    return "{" + ", ".join(f'{key}: "{part}"' for key, part in value.items()) + "}"
