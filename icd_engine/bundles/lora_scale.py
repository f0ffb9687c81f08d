"""How much LoRA updates count, alpha / rank: by tensors of the file, by its header, by peft's
configuration beside it, else as published."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from icd_engine.bundles.files import read_header, read_json
from icd_engine.errors import BundleError, shown

ALPHA = 8.0  # of all released models; published files do not store it
PEFT_CONFIG = "adapter_config.json"
ADAPTER = "lora_adapter_metadata"  # peft's configuration in a header, as diffusers writes it
ALPHAS = "network_alphas"  # a module's alpha, as diffusers names them
KOHYA_ALPHA = "ss_network_alpha"  # of all modules that have no alpha tensor
TENSOR, ASSUMED = "alpha tensors", "assumed"
# Alphas may be stored in bfloat16, whose neighbours are 2^-8 apart
SAME = 2.0**-7
ALPHA_KEY = re.compile(
    r"(?:unet\.)?(?:base_model\.model\.|lora_unet_)?(?P<module>.+?)"
    r"(?:\.lora(?:_A|_down|\.down)(?:\.weight)?)?(?:\.alpha)?"
)
# Of peft's patterns; others could keep the matcher busy for hours
LONGEST_PATTERN = 256
MOST_REPEATS = 3
REPEAT = re.compile(r"[*+{]")
REPEATED_GROUP = re.compile(r"\)[*+{]")


@dataclass(frozen=True)
class Scale:
    """What an update is multiplied by, and what says so."""

    value: float
    said_by: str


@dataclass(frozen=True)
class LoraScales:
    """What lies in and beside a LoRA file about alpha.

    adapters: place -> fields of a peft LoraConfig. alphas: module, dots as underscores -> alpha.
    spare: alpha of modules that nothing else is said of. assumed: alpha where there is no such
    either; None: the rank, as diffusers and peft assume.
    """

    name: str
    adapters: dict[str, dict[str, Any]]
    alphas: dict[str, float]
    spare: float | None
    assumed: float | None = ALPHA

    def of(self, module: str, rank: int, alpha: float | None) -> Scale:
        """The scale of a module whose factors have this rank; alpha: its own tensor's, if it has one.

        BundleError where two places say different things, or one another rank than the weights have.
        """
        said = list(self._said(module, rank, alpha))
        for other in said[1:]:
            if not math.isclose(other.value, said[0].value, rel_tol=SAME):
                raise BundleError(
                    f"{self.name}: {module!r} has LoRA scale {said[0].value:.6g} by {said[0].said_by}, "
                    f"but {other.value:.6g} by {other.said_by}"
                )
        if said:
            return said[0]
        if self.spare is not None:
            return Scale(self.spare / rank, _header(KOHYA_ALPHA))
        return Scale(1.0 if self.assumed is None else self.assumed / rank, ASSUMED)

    def _said(self, module: str, rank: int, alpha: float | None) -> Iterator[Scale]:
        if alpha is not None:
            yield Scale(alpha / rank, TENSOR)
        if (listed := self.alphas.get(module.replace(".", "_"))) is not None:
            yield Scale(listed / rank, _header(ALPHAS))
        for where, fields in self.adapters.items():
            said = _of_module(fields, "r", "rank_pattern", module)
            if said is not None and said != rank:
                raise BundleError(
                    f"{self.name}: {module!r} has rank {rank}, but {said:g} by {where}"
                )
            of_adapter = _of_module(fields, "lora_alpha", "alpha_pattern", module)
            if of_adapter is not None:
                divisor = math.sqrt(rank) if fields.get("use_rslora") else rank
                yield Scale(of_adapter / divisor, where)


def read_scales(path: Path, part: str = "unet", assumed: float | None = ALPHA) -> LoraScales:
    """Whatever says the scale of a LoRA file's updates of one part; assumed: see LoraScales.

    Header: diffusers' `lora_adapter_metadata` (peft's configuration) or `network_alphas`, kohya's
    `ss_network_alpha`. Beside it: peft's adapter_config.json. BundleError naming the field that is
    damaged.
    """
    header = read_header(path)
    adapters: dict[str, dict[str, Any]] = {}
    if ADAPTER in header:
        fields = _object(path.name, ADAPTER, header[ADAPTER])
        root = f"{part}."
        own = {k.removeprefix(root): v for k, v in fields.items() if k.startswith(root)}
        # Pipelines prefix the fields of each network, a network that saves itself does not
        adapters[_header(ADAPTER)] = own or fields
    if (path.parent / PEFT_CONFIG).is_file():
        adapters[PEFT_CONFIG] = read_json(path.parent, PEFT_CONFIG)
    for where, fields in adapters.items():
        _check_adapter(f"{path.name}: {where}", fields)
    alphas = _object(path.name, ALPHAS, header[ALPHAS]) if ALPHAS in header else {}
    where = f"{path.name}: {_header(ALPHAS)}"
    flat = {_flat(key): _number(where, key, value) for key, value in alphas.items()}
    spare = _spare(path.name, header.get(KOHYA_ALPHA))
    return LoraScales(path.name, adapters, flat, spare, assumed)


def _header(field: str) -> str:
    return f"the header's {field}"


def _object(name: str, field: str, text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise BundleError(f"{name}: {_header(field)} must hold a JSON object, not {shown(text)}")
    return value


def _check_adapter(where: str, fields: Mapping[str, Any]) -> None:
    """Raises BundleError for what does not say a scale the way peft does."""
    if fields.get("peft_type", "LORA") != "LORA":
        raise BundleError(f"{where}: peft_type must be 'LORA', not {shown(fields['peft_type'])}")
    if not isinstance(fields.get("use_rslora", False), bool | None):
        raise BundleError(f"{where}: use_rslora must be true or false")
    for name in ("r", "lora_alpha"):
        if fields.get(name) is not None:
            _number(where, name, fields[name])
    for name in ("rank_pattern", "alpha_pattern"):
        patterns = fields.get(name) or {}
        if not isinstance(patterns, dict):
            raise BundleError(f"{where}: {name} must be an object, not {shown(patterns)}")
        for pattern, value in patterns.items():
            _number(where, name, value)
            _check_pattern(where, pattern)


def _of_module(fields: Mapping[str, Any], name: str, patterns: str, module: str) -> float | None:
    """peft's rule: the first pattern that the end of the module's name matches, else the field."""
    for pattern, value in (fields.get(patterns) or {}).items():
        if re.fullmatch(rf"(.*\.)?({pattern})", module):
            return float(value)
    return None if fields.get(name) is None else float(fields[name])


def _check_pattern(where: str, pattern: str) -> None:
    try:
        re.compile(rf"(.*\.)?({pattern})")
    except (re.error, RecursionError, OverflowError):
        usable = False
    else:
        usable = (
            len(pattern) <= LONGEST_PATTERN
            and len(REPEAT.findall(pattern)) <= MOST_REPEATS
            and not REPEATED_GROUP.search(pattern)
        )
    if not usable:
        raise BundleError(f"{where}: {shown(pattern)} is no usable pattern of module names")


def _number(where: str, name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < math.inf:
        raise BundleError(f"{where}: {name} must be a number, not {shown(value)}")
    return float(value)


def _flat(key: str) -> str:
    match = ALPHA_KEY.fullmatch(key)
    return (match["module"] if match else key).replace(".", "_")


def _spare(name: str, text: str | None) -> float | None:
    """kohya's alpha of a file; it writes "None" where it was not told one."""
    if text is None or text == "None":
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    return _number(f"{name}: the header", KOHYA_ALPHA, value)
