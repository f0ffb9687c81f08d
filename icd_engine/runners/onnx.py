"""The onnxruntime runner: an exported bundle edits pictures where torch is not installed.

Tensors are numpy arrays.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from icd_engine.bundles.bundle import Bundle
from icd_engine.bundles.exported import Exported, ExportedGraph
from icd_engine.editing.plan import EditStep
from icd_engine.errors import BundleError, ImageError, RunnerError
from icd_engine.images import to_model_range, to_pil
from icd_engine.placement import PLAIN, Placement
from icd_engine.runners.contract import (
    TIME_IDS,
    Blend,
    Decoded,
    DecodeInputs,
    Prompts,
    SourceBranch,
    StepCallback,
)
from icd_engine.sampling.guidance import guidance_embedding
from icd_engine.sampling.schedule import Hop
from icd_engine.sampling.trajectory import run_trajectory

KEPT_PROMPTS = 256
MOST_FIXED = 4  # sizes of GraphedOnnxRunner, each with its own copy of a network's weights
DTYPES = {"fp32": "float32", "fp16": "float16"}
ARRAYS = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(int64)": np.int64,
    "tensor(bool)": np.bool_,
}
CUDA = "CUDAExecutionProvider"
# Read when the engine is made, so that a folder or a provider that does not work is known then.
AT_ONCE = ("vae_encoder", "vae_decoder", "encode_hop", "decode_hop")
LAST_STATE, POOLED = "last_hidden_state", "text_embeds"  # of the text encoders
# Outputs of decode_hop and inputs of further_hop: what source rows contribute to target rows
KEPT = "kept_"


class Place(NamedTuple):
    """Where graphs run: a device as onnxruntime names it, and the execution providers for it."""

    device: str  # "cpu" or "cuda"
    index: int
    providers: list[Any]


class Graph:
    """One ONNX graph in a session; may be called from several threads. axes: sizes that it is fixed
    to."""

    def __init__(self, path: Path, place: Place, axes: Mapping[str, int] | None = None):
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4  # what goes wrong is raised, and not printed as well
        for name, size in (axes or {}).items():
            options.add_free_dimension_override_by_name(name, size)
        try:
            self._session = onnxruntime.InferenceSession(
                str(path), options, providers=place.providers
            )
        except Exception as error:  # onnxruntime raises a dozen classes of its own
            raise BundleError(f"{path} cannot be loaded by onnxruntime: {_line(error)}") from None
        if place.device == "cuda" and CUDA not in self._session.get_providers():
            raise RunnerError(
                f"{CUDA} was asked for and did not load: onnxruntime fell back to the CPU"
            )
        self._path = path
        self._place = place
        self._types = {port.name: ARRAYS[port.type] for port in self._session.get_inputs()}
        self.kept = [
            port.name for port in self._session.get_outputs() if port.name.startswith(KEPT)
        ]

    def __call__(self, inputs: Mapping[str, Any], outputs: Sequence[str]) -> list[Any]:
        """Arrays in and out; `kept_*` go in and come out as values that stay on the device."""
        binding = self._session.io_binding()
        for name, kind in self._types.items():
            if name.startswith(KEPT):
                binding.bind_ortvalue_input(name, inputs[name])
            else:
                binding.bind_cpu_input(name, np.ascontiguousarray(inputs[name], dtype=kind))
        for name in outputs:
            stays = name.startswith(KEPT)
            binding.bind_output(
                name, self._place.device if stays else "cpu", self._place.index if stays else 0
            )
        try:
            self._session.run_with_iobinding(binding)
        except Exception as error:
            raise RunnerError(f"onnxruntime failed in {self._path.name}: {_line(error)}") from None
        values = binding.get_outputs()
        return [
            v if name.startswith(KEPT) else v.numpy()
            for name, v in zip(outputs, values, strict=True)
        ]


class FixedGraph(Graph):
    """A graph for inputs of fixed sizes, which with its outputs stay in the same buffers from call
    to call.

    That is what onnxruntime's CUDA graphs ask for. One call at a time; results are copies.
    """

    def __init__(self, path: Path, place: Place, axes: Mapping[str, int], outputs: Sequence[str]):
        super().__init__(path, place, axes)
        self._outputs = list(outputs)
        self._running = Lock()
        self._buffers: dict[str, Any] = {}
        self._binding = self._session.io_binding()

    def __call__(self, inputs: Mapping[str, Any], outputs: Sequence[str]) -> list[Any]:
        import onnxruntime

        place = (self._place.device, self._place.index)
        with self._running:
            for name, kind in self._types.items():
                array = np.ascontiguousarray(inputs[name], dtype=kind)
                if name in self._buffers:
                    self._buffers[name].update_inplace(array)
                else:
                    self._buffers[name] = onnxruntime.OrtValue.ortvalue_from_numpy(
                        array.copy(), *place
                    )
                    self._binding.bind_ortvalue_input(name, self._buffers[name])
            for port in self._session.get_outputs():
                if port.name in self._outputs and port.name not in self._buffers:
                    buffer = onnxruntime.OrtValue.ortvalue_from_shape_and_type(
                        port.shape, ARRAYS[port.type], *place
                    )
                    self._buffers[port.name] = buffer
                    self._binding.bind_ortvalue_output(port.name, buffer)
            try:
                self._session.run_with_iobinding(self._binding)
            except Exception as error:
                raise RunnerError(
                    f"onnxruntime failed in {self._path.name}: {_line(error)}"
                ) from None
            return [self._buffers[name].numpy().copy() for name in outputs]


class OnnxRunner:
    """Runs an exported bundle; latents are float32 between calls, whatever the precision of the
    graphs."""

    name = "onnx"
    torch_tensors = False
    warms_up = False
    reference = False
    keeps = True  # the source branch of a decoding, for further edits

    def __init__(self, bundle: Bundle, exported: Exported, place: Place):
        self.device = place.device if place.device == "cpu" else f"{place.device}:{place.index}"
        self.dtype = DTYPES[exported.precision]
        self._folder = bundle.path
        self._graphs = exported.graphs
        self._place = place
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
        self._loaded: dict[str, Graph] = {}
        self._loading = Lock()
        self._features = lru_cache(KEPT_PROMPTS)(self._encode_prompt)
        for name in (*encoders, *AT_ONCE):
            self._graph(name)

    def _graph(self, name: str) -> Graph:
        with self._loading:
            if name not in self._loaded:
                record: ExportedGraph = self._graphs[name]
                self._loaded[name] = Graph(self._folder / record.file, self._place)
            return self._loaded[name]

    def _run(self, name: str, inputs: Mapping[str, Any], outputs: Sequence[str]) -> list[Any]:
        """A hop."""
        return self._graph(name)(inputs, outputs)

    # --- tensors are arrays -----------------------------------------------------------------------

    def tensor(self, values: np.ndarray) -> np.ndarray:
        return values

    def join(self, tensors: Sequence[np.ndarray]) -> np.ndarray:
        return np.concatenate(tensors)

    def host(self, tensor: np.ndarray) -> np.ndarray:
        return tensor.copy()

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
            values = self._graph(part)({"input_ids": own}, outputs)
            states.append(values[0])
            pooled = values[1] if len(values) > 1 else None
        return np.concatenate(states, axis=-1), pooled

    def to_latents(self, pixels: np.ndarray, noise: np.ndarray | None = None) -> np.ndarray:
        height, width = pixels.shape[1:3]
        sample = np.concatenate(
            [to_model_range(Image.fromarray(picture), (width, height)) for picture in pixels]
        )
        moments = self._graph("vae_encoder")({"sample": sample}, ["latent_parameters"])[0]
        mean, log_variance = np.split(moments.astype(np.float32), 2, axis=1)
        return np.float32(self._scaling) * (
            mean if noise is None else mean + np.exp(0.5 * log_variance) * noise
        )

    def to_image(self, latents: np.ndarray) -> np.ndarray:
        unscaled = latents / np.float32(self._scaling)
        pictures = self._graph("vae_decoder")({"latent_sample": unscaled}, ["sample"])[0].astype(
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
    ) -> np.ndarray:
        def step(k: int, hop: Hop, x: np.ndarray) -> np.ndarray:
            inputs = self._hop("unet_forward", hop, x, [0.0] * len(x), prompts, prompts.features)
            return self._run("encode_hop", inputs, ["next_latents"])[0]

        return run_trajectory(latents, hops, step, callback)

    def decode(
        self, inputs: DecodeInputs, hops: Sequence[Hop], callback: StepCallback | None
    ) -> Decoded:
        if inputs.edits is None:
            return Decoded(run_trajectory(inputs.latents, hops, self._plain_step(inputs), callback))
        name = "decode_hop" if inputs.source is None else "further_hop"
        keep = self._graph(name).kept if inputs.keep and self.keeps else []
        blend = _whole_blend(inputs)
        sources = len(inputs.prompts) - len(inputs.edits[0].source_row)
        kept = SourceBranch([], [])
        masks = []
        height, width = (side // self._blend_downscale for side in inputs.latents.shape[2:])
        maps = np.zeros((2, len(blend.active), height, width), dtype=np.float32)

        def step(k: int, hop: Hop, x: np.ndarray) -> np.ndarray:
            nonlocal maps
            seen = inputs.hop_prompts[k] if inputs.hop_prompts else inputs.prompts
            feeds = self._hop("unet", hop, x, inputs.guidance[k], inputs.prompts, seen.features)
            feeds |= _edit(inputs.edits[k]) | {  # pyright: ignore[reportOptionalSubscript]
                "use_blend": blend.active,
                "user_mask": blend.user_mask,
                "word_maps": maps,
            }
            if inputs.source is not None:
                feeds["source_latents"] = inputs.source.latents[k]
                feeds |= {f"{KEPT}{i}": value for i, value in enumerate(inputs.source.features[k])}
            x, maps, mask, *features = self._run(
                name, feeds, ["next_latents", "next_word_maps", "mask", *keep]
            )
            masks.append(mask)
            if keep:
                kept.latents.append(x[:sources].copy())
                kept.features.append(features)
            return x

        latents = run_trajectory(inputs.latents, hops, step, callback)
        return Decoded(
            latents, np.stack(masks) if inputs.blend is not None else None, kept if keep else None
        )

    def _plain_step(self, inputs: DecodeInputs) -> Any:
        """Hops of independent rows: the standard UNet graph, and x_s = A x_t + B eps here."""

        def step(k: int, hop: Hop, x: np.ndarray) -> np.ndarray:
            feeds = self._hop(
                "unet", hop, x, inputs.guidance[k], inputs.prompts, inputs.prompts.features
            )
            eps = self._graph("unet")(feeds | {"sample": x}, ["out_sample"])[0]
            return np.float32(hop.A) * x + np.float32(hop.B) * eps.astype(np.float32)

        return step

    def _hop(
        self,
        part: str,
        hop: Hop,
        x: np.ndarray,
        w: Sequence[float],
        prompts: Prompts,
        features: np.ndarray,
    ) -> dict[str, Any]:
        """What every hop needs: latents, A and B, time step, guidance embedding and prompt features
        of the rows."""
        rows = len(x)
        added = {}
        if prompts.pooled is not None:  # without source rows, a batch's own rows are the last
            added = {POOLED: prompts.pooled[-rows:], "time_ids": np.tile(TIME_IDS, (rows, 1))}
        return added | {
            "latents": x,
            "hop_a": np.full(rows, hop.A),
            "hop_b": np.full(rows, hop.B),
            "timestep": np.full(rows, hop.t),
            "timestep_cond": guidance_embedding(w, self._guidance[part]),
            "encoder_hidden_states": features,
        }


class GraphedOnnxRunner(OnnxRunner):
    """Hops replayed as CUDA graphs: each of the sizes used last has a session of its own.

    Their buffers are overwritten by the next call, so no source branch is kept and further edits
    run source rows again.
    """

    name = "onnx-graph"
    warms_up = True
    keeps = False

    def __init__(self, bundle: Bundle, exported: Exported, place: Place):
        super().__init__(bundle, exported, place)
        self._fixed = lru_cache(MOST_FIXED)(self._fix)

    def free_memory(self) -> None:
        super().free_memory()
        self._fixed.cache_clear()

    def _run(self, name: str, inputs: Mapping[str, Any], outputs: Sequence[str]) -> list[Any]:
        rows, _, height, width = inputs["latents"].shape
        axes = {"rows": rows, "height": height, "width": width}
        if "word_maps" in inputs:
            _, axes["targets"], axes["map_height"], axes["map_width"] = inputs["word_maps"].shape
        return self._fixed(name, tuple(axes.items()), tuple(outputs))(inputs, outputs)

    def _fix(
        self, name: str, axes: tuple[tuple[str, int], ...], outputs: tuple[str, ...]
    ) -> FixedGraph:
        device, index, providers = self._place
        if device == "cuda":
            providers = [(CUDA, {"device_id": index, "enable_cuda_graph": "1"}), *providers[1:]]
        return FixedGraph(
            self._folder / self._graphs[name].file,
            Place(device, index, providers),
            dict(axes),
            outputs,
        )


def _edit(edit: EditStep) -> dict[str, Any]:
    """The step as graph inputs, without blend words if all zero."""
    nothing = np.zeros_like(edit.target_gain)
    return {name: nothing if value is None else value for name, value in edit._asdict().items()}


def _whole_blend(inputs: DecodeInputs) -> Blend:
    """Blending, if of nothing: rows without words and masks come back as they are."""
    assert inputs.edits is not None
    source_row = inputs.edits[0].source_row
    blend = inputs.blend or Blend(source_row, np.zeros(len(source_row), dtype=bool))
    if blend.user_mask is None:
        blend = blend._replace(
            user_mask=np.ones((len(source_row), *inputs.latents.shape[2:]), dtype=np.float32)
        )
    return blend


def load_onnx_runner(bundle: Bundle, placement: Placement = PLAIN) -> OnnxRunner:
    """The runner of an exported bundle. Raises BundleError, RunnerError."""
    exported = bundle.exported
    assert exported is not None
    runner = placement.runner
    dtype = placement.dtype
    if runner not in ("auto", "onnx", "onnx-graph"):
        raise RunnerError(
            f"an exported folder is run by onnxruntime: runner must be auto, onnx or onnx-graph, not {runner!r}"
        )
    if placement.weights != "fused" or placement.offload or placement.vae_tiling:
        raise RunnerError(
            "an exported folder has whole networks in one place: no weights, offload or vae_tiling"
        )
    if dtype not in ("auto", DTYPES[exported.precision]):
        raise RunnerError(
            f"this folder was exported in {DTYPES[exported.precision]} and cannot run in {dtype!r}"
        )
    place = choose_place(placement.device)
    if runner == "onnx-graph" and place.device != "cuda":
        raise RunnerError(
            "runner 'onnx-graph' replays CUDA graphs: it needs a CUDA device and onnxruntime-gpu"
        )
    return (GraphedOnnxRunner if runner == "onnx-graph" else OnnxRunner)(bundle, exported, place)


def choose_place(device: str) -> Place:
    """CUDA if onnxruntime has it, else the CPU, for "auto".

    RunnerError for what is unknown or not there.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise RunnerError(
            f"exported folders need onnxruntime (or onnxruntime-gpu): {_line(error)}"
        ) from None
    name, _, number = device.partition(":")
    if name not in ("auto", "cpu", "cuda") or (
        number and not (name == "cuda" and number.isdecimal())
    ):
        raise RunnerError(f"unknown device {device!r}: use auto, cpu, cuda or cuda:N")
    available = onnxruntime.get_available_providers()
    if name == "cuda" and CUDA not in available:
        raise RunnerError(
            f"device {device!r} was asked for, but this onnxruntime has only {', '.join(available)}"
        )
    if name == "cuda" or (name == "auto" and CUDA in available):
        index = int(number or 0)
        return Place("cuda", index, [(CUDA, {"device_id": index}), "CPUExecutionProvider"])
    return Place("cpu", 0, ["CPUExecutionProvider"])


def _line(error: Exception) -> str:
    """Its text in one line, without the library's own "[ONNXRuntimeError] : 1 : FAIL : " and places
    in its source."""
    text = re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ", "", " ".join(str(error).split()))
    return re.sub(r"/onnxruntime_src/\S+ [^()]*\([^()]*\) ", "", text)[:300]
