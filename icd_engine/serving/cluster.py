"""The service as an application of a Ray cluster that is there already, such as KubeRay's: what
`serveConfigV2` names by `import_path`. Clients' token is ICD_TOKEN of its environment."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field
from ray.serve import Application

from icd_engine.bundles.bundle import read_bundle
from icd_engine.errors import RunnerError
from icd_engine.placement import Placement
from icd_engine.serving.deployment import parts
from icd_engine.serving.limits import Limits
from icd_engine.serving.offer import Offer

TOKEN = "ICD_TOKEN"


class Arguments(BaseModel):
    """`args` of the configuration, with the meanings of `icd serve`'s options. num_cpus, num_gpus: of
    each replica."""

    model_config = ConfigDict(extra="forbid")

    model: str = "tiny"
    device: str = "auto"
    dtype: str = "auto"
    runner: str = "auto"
    replicas: int = Field(default=1, ge=1)
    batch: int = Field(default=8, ge=1, le=64)
    queue: int = Field(default=16, ge=0)
    timeout: float = Field(default=120.0, gt=0)
    source_prompt: str | None = None
    captioner: str | None = None
    captioner_model: str | None = None
    cors: list[str] = []
    num_cpus: float = 1
    num_gpus: float = 0


def application(given: dict[str, Any]) -> Application:
    """Front and replicas, bound; given: `Arguments`. RunnerError without a token, BundleError where the
    model folder is not whole."""
    args = Arguments.model_validate(given)
    token = os.environ.get(TOKEN)
    if not token:
        raise RunnerError(f"a cluster's service can be reached by others: set {TOKEN}")
    bundle = read_bundle(args.model)
    limits = Limits(
        replicas=args.replicas, batch=args.batch, queue=args.queue, seconds=args.timeout
    )
    offer = Offer(
        model=Path(args.model).name,
        steps=len(bundle.decode_times),
        source_prompt=args.source_prompt,
        captioner=args.captioner,
        captioner_model=args.captioner_model,
        captioner_key=os.environ.get("ICD_CAPTIONER_KEY"),
        origins=tuple(args.cors),
    )
    placement = Placement(device=args.device, dtype=args.dtype, runner=args.runner)
    resources: dict[str, Any] = {"num_cpus": args.num_cpus, "num_gpus": args.num_gpus}
    return parts(resources, args.model, placement, limits, token, offer)
