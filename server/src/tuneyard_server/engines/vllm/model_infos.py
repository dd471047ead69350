"""What vLLM's architectures can do, which the image's build has written down (images/server/model_infos)."""

import os
import shutil
from pathlib import Path
from typing import Final

IN_IMAGE: Final = Path("/opt/server/share/modelinfos")


def copy_model_infos(source: Path = IN_IMAGE) -> None:
    """Copies it to vLLM's cache, which must be writable: without it vLLM imports the architecture a second time."""
    cache = Path(os.environ.get("VLLM_CACHE_ROOT") or Path.home() / ".cache" / "vllm")
    if source.is_dir():  # an image of one's own has none
        shutil.copytree(source, cache / "modelinfos", dirs_exist_ok=True)
