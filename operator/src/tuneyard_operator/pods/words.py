"""Paths inside a pod in the words of its user, who knows Secrets and fields but no mounts."""

import re
from collections.abc import Iterator, Mapping
from typing import Final

from tuneyard_api import names
from tuneyard_operator.machinery.objects import Json

# Where the user's own words do not come from a volume of the pod.
PLACES: Final[Mapping[str, str]] = {
    names.MODEL_DIR: "the model",
    names.JOB_FILE: "the FineTuneJob",
    names.JOB_DIR: "the FineTuneJob",
    names.WORK_DIR: "the pod's scratch volume",
    names.RUN_DIR: "the pod's scratch volume",
}


# How the store's errors name the Secret, which they do not know by name.
OF_THE_STORE: Final = "the credentials Secret"


def in_user_words(text: str, pod: Json) -> str:
    """The text with each path of a mounted Secret replaced by the Secret's name and key, and other paths by words."""
    secrets = dict(_secrets(pod.get("spec", {})))
    text = text.replace(OF_THE_STORE, secrets.get(names.CREDENTIALS_DIR, OF_THE_STORE))
    places = {**PLACES, **secrets}
    for path in sorted(places, key=len, reverse=True):
        # Not within another path or a URI: s3://models/model is the user's own.
        text = re.sub(rf"(?<![\w/:.-]){re.escape(path)}(?![\w-])", places[path], text)
    return text


def _secrets(spec: Json) -> Iterator[tuple[str, str]]:
    """Paths in the containers, and what of which Secret is there."""
    secrets = {volume["name"]: volume["secret"] for volume in spec.get("volumes", []) if "secret" in volume}
    for container in (*spec.get("initContainers", []), *spec.get("containers", [])):
        for mount in container.get("volumeMounts", []):
            if secret := secrets.get(mount["name"]):
                yield mount["mountPath"], f"Secret {secret['secretName']}"
                for item in secret.get("items", []):
                    yield f"{mount['mountPath']}/{item['path']}", f"Key {item['key']} of Secret {secret['secretName']}"
