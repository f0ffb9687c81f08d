"""The demonstration edit that a model folder may carry: demo.png and demo.json."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from icd_engine.bundles.files import read_json
from icd_engine.errors import BundleError, IcdError
from icd_engine.images import load_image
from icd_engine.settings import EditSettings

PICTURE = "demo.png"
RECORD = "demo.json"


@dataclass(frozen=True)
class Demo:
    """A picture of the model's world, what it shows, what it should show, and settings that suit
    it."""

    picture: Image.Image
    source: str
    target: str
    settings: dict[str, Any]


def read_demo(folder: Path) -> Demo:
    """The demonstration of the model in `folder`.

    Raises BundleError if it has none or it is damaged.
    """
    if not (folder / PICTURE).is_file() or not (folder / RECORD).is_file():
        raise BundleError(f"{folder}: this model has no demonstration ({PICTURE} and {RECORD})")
    try:
        record = read_json(folder, RECORD)
        source = record.get("source")
        target = record.get("target")
        settings = record.get("settings", {})
        if (
            not isinstance(source, str)
            or not isinstance(target, str)
            or not isinstance(settings, dict)
        ):
            raise BundleError(
                f"{RECORD} must hold the texts source and target, and an object settings"
            )
        EditSettings.from_mapping(settings)
        return Demo(load_image(folder / PICTURE), source, target, settings)
    except IcdError as error:
        raise BundleError(f"{folder}: {error}") from error
