"""Bundles of a few thousand random weights, shaped like Stable Diffusion, and the engines on
them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from torch import Tensor, nn

    from icd_engine.engine import Engine

# Helpers that assert say as much as tests do.
pytest.register_assert_rewrite("tests.csrc_triton", "tests.icd_engine", "tests.training")

TOKENIZER = Path(__file__).parent / "data" / "bpe_tokenizer"
UNET = {
    "_class_name": "UNet2DConditionModel",
    "sample_size": 8,
    "in_channels": 4,
    "out_channels": 4,
    "down_block_types": ["CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D"],
    "block_out_channels": [16, 32],
    "layers_per_block": 1,
    "attention_head_dim": 2,
    "cross_attention_dim": 16,
    "norm_num_groups": 8,
    "norm_eps": 1e-5,
    "time_cond_proj_dim": 64,
}
VAE = {
    "_class_name": "AutoencoderKL",
    "sample_size": 64,
    "in_channels": 3,
    "out_channels": 3,
    "latent_channels": 4,
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "block_out_channels": [8, 8, 8, 8],
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "scaling_factor": 0.18215,
}
TEXT_ENCODER = {
    "architectures": ["CLIPTextModel"],
    "model_type": "clip_text_model",
    "vocab_size": 563,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_attention_heads": 2,
    "num_hidden_layers": 1,
    "max_position_embeddings": 77,
    "projection_dim": 16,
    "hidden_act": "quick_gelu",
    "bos_token_id": 561,
    "eos_token_id": 562,
    "pad_token_id": 562,
}
SCHEDULER = {
    "_class_name": "DDPMScheduler",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
    "prediction_type": "epsilon",
    "clip_sample": False,
}
MODEL_INDEX = {
    "_class_name": "StableDiffusionPipeline",
    "scheduler": ["diffusers", "DDPMScheduler"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
    "safety_checker": [None, None],
    "feature_extractor": [None, None],
    "requires_safety_checker": False,
}
RECORD = {
    "family": "sd15",
    "encode_times": [19, 259, 519, 779],
    "encode_end": 999,
    "decode_times": [259, 519, 779, 999],
    "size": [64, 64],
    "blend_downscale": 1,
    "share_downscale": 1,
    "defaults": {
        "guidance_scale": 4.0,
        "tau": 0.8,
        "control": "auto",
        "cross_replace": 0.4,
        "self_replace": 0.3,
        "seed": 0,
    },
    "origin": {"made": "of random weights, for tests"},
}
# Plain initialisation gives latents and predictions far below unit size, and prompts that hardly
# matter. These factors mend that; sharper attention still would make a chaotic network, on which
# two right programs disagree.
GAINS = {
    "attn2.to_q": 3.0,
    "attn2.to_k": 3.0,
    "attn2.to_v": 2.0,
    "cond_proj": 6.0,
    "encoder.conv_out": 20.0,
    "conv_out": 2.0,
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skips what needs a GPU where there is none."""
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if not marked:
        return
    import torch

    if not torch.cuda.is_available():
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))


# Fixtures that take minutes
EXPORTS = ("exported", "small_site")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """With `--dist loadfile`, all files of one export are one process's: others would wait for it, or
    make it again."""
    from xdist.scheduler import LoadFileScheduling

    class FilesOfOneExport(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.partition("::")[0]
            return _export_of(config.rootpath / file) or file

    return FilesOfOneExport(config, log) if config.getoption("dist") == "loadfile" else None


@cache
def _export_of(file: Path) -> str | None:
    """The first of EXPORTS that a function of the file takes."""
    text = file.read_text(encoding="utf-8")
    return next((one for one in EXPORTS if re.search(rf"def \w+\([^)]*\b{one}\b", text)), None)


def write_small_bundle(out: Path, *, seed: int = 0, guidance_embedded: bool = True) -> Path:
    """A whole bundle in stock diffusers layout, 64x64 pictures, 8x8 latents; a second or two."""
    import torch
    from transformers import CLIPTextConfig, CLIPTextModel

    from icd_engine.bundles.bundle import write_bundle
    from icd_engine.networks.unet import UNet as UNetModule
    from icd_engine.networks.vae import VAE as VAEModule

    unet = UNET | {"time_cond_proj_dim": UNET["time_cond_proj_dim"] if guidance_embedded else None}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        files: dict[str, Any] = {
            "model_index.json": MODEL_INDEX,
            "scheduler/scheduler_config.json": SCHEDULER,
            "tokenizer/tokenizer.json": TOKENIZER / "tokenizer.json",
            "tokenizer/tokenizer_config.json": TOKENIZER / "tokenizer_config.json",
            "text_encoder/config.json": TEXT_ENCODER,
            "text_encoder/model.safetensors": _weights(
                CLIPTextModel(CLIPTextConfig(**TEXT_ENCODER))
            ),
            "vae/config.json": VAE,
            "vae/diffusion_pytorch_model.safetensors": _weights(VAEModule(VAE)),
        }
        for part in ("unet", "unet_forward"):
            files[f"{part}/config.json"] = unet
            files[f"{part}/diffusion_pytorch_model.safetensors"] = _weights(UNetModule(unet))
    return write_bundle(out, RECORD, files.items()).path


def _weights(network: nn.Module) -> dict[str, Tensor]:
    def gain(key: str) -> float:
        return next((factor for part, factor in GAINS.items() if part in key), 1.0)

    return {key: value * gain(key) for key, value in network.state_dict().items()}


@pytest.fixture(scope="session", autouse=True)
def own_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """What the engine keeps for later, it keeps here, in child processes too: not in the user's
    folder, which may have anything in it."""
    with pytest.MonkeyPatch.context() as patch:
        home = tmp_path_factory.mktemp("home")
        patch.setenv("ICD_HOME", str(home))
        yield home


@pytest.fixture(scope="session")
def small_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle whose networks embed the guidance scale.

    Shared by the session: copy it before changing files.
    """
    return write_small_bundle(tmp_path_factory.mktemp("bundles") / "small")


@pytest.fixture(scope="session")
def two_pass_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same without guidance embedding: guided rows need a second, unconditional prediction."""
    return write_small_bundle(
        tmp_path_factory.mktemp("bundles") / "two_pass", guidance_embedded=False
    )


@pytest.fixture(scope="session")
def exported(small_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`small_bundle` exported in float32 at opset 20 and checked: minutes, so once for all processes
    of a run.

    Copy it before changing files.
    """
    pytest.importorskip("onnxscript")
    return _exported_once(tmp_path_factory, small_bundle, "optimum")


@pytest.fixture(scope="session")
def exported_for_openvino(small_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same for OpenVINO: some seconds."""
    pytest.importorskip("openvino")
    return _exported_once(tmp_path_factory, small_bundle, "openvino")


def _exported_once(factory: pytest.TempPathFactory, model: Path, layout: Any) -> Path:
    """The model exported in a layout by the process of this run that asks first."""
    from filelock import FileLock

    from export.folder import export_bundle
    from icd_engine.bundles.bundle import read_bundle

    own = factory.getbasetemp()
    common = own.parent if "PYTEST_XDIST_WORKER" in os.environ else own
    out = common / f"exported-{layout}"
    with FileLock(f"{out}.lock"):
        if not out.is_dir():  # written whole or not at all
            export_bundle(read_bundle(model), out, layout=layout)
    return out


@pytest.fixture(scope="session")
def small_engine(small_bundle: Path) -> Engine:
    """An engine on `small_bundle`: CPU, float32, eager."""
    from icd_engine.engine import Engine

    return Engine.from_pretrained(small_bundle, device="cpu", dtype="float32", runner="eager")
