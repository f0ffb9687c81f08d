"""The three networks of the method while it is distilled: the frozen teacher, and the pair that learns from it."""

from __future__ import annotations

import warnings
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from diffusers import UNet2DConditionModel
from peft import LoraConfig, get_peft_model_state_dict
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from icd_engine.bundles.files import read_weights, write_file
from icd_engine.bundles.lora import ALPHA
from icd_engine.errors import BundleError
from icd_engine.networks.text_encoder import PromptFeatures
from icd_engine.runners.contract import TIME_IDS
from icd_engine.sampling.guidance import guidance_embedding
from training.base import new_unet
from training.loop import autocast

Role = Literal["teacher", "forward", "reverse"]
STUDENTS: tuple[Role, ...] = ("forward", "reverse")
# Of the published models.
LORA_MODULES = [
    "to_q",
    "to_k",
    "to_v",
    "to_out.0",
    "proj_in",
    "proj_out",
    "ff.net.0.proj",
    "ff.net.2",
    "conv1",
    "conv2",
    "conv_shortcut",
    "downsamplers.0.conv",
    "upsamplers.0.conv",
    "time_emb_proj",
]


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
        added = {"text_embeds": prompt.pooled, "time_ids": torch.tensor([TIME_IDS], device=x.device).expand(len(x), -1)}
    with autocast(precision):
        return unet(x, t, prompt.tokens, timestep_cond=embedded, added_cond_kwargs=added).sample.float()


class Students(nn.Module):
    """Teacher, forward and reverse network by role: three sets of weights, or one with two sets of LoRA updates.

    rank: of the updates, None for full weights. trained: the roles that learn. Raises ValueError for a teacher that
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
            raise ValueError("the teacher is not guidance-distilled: run `python -m training guidance` first")
        self.rank, self.alpha, self.trained, self.precision = rank, alpha, trained, precision
        self.checkpointing = checkpointing
        self.base = teacher.requires_grad_(False)
        if rank is None:
            self.forward_unet = _copy(teacher).requires_grad_("forward" in trained)
            self.reverse_unet = _copy(teacher).requires_grad_("reverse" in trained)
        else:
            for role in STUDENTS:
                config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=LORA_MODULES, lora_dropout=0.0)  # pyright: ignore[reportArgumentType]  # alpha may be a fraction
                with warnings.catch_warnings():
                    warnings.filterwarnings("ignore", "Already found a `peft_config`")  # two on purpose
                    self.base.add_adapter(config, adapter_name=_adapter(role))
            self._let_learn()

    def eps(self, role: Role, x: Tensor, t: Tensor, prompt: PromptFeatures, w: Tensor | None = None) -> Tensor:
        """The prediction of one of the three. With checkpointing, activations are computed again on the way back."""
        run = partial(self._eps, role)
        if self.checkpointing and torch.is_grad_enabled():
            # As a whole, so that the second pass runs with this role's weights whatever ran since.
            return checkpoint(run, x, t, prompt, w, use_reentrant=False)  # pyright: ignore[reportReturnType]
        return run(x, t, prompt, w)

    def _eps(self, role: Role, x: Tensor, t: Tensor, prompt: PromptFeatures, w: Tensor | None) -> Tensor:
        return predict(self._as(role), x, t, prompt, w, self.precision)

    def _as(self, role: Role) -> UNet2DConditionModel:
        if self.rank is None:
            return {"teacher": self.base, "forward": self.forward_unet, "reverse": self.reverse_unet}[role]
        if role == "teacher":
            self.base.disable_adapters()
        else:
            self.base.enable_adapters()
            self.base.set_adapter(_adapter(role))
        self._let_learn()  # peft lets those learn that are in use
        return self.base

    def _let_learn(self) -> None:
        for role in STUDENTS:
            for parameter in self._updates(role).values():
                parameter.requires_grad_(role in self.trained)

    def _updates(self, role: Role) -> dict[str, nn.Parameter]:
        """`<module>.lora_A.weight` and `.lora_B.weight` of one role."""
        part = f".{_adapter(role)}."
        return {name.replace(part, "."): p for name, p in self.base.named_parameters() if part in name}

    def save(self, role: Role, path: Path, dtype: torch.dtype = torch.float32) -> None:
        """One student's weights as `icd convert` takes them: a UNet's, or its updates as diffusers reads them too.

        Keys are then `unet.<module>.lora_A.weight` and `.lora_B.weight`, for an alpha of 8 whatever was trained.
        dtype: of updates. Half precision where the family's are rounded, so that every reader sees the same.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        if self.rank is None:
            write_file(path.parent, path.name, self._as(role).state_dict())
            return
        from diffusers import StableDiffusionPipeline  # loads all of its pipelines, which this module needs not

        scaled: dict[str, Any] = {}
        for key, value in get_peft_model_state_dict(self.base, adapter_name=_adapter(role)).items():
            scaled[key] = (value * (self.alpha / ALPHA) if "lora_B" in key else value).detach().to("cpu", dtype)
        StableDiffusionPipeline.save_lora_weights(
            path.parent,
            unet_lora_layers=scaled,
            weight_name=path.name,
            unet_lora_adapter_metadata={"r": self.rank, "lora_alpha": int(ALPHA), "target_modules": LORA_MODULES},
        )

    @torch.no_grad()
    def load(self, role: Role, path: Path) -> None:
        """What `save` wrote. BundleError naming the file, and the key that does not fit."""
        values = read_weights(path)
        if self.rank is None:
            own = dict(self._as(role).state_dict())
        else:
            own = {f"unet.{name}": parameter for name, parameter in self._updates(role).items()}
        for key in sorted(own.keys() | values.keys()):
            if key not in own or key not in values or own[key].shape != values[key].shape:
                raise BundleError(f"{path}: {key!r} does not fit this configuration")
            up = self.rank is not None and "lora_B" in key
            own[key].copy_(values[key] * (ALPHA / self.alpha) if up else values[key])


def _adapter(role: Role) -> str:
    """peft's name of a role's updates: `forward` alone is taken in a module."""
    return f"{role}_updates"


def _copy(unet: UNet2DConditionModel) -> UNet2DConditionModel:
    twin = new_unet(unet.config)
    twin.load_state_dict(unet.state_dict())
    return twin
