# pyright: basic
"""From a name to a folder with a checkpoint's files: a local folder, or a hub id."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, cast

_HUB_ID = re.compile(r"^[\w.-]+/[\w.-]+$")
_WANTED = ["*.json", "*.safetensors", "*.pt"]
HEAD, PROJECTOR = ("action_head",), ("proprio_projector",)
FILM = ("vision_backbone", "vision_backbone_film")
"""Names of the components beside the weights."""
WAY_OUT = "give the folder of an OpenVLA checkpoint or a hub id such as openvla/openvla-7b"


def find_folder(name: str) -> Path:
    """Return the local folder of `name`; a hub id is fetched once and kept in the hub's cache.

    Raises:
        ValueError: if there is no such folder and the hub does not have or give it.
    """
    path = Path(name).expanduser()
    if path.is_dir():
        return path
    if path.exists():
        raise ValueError(f"{name} is a file; {WAY_OUT}")
    if not _HUB_ID.match(name) or name.startswith("."):
        raise ValueError(f"there is no folder {name}; {WAY_OUT}")
    return _fetch(name)


def _fetch(hub_id: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError

    try:
        return Path(snapshot_download(hub_id, allow_patterns=_WANTED))
    except RepositoryNotFoundError as error:
        raise ValueError(
            f"{hub_id}: there is no such folder here, and the hub has no such model (or it is "
            f"private: `hf auth login`); {WAY_OUT}"
        ) from error
    except (OSError, HfHubHTTPError) as error:
        raise ValueError(
            f"{hub_id}: there is no such folder here, and the hub cannot be reached "
            f"({type(error).__name__}); on a machine with a network run `hf download {hub_id} "
            "--local-dir FOLDER`, bring FOLDER here and give its path"
        ) from error


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file.

    Raises:
        ValueError: if there is none.
    """
    if not path.is_file():
        raise ValueError(f"there is no {path}; {WAY_OUT}")
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is no JSON: {error}") from error
    if not isinstance(document, dict):
        raise ValueError(f"{path} holds no JSON object")
    return cast(dict[str, Any], document)


def component(folder: Path, names: tuple[str, ...]) -> Path | None:
    """Return `NAME--STEPS_checkpoint.pt` of a folder; None: there is none.

    Args:
        folder: of a checkpoint.
        names: that it may have. Of several the one of most steps is taken, before all `latest`.

    Raises:
        ValueError: if a file begins with such a name and goes on in another way.
    """
    found: dict[float, Path] = {}
    for path in sorted(folder.glob("*.pt")):
        name, _, rest = path.stem.partition("--")
        steps = re.fullmatch(r"(\d+|latest)_checkpoint", rest)
        if name in names and steps:
            found[float("inf") if steps[1] == "latest" else int(steps[1])] = path
        elif name in names:
            raise ValueError(
                f"{path} is a component without its steps; name it {name}--1_checkpoint.pt"
            )
    return found[max(found)] if found else None
