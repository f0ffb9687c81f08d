"""Names of methods -> what edits: the engine's own ways, and others on the networks they need."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.evaluation.diffusion import Diffusion
from benchmarks.evaluation.methods import INSTRUCTED, METHODS
from benchmarks.evaluation.run import (
    Method,
    icd,
    icd_masked,
    icd_paper,
    icd_plain,
    icd_unprompted,
    other,
)
from benchmarks.evaluation.tasks import PUBLISHED_SCALES, InstructScales
from icd_engine.engine import Engine
from icd_engine.errors import BundleError, SettingsError

MASKED = "icd-masked"
UNPROMPTED = "icd-unprompted"
OWN: dict[str, Callable[..., Method]] = {
    "icd": icd,
    "icd-plain": icd_plain,
    "icd-paper": icd_paper,
    MASKED: icd_masked,
    UNPROMPTED: icd_unprompted,
}


class Networks(NamedTuple):
    """Folders of the UNets that the other methods use: undistilled; of InstructPix2Pix, None where
    there is none; and the latter's guidance."""

    teacher: Path
    instruct: Path | None = None
    scales: InstructScales = PUBLISHED_SCALES


def chosen(
    engine: Engine, names: str, networks: Networks, settings: Mapping[str, Any]
) -> dict[str, Method]:
    """Methods by name: `names` are comma-separated, or "all": those that know as much as each other
    (not icd-masked, which is told the mask, nor icd-unprompted, which is told less) and that there
    are networks for.

    settings: of the engine's own edits. SettingsError for an unknown name or a missing network,
    BundleError for a network that is none of the method's.
    """
    picked = names.split(",")
    if names == "all":
        others = [name for name in METHODS if networks.instruct or name not in INSTRUCTED]
        picked = [name for name in OWN if name not in (MASKED, UNPROMPTED)] + others
    for name in picked:
        if name not in OWN and name not in METHODS:
            known = ", ".join((*OWN, *METHODS))
            raise SettingsError(f"unknown method {name!r} (known: {known})")
        if name in INSTRUCTED and networks.instruct is None:
            raise SettingsError(f"{name} needs --ip2p, a folder of InstructPix2Pix's UNet")
    w = float(engine.default_settings.guidance_scale or 0.0)
    models: dict[Path, Diffusion] = {}
    methods: dict[str, Method] = {}
    for name in picked:
        if name in OWN:
            methods[name] = OWN[name](engine, **settings)
            continue
        folder = networks.instruct if name in INSTRUCTED else networks.teacher
        assert folder is not None  # refused above
        if folder not in models:
            models[folder] = Diffusion.load(engine, folder)
        if models[folder].sees_picture != (name in INSTRUCTED):
            found = models[folder].unet.in_channels
            raise BundleError(
                f"{folder}: {name} needs another kind of UNet than of {found} channels"
            )
        methods[name] = other(models[folder], name, w, networks.scales)
    return methods
