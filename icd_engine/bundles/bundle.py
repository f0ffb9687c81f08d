"""A bundle, the model folder: what is in it, whether it is whole, and how one is written without
leaving halves."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Any

from icd_engine.bundles.configs import PartConfig, check_configs, train_steps
from icd_engine.bundles.exported import MANIFEST, Exported, read_manifest
from icd_engine.bundles.family import DIFFERENCE, FAMILIES, MODEL_INDEX, Family, read_family
from icd_engine.bundles.files import file_digest, read_json, require_file, write_file
from icd_engine.bundles.home import local_folder
from icd_engine.bundles.record import FORMAT, check_times, parse_record
from icd_engine.bundles.target import RECORD, new_folder
from icd_engine.errors import BundleError, shown
from icd_engine.settings import EditSettings

# Bytes; hashing the gigabytes of a full model at every load would cost seconds
VERIFY_BELOW = 256 * 2**20


@dataclass(frozen=True)
class Bundle:
    """A checked model folder: its numbers here, its networks on disk.

    encode_times, decode_times: ascending time steps that hops start at; encoding ends at
    encode_end, decoding at 0. size: (w, h) of the pictures. blend_downscale: latent side / side of
    the attention maps that local blend reads; share_downscale: the same for the finest
    self-attention that is shared. defaults: settings of an edit. origin: where the weights came
    from. sha256: {relative file: digest}. exported: the ONNX graphs that stand in place of weights,
    None in a bundle of weights.
    """

    path: Path
    family: str
    encode_times: tuple[int, ...]
    encode_end: int
    decode_times: tuple[int, ...]
    size: tuple[int, int]
    blend_downscale: int
    share_downscale: int
    defaults: EditSettings
    origin: dict[str, Any] = field(default_factory=dict, repr=False)
    sha256: dict[str, str] = field(default_factory=dict, repr=False)
    configs: dict[str, dict[str, Any]] = field(default_factory=dict, repr=False)
    exported: Exported | None = field(default=None, repr=False)

    @property
    def difference(self) -> Path | None:
        """What makes the encode network of the decode one (`lora.difference`), where both came of LoRA
        files."""
        return self.path / DIFFERENCE if DIFFERENCE in self.sha256 else None

    @cached_property
    def fingerprint(self) -> str:
        """What tells models apart: the files of their parts, and the time steps of encoding.

        Inversions made with one model do not fit another. What is beside the parts, a model card
        say, is for people and does not count.
        """
        parts = {name: digest for name, digest in self.sha256.items() if "/" in name}
        about = [parts, self.encode_times, self.encode_end]
        return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:16]

    def fingerprint_with(self, styles: Sequence[Mapping[str, Any]]) -> str:
        """That of the model with these styles on, see `styles.UsedStyle.record`."""
        if not styles:
            return self.fingerprint
        about = json.dumps([self.fingerprint, *styles], sort_keys=True)
        return hashlib.sha256(about.encode()).hexdigest()[:16]

    @property
    def samples_posterior(self) -> bool:
        """Whether pictures become a sample of the VAE's posterior (SDXL, as in the reference)
        instead of its mean."""
        return FAMILIES[self.family].samples_posterior

    @property
    def guidance_embedded(self) -> bool:
        """Whether w enters the decode network as an embedding, so that no second, unconditional
        pass is needed."""
        return self.configs["unet"].get("time_cond_proj_dim") is not None

    @property
    def train_steps(self) -> int:
        """How many time steps the model was trained on."""
        return train_steps(self.configs["scheduler"])

    def config(self, part: str) -> PartConfig:
        """The configuration of a part, as `Family.configs` names them; a field it lacks is a
        BundleError."""
        if part not in self.configs:
            raise BundleError(f"{self.path}: no part {part!r} (known: {', '.join(self.configs)})")
        file = f"{_folder(part, self.exported)}/{FAMILIES[self.family].configs[part]}"
        return PartConfig(self.configs[part], self.path / file)

    def weights(self, part: str) -> Path:
        """The safetensors file of a network part, for `read_weights`."""
        files = FAMILIES[self.family].weights
        if part not in files:
            raise BundleError(
                f"{self.path}: no weights for part {part!r} (known: {', '.join(files)})"
            )
        return self.path / part / files[part]

    def verify(self) -> None:
        """Reads every file listed in icd.json.

        Raises BundleError naming the first that is missing or was changed.
        """
        for name, digest in self.sha256.items():
            path = self.path / name
            if not path.is_file():
                raise BundleError(f"{self.path}: {name} is missing")
            if file_digest(path) != digest:
                raise BundleError(
                    f"{self.path}: {name} was changed or damaged (SHA-256 differs from icd.json)"
                )


def read_bundle(name_or_path: str | Path, verify: bool | None = None) -> Bundle:
    """The embedded bundle "tiny", a published one that is here by its name, or the bundle in a
    folder; no network is loaded.

    Checks that every part is there and that icd.json is sound, and the SHA-256 of the listed files
    when `verify` is true; None means: when they are less than 256 MiB. Raises BundleError naming
    the file or the field.
    """
    if not isinstance(name_or_path, str | os.PathLike):
        raise BundleError(f"a model is a name or the path of a folder, not {shown(name_or_path)}")
    if name_or_path == "tiny":
        folder = Path(str(resources.files("icd_engine.bundles") / "tiny"))
        if not folder.is_dir():
            raise BundleError("the embedded model 'tiny' is not part of this installation")
    else:
        folder = local_folder(name_or_path)
    if not os.path.isdir(folder):  # Path.is_dir would raise for a name that is too long
        raise BundleError(
            f"no model folder at {folder} (and no embedded model of that name; there is 'tiny', and "
            "`icd models` lists the published ones)"
        )
    bundle = _load(folder, folder)
    if verify is None:
        listed = (bundle.path / name for name in bundle.sha256)
        verify = sum(path.stat().st_size for path in listed if path.is_file()) < VERIFY_BELOW
    if verify:
        bundle.verify()
    return bundle


def _load(folder: Path, shown: Path) -> Bundle:
    """The bundle in `folder`; errors say `shown`, the place the user knows."""
    try:
        if not (folder / RECORD).is_file() and (folder / MODEL_INDEX).is_file():
            raise BundleError(
                "icd.json is missing: this is a diffusers folder, `icd convert` makes a bundle from one"
            )
        values = parse_record(read_json(folder, RECORD))
        family = read_family(folder)
        if values["family"] != family.name:
            raise BundleError(
                f"icd.json: family is {values['family']!r}, but the folder's parts are {family.name!r}'s"
            )
        exported = read_manifest(folder)
        files = {part: f"{_folder(part, exported)}/{name}" for part, name in family.configs.items()}
        configs = {part: read_json(folder, name) for part, name in files.items()}
        check_configs(configs, files)
        check_times(values, train_steps(configs["scheduler"]))
        _require_parts(folder, family, exported)
    except BundleError as error:
        raise BundleError(f"{shown}: {error}") from error
    return Bundle(path=folder, configs=configs, exported=exported, **values)


def _require_parts(folder: Path, family: Family, exported: Exported | None) -> None:
    """Tokenizers, and the weights or the graphs of every network."""
    for part, name in family.weights.items():
        if exported is None:
            require_file(folder, f"{part}/{name}")
        elif part.startswith("text_encoder") and part not in exported.graphs:
            raise BundleError(f"{MANIFEST}: the graph {part} is missing")
    _same_vocabulary(folder, family.tokenizers)


def _folder(part: str, exported: Exported | None) -> str:
    """Where a part's configuration lies: an exported VAE is two parts with the same one."""
    return "vae_encoder" if exported and part == "vae" else part


