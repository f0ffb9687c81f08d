"""The onnxruntime runner: an exported bundle edits pictures where torch is not installed.

Tensors are numpy arrays.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from typing import Any

import numpy as np
from PIL import Image

from icd_engine.bundles.bundle import Bundle
from icd_engine.bundles.exported import Exported
from icd_engine.errors import ImageError
from icd_engine.images import to_model_range, to_pil
from icd_engine.runners.contract import (
    TIME_IDS,
    Decoded,
    DecodeInputs,
    Prompts,
    StepCallback,
)
from icd_engine.runners.filling import filled_inputs
from icd_engine.runners.onnx_decoding import OnnxDecoding
from icd_engine.runners.onnx_session import (
    FixedSession,
    GraphSession,
    MakeSession,
    OnnxDevice,
    Sessions,
)
from icd_engine.sampling.guidance import guidance_embedding
from icd_engine.sampling.schedule import Hop
from icd_engine.sampling.trajectory import run_trajectory

KEPT_PROMPTS = 256
MOST_FIXED = 4  # sizes of GraphedOnnxRunner, each with its own copy of a network's weights
# Of an export's precision: what is computed in
DTYPES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16", "int8": "float32"}
# Read when the engine is made, so that a folder or a provider that does not work is known then.
AT_ONCE = ("vae_encoder", "vae_decoder", "encode_hop", "decode_hop")
# Outputs of the text encoders
LAST_STATE = "last_hidden_state"
POOLED = "text_embeds"


class OnnxRunner:
    """Runs an exported bundle; latents are float32 between calls, whatever the precision of the
    graphs."""

    name = "onnx"
    gives_torch = False
    warms_up = False
    reference = False
    keeps = True  # the source branch of a decoding, for re-edits

    def __init__(self, bundle: Bundle, exported: Exported, device: str, make: MakeSession):
        self.device = device
        self.dtype = DTYPES[exported.precision]
        self._sessions = Sessions(bundle.path, exported.graphs, make)
        self._scaling: float = bundle.config("vae")["scaling_factor"]
        self._guidance = {
            part: bundle.config(part)["time_cond_proj_dim"] for part in ("unet", "unet_forward")
        }
        self._blend_downscale = bundle.blend_downscale
        # SDXL's encoders are read before their last layer: hidden states are counted from the
        # embeddings on.
        encoders = [part for part in ("text_encoder", "text_encoder_2") if part in exported.graphs]
        self._encoders = {
            part: f"hidden_states.{bundle.config(part)['num_hidden_layers'] - 1}"
            if len(encoders) > 1
            else LAST_STATE
            for part in encoders
        }
        self._features = lru_cache(KEPT_PROMPTS)(self._encode_prompt)
        for name in (*encoders, *AT_ONCE):
            _ = self._sessions[name]

    def _run_hop(self, name: str, inputs: Mapping[str, Any], outputs: Sequence[str]) -> list[Any]:
        return self._sessions[name](inputs, outputs)

    # --- tensors are arrays -----------------------------------------------------------------------

    def tensor(self, values: np.ndarray) -> np.ndarray:
        return values

    def join(self, tensors: Sequence[np.ndarray]) -> np.ndarray:
        return np.concatenate(tensors)

    def host(self, tensor: Any) -> np.ndarray:
        # What onnxruntime keeps of a source branch are its own values, on its device
        return tensor.copy() if isinstance(tensor, np.ndarray) else tensor.numpy()

    def as_torch(self, values: np.ndarray) -> Any:
        raise NotImplementedError("torch need not be installed where exported folders run")

    def free_memory(self) -> None:
        self._features.cache_clear()

    # --- prompts and pictures ---------------------------------------------------------------------

    def encode_prompts(self, ids: Sequence[Sequence[int]]) -> Prompts:
        keys = tuple(tuple(row) for row in ids)
        tokens, pooled = zip(*(self._features(key) for key in keys), strict=True)
        return Prompts(
            keys, np.concatenate(tokens), None if pooled[0] is None else np.concatenate(pooled)
        )

    def _encode_prompt(self, ids: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray | None]:
        """Of one prompt: the encoders' features side by side, and the pooled ones of the last,
        where there are two."""
        of_each = np.split(np.array([ids]), len(self._encoders), axis=1)
        pooled = None
        states = []
        for (part, state), own in zip(self._encoders.items(), of_each, strict=True):
            outputs = [state, POOLED] if part == "text_encoder_2" else [state]
            values = self._sessions[part]({"input_ids": own}, outputs)
            states.append(values[0])
            pooled = values[1] if len(values) > 1 else None
        return np.concatenate(states, axis=-1), pooled

    def to_latents(self, pixels: np.ndarray, noise: np.ndarray | None = None) -> np.ndarray:
        height, width = pixels.shape[1:3]
        sample = np.concatenate(
            [to_model_range(Image.fromarray(picture), (width, height)) for picture in pixels]
        )
        moments = self._sessions["vae_encoder"]({"sample": sample}, ["latent_parameters"])[0]
        mean, log_variance = np.split(moments.astype(np.float32), 2, axis=1)
        return np.float32(self._scaling) * (
            mean if noise is None else mean + np.exp(0.5 * log_variance) * noise
        )

    def to_image(self, latents: np.ndarray) -> np.ndarray:
        unscaled = latents / np.float32(self._scaling)
        pictures = self._sessions["vae_decoder"]({"latent_sample": unscaled}, ["sample"])[0].astype(
            np.float32
        )
        if not np.isfinite(pictures).all():
            raise ImageError("the picture holds NaN or infinite values")
        return pictures

    def to_pixels(self, latents: np.ndarray) -> np.ndarray:
        return np.stack([np.asarray(to_pil(picture)) for picture in self.to_image(latents)])

    # --- hops -------------------------------------------------------------------------------------

    def encode(
        self,
        latents: np.ndarray,
        prompts: Prompts,
        hops: Sequence[Hop],
        callback: StepCallback | None,
    ) -> list[np.ndarray]:
        def step(k: int, hop: Hop, x: np.ndarray) -> np.ndarray:
            rows = len(x)
            inputs = self._hop_inputs(
                "unet_forward", [hop] * rows, x, [0.0] * rows, prompts, prompts.features
            )
            return self._run_hop("encode_hop", inputs, ["next_latents"])[0]

        return run_trajectory(latents, hops, step, callback)

    def decode(
        self, inputs: DecodeInputs, hops: Sequence[Hop], callback: StepCallback | None
    ) -> Decoded:
        if inputs.edits is None:
            return Decoded(
                run_trajectory(inputs.latents, hops, self._plain_step(inputs), callback)[-1]
            )
        if not self.keeps:
            if inputs.only_source:
                return Decoded(inputs.latents)
            inputs = replace(inputs, keep=False, ahead=False)
        decoding = OnnxDecoding(
            filled_inputs(inputs, partial(np.full, dtype=np.float32)),
            hops,
            partial(self._hop_inputs, "unet"),
            self._run_hop,
            self._sessions["decode_hop"].kept if inputs.keep or inputs.ahead else [],
            self._map_size(inputs.latents),
        )
        own = hops[:1] if inputs.only_source else hops
        latents = run_trajectory(decoding.start, own, decoding.step, callback)[-1]
        masks = decoding.masks if inputs.blend is not None else None
        left = decoding.left if inputs.keep else None
        return Decoded(latents, masks, left, None if masks is None else decoding.maps)

    def _map_size(self, latents: np.ndarray) -> tuple[int, int]:
        """(h, w) of the word maps of latents [R, 4, h, w]."""
        height, width = (side // self._blend_downscale for side in latents.shape[2:])
        return height, width

    def _plain_step(self, inputs: DecodeInputs) -> Any:
        """Hops of independent rows: the standard UNet graph, and x_s = A x_t + B eps here."""

        def step(k: int, hop: Hop, x: np.ndarray) -> np.ndarray:
            prompts = inputs.prompts
            w = inputs.guidance[k]
            feeds = self._hop_inputs("unet", [hop] * len(x), x, w, prompts, prompts.features)
            eps = self._sessions["unet"](feeds | {"sample": x}, ["out_sample"])[0]
            return np.float32(hop.A) * x + np.float32(hop.B) * eps.astype(np.float32)

        return step

    def _hop_inputs(
        self,
        part: str,
        hops: Sequence[Hop],
        x: np.ndarray,
        w: Sequence[float],
        prompts: Prompts,
        features: np.ndarray,
    ) -> dict[str, Any]:
        """What every hop needs for each row: latents, A and B, time step, guidance embedding and
        prompt features. hops: of each row."""
        rows = len(x)
        added = {}
        if prompts.pooled is not None:  # without source rows, a batch's own rows are the last
            added = {POOLED: prompts.pooled[-rows:], "time_ids": np.tile(TIME_IDS, (rows, 1))}
        return added | {
            "latents": x,
            "hop_a": np.array([hop.A for hop in hops]),
            "hop_b": np.array([hop.B for hop in hops]),
            "timestep": np.array([hop.t for hop in hops]),
            "timestep_cond": guidance_embedding(w, self._guidance[part]),
            "encoder_hidden_states": features,
        }


def sessions_on(device: OnnxDevice) -> MakeSession:
    """What makes sessions on a device; graphs in ONNX name their weights themselves."""
    return lambda path, _data: GraphSession(path, device)


class GraphedOnnxRunner(OnnxRunner):
    """Hops replayed as CUDA graphs: each of the sizes used last has a session of its own.

    Their buffers are overwritten by the next call, so no source branch is kept and re-edits run
    source rows again.
    """

    name = "onnx-graph"
    warms_up = True
    keeps = False

    def __init__(self, bundle: Bundle, exported: Exported, device: OnnxDevice):
        super().__init__(bundle, exported, device.name, sessions_on(device))
        self._fixed = lru_cache(MOST_FIXED)(partial(self._fixed_session, device))

    def _fixed_session(
        self,
        device: OnnxDevice,
        name: str,
        axes: tuple[tuple[str, int], ...],
        outputs: tuple[str, ...],
    ) -> FixedSession:
        """For sizes of these axes."""
        path = self._sessions.paths[name]
        return FixedSession(path, device.with_cuda_graphs(), dict(axes), outputs)

    def free_memory(self) -> None:
        super().free_memory()
        self._fixed.cache_clear()

    def _run_hop(self, name: str, inputs: Mapping[str, Any], outputs: Sequence[str]) -> list[Any]:
        rows, _, height, width = inputs["latents"].shape
        axes = {"rows": rows, "height": height, "width": width}
        if "word_maps" in inputs:
            _, axes["targets"], axes["map_height"], axes["map_width"] = inputs["word_maps"].shape
        return self._fixed(name, tuple(axes.items()), tuple(outputs))(inputs, outputs)
