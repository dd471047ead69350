"""The same images for `docker buildx bake`: the same contexts, build arguments and tags.

Format: https://docs.docker.com/build/bake/reference/
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from .catalog import Image
from .context import Files, write

Arguments = Mapping[str, str]


def bake_file(images: Iterable[Image], tags: Mapping[str, str], arguments: Mapping[str, Arguments]) -> dict[str, Any]:
    """The content of docker-bake.json, whose contexts are folders beside it.

    Args:
        images: in build order, with all that they are built from.
        tags: the tag of each image, by its name.
        arguments: the build arguments of each image, by its name.
    """
    targets = {image.name: _target(image, tags, arguments[image.name]) for image in images}
    return {"group": {"default": {"targets": list(targets)}}, "target": targets}


def _target(image: Image, tags: Mapping[str, str], arguments: Arguments) -> dict[str, Any]:
    return {
        "context": image.name,
        "dockerfile": image.dockerfile,
        # A FROM of a parent's tag is built by the parent's target, and not pulled.
        "contexts": {tags[parent]: f"target:{parent}" for parent in image.parents.values()},
        "args": dict(arguments),
        "tags": [tags[image.name]],
        "output": ["type=docker"],
    }


def write_bake(folder: Path, content: Mapping[str, Any], contexts: Mapping[str, Files]) -> None:
    """Writes docker-bake.json and the build context of each image into a folder."""
    for name, files in contexts.items():
        write(files, folder / name)
    (folder / "docker-bake.json").write_text(json.dumps(content, indent=1) + "\n")