def _same_vocabulary(folder: Path, tokenizers: list[str]) -> None:
    """Words are found and aligned by the first tokenizer: others may pad otherwise, and nothing
    else."""
    files = [f"{part}/tokenizer.json" for part in tokenizers]
    for name in files:
        require_file(folder, name)
    for name in files[1:]:
        if read_json(folder, name).get("model") != read_json(folder, files[0]).get("model"):
            raise BundleError(f"{name} has another vocabulary than {files[0]}")


def write_bundle(
    out: str | Path,
    record: Mapping[str, Any],
    files: Iterable[tuple[str, Any]],
    overwrite: bool = False,
) -> Bundle:
    """Writes a bundle whole or not at all; with `overwrite` an older bundle at `out` stays until
    the new one is whole.

    record: the fields of icd.json but for `format` and `sha256`, which are added; `defaults` may be
    an EditSettings.
    files: pairs of relative name and content (see `files.write_file`), taken one at a time, so that
    only one network need be in memory. Raises BundleError.
    """
    out = Path(out)
    with new_folder(out, overwrite) as new:
        digests = {}
        for name, content in files:
            write_file(new, name, content)
            digests[name] = file_digest(new / name)
        write_record(new, record, digests)
        _load(new, out)
    return _load(out, out)


def write_record(folder: Path, record: Mapping[str, Any], digests: Mapping[str, str]) -> None:
    """icd.json of a folder whose files have these digests; `defaults` may be an EditSettings."""
    defaults = record.get("defaults")
    if isinstance(defaults, EditSettings):
        record = {**record, "defaults": defaults.as_json()}
    write_file(folder, RECORD, {"format": FORMAT, **record, "sha256": dict(digests)})
