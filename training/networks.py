"""The three networks of the method while it is distilled: the frozen teacher, and the pair that
learns from it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch
from diffusers import UNet2DConditionModel
from peft import LoraConfig, get_peft_model_state_dict
from torch import Tensor, nn

from icd_engine.bundles.files import read_weights, write_file
from icd_engine.bundles.lora import LORA_MODULES
from icd_engine.bundles.lora_scale import ALPHA
from icd_engine.errors import BundleError
from icd_engine.networks.text_encoder import PromptFeatures
from icd_engine.runners.contract import TIME_IDS
from icd_engine.sampling.guidance import guidance_embedding
from training.base import new_unet
from training.processes import autocast

Role = Literal["teacher", "forward", "reverse"]
STUDENTS: tuple[Role, ...] = ("forward", "reverse")
ADAPTER = "default"  # peft's name of the updates


def predict(
    unet: UNet2DConditionModel,
    x: Tensor,
    t: Tensor,
    prompt: PromptFeatures,
    w: Tensor | None = None,
    precision: str = "bf16",
) -> Tensor:
    """eps [B, 4, h, w] in float32 of x_t, t [B], prompts and guidance w [B] (None: unguided)."""
    embedded, added = None, None
    if unet.config["time_cond_proj_dim"] is not None:
        scales = torch.zeros(len(x)) if w is None else w
        embedding = guidance_embedding(scales.cpu().numpy(), unet.config["time_cond_proj_dim"])
        embedded = torch.from_numpy(embedding).to(x.device)
    if prompt.pooled is not None:
        added = {
            "text_embeds": prompt.pooled,
            "time_ids": torch.tensor([TIME_IDS], device=x.device).expand(len(x), -1),
        }
    with autocast(precision):
        return unet(
            x, t, prompt.tokens, timestep_cond=embedded, added_cond_kwargs=added
        ).sample.float()


class Students(nn.Module):
    """Teacher, forward and reverse network, which start as the teacher.

    rank: of LoRA updates over the teacher's own tensors, None for full weights. trained: the roles
    that learn.
    checkpointing: activations are computed twice and not kept. Raises ValueError for a teacher that
    does not take w.
    """

    def __init__(
        self,
        teacher: UNet2DConditionModel,
        rank: int | None,
        alpha: float = ALPHA,
        trained: tuple[Role, ...] = STUDENTS,
        precision: str = "bf16",
        checkpointing: bool = False,
    ):
        super().__init__()
        if teacher.config["time_cond_proj_dim"] is None:
            raise ValueError(
                "the teacher is not guidance-distilled: run `python -m training guidance` first"
            )
        self.rank = rank
        self.alpha = alpha
        self.precision = precision
        self.teacher = teacher.requires_grad_(False)
        for role in STUDENTS:
            student = _copy(teacher) if rank is None else _updated(teacher, rank, alpha)
            if role not in trained:
                student.requires_grad_(False)
            if checkpointing:
                student.enable_gradient_checkpointing()
            self.add_module(f"{role}_unet", student)

    def network(self, role: Role) -> UNet2DConditionModel:
        found = self.teacher if role == "teacher" else self.get_submodule(f"{role}_unet")
        assert isinstance(found, UNet2DConditionModel)
        return found

    def eps(
        self, role: Role, x: Tensor, t: Tensor, prompt: PromptFeatures, w: Tensor | None = None
    ) -> Tensor:
        """The prediction of one of the three, as `predict`."""
        return predict(self.network(role), x, t, prompt, w, self.precision)

    def save(self, role: Role, path: Path, dtype: torch.dtype = torch.float32) -> None:
        """One student's weights as `icd convert` takes them: a UNet's, or its updates as diffusers
        reads them too.

        Keys are then `unet.<module>.lora_A.weight` and `.lora_B.weight`, for an alpha of 8 whatever
        was trained.
        dtype: of updates. Half precision where the family's are rounded, so that every reader sees
        the same.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        if self.rank is None:
            write_file(path.parent, path.name, self.network(role).state_dict())
            return
        # Loads all of its pipelines, which this module needs not
        from diffusers import StableDiffusionPipeline

        scaled: dict[str, Any] = {}
        for key, value in get_peft_model_state_dict(
            self.network(role), adapter_name=ADAPTER
        ).items():
            scaled[key] = (
                (value * (self.alpha / ALPHA) if "lora_B" in key else value)
                .detach()
                .to("cpu", dtype)
            )
        StableDiffusionPipeline.save_lora_weights(
            path.parent,
            unet_lora_layers=scaled,
            weight_name=path.name,
            unet_lora_adapter_metadata={
                "r": self.rank,
                "lora_alpha": int(ALPHA),
                "target_modules": list(LORA_MODULES),
            },
        )

    @torch.no_grad()
    def load(self, role: Role, path: Path) -> None:
        """What `save` wrote. BundleError naming the file, and the key that does not fit."""
        values = read_weights(path)
        own: dict[str, Tensor] = dict(self.network(role).state_dict())
        if self.rank is not None:
            part = f".{ADAPTER}."
            own = {
                f"unet.{key.replace(part, '.')}": value for key, value in own.items() if part in key
            }
        for key in sorted(own.keys() | values.keys()):
            if key not in own or key not in values or own[key].shape != values[key].shape:
                raise BundleError(f"{path}: {key!r} does not fit this configuration")
            up = self.rank is not None and "lora_B" in key
            own[key].copy_(values[key] * (ALPHA / self.alpha) if up else values[key])


def _copy(unet: UNet2DConditionModel) -> UNet2DConditionModel:
    twin = new_unet(unet.config)
    twin.load_state_dict(unet.state_dict())
    return twin


def _updated(unet: UNet2DConditionModel, rank: int, alpha: float) -> UNet2DConditionModel:
    """A network of the same tensors, with LoRA updates of its own that change nothing yet."""
    twin = new_unet(unet.config, torch.device("meta"))
    twin.load_state_dict(unet.state_dict(), assign=True)
    twin.requires_grad_(False)
    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,  # pyright: ignore[reportArgumentType]  # alpha may be a fraction
        target_modules=list(LORA_MODULES),
        lora_dropout=0.0,
    )
    twin.add_adapter(config, adapter_name=ADAPTER)
    return twin
