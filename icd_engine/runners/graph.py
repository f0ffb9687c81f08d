"""The graph runner: each stage of an edit is one CUDA graph, captured over compiled code and
replayed."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from icd_engine.errors import RunnerError
from icd_engine.placement import PLAIN, Placement
from icd_engine.runners.compiled import CompiledRunner
from icd_engine.runners.contract import Decoded, StepCallback
from icd_engine.runners.eager import DecodeTensors, Networks, SecondPrediction
from icd_engine.sampling.schedule import Hop

MOST_GRAPHS = 32


class Captured(NamedTuple):
    """A graph with the tensors it reads and writes; they stay where they are from replay to
    replay."""

    graph: torch.cuda.CUDAGraph
    inputs: list[Tensor]
    outputs: Any


class Graphs:
    """CUDA graphs of functions of tensors, captured when first called with a shape; the least
    recently used go.

    All share one memory pool and one stream, and run one at a time, so no two of them are ever
    alive in the pool at once. Results are copies: the next replay does not touch them.
    """

    def __init__(self, device: torch.device, most: int = MOST_GRAPHS):
        self.captures = 0  # how often a graph had to be captured
        self._most = most
        self._lock = threading.Lock()
        self._graphs: OrderedDict[Hashable, Captured] = OrderedDict()
        self._device = device
        self._stream = torch.cuda.Stream(device)
        self._pool = torch.cuda.graph_pool_handle()

    def clear(self) -> None:
        with self._lock:
            self._graphs.clear()

    def run(self, name: Hashable, function: Callable[..., Any], *arguments: Any) -> Any:
        """function(*arguments), from a graph. Arguments and results are tensors, in any nesting;
        `name` stands for the function, whatever else it depends on included."""
        tensors, structure = pytree.tree_flatten(arguments)
        key = (
            name,
            str(structure),
            *((t.shape, t.dtype) if isinstance(t, Tensor) else t for t in tensors),
        )
        caller = torch.cuda.current_stream(self._device)
        with self._lock, torch.cuda.device(self._device):
            self._stream.wait_stream(caller)
            with torch.cuda.stream(self._stream):
                captured = self._graphs.get(key)
                if captured is None:
                    captured = self._graphs[key] = self._capture(function, tensors, structure)
                    if len(self._graphs) > self._most:
                        self._graphs.popitem(last=False)
                self._graphs.move_to_end(key)
                for held, new in zip(captured.inputs, tensors, strict=True):
                    if isinstance(held, Tensor):
                        held.copy_(new, non_blocking=True)
                captured.graph.replay()
                results = pytree.tree_map_only(Tensor, torch.clone, captured.outputs)
            caller.wait_stream(self._stream)
        for result in pytree.tree_leaves(results):
            if isinstance(result, Tensor):
                result.record_stream(caller)  # made on our stream, used and freed on the caller's
        return results

    def _capture(
        self, function: Callable[..., Any], tensors: list[Any], structure: pytree.TreeSpec
    ) -> Captured:
        held = [
            t.clone(memory_format=torch.contiguous_format) if isinstance(t, Tensor) else t
            for t in tensors
        ]
        arguments = pytree.tree_unflatten(held, structure)
        for _ in range(2):  # compile, tune, and let libraries allocate what they keep
            function(*arguments)
        self._stream.synchronize()
        graph = torch.cuda.CUDAGraph()
        # thread_local: what other threads do on the device meanwhile is none of the capture's
        # business.
        with torch.cuda.graph(
            graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"
        ):
            outputs = function(*arguments)
        self.captures += 1
        return Captured(graph, held, outputs)


class GraphRunner(CompiledRunner):
    """CUDA only. Graphs: prompt encoder, VAE encoder, all encode hops, all decode hops with
    blending, VAE decoder.

    Prompts, seeds, guidance, edits and masks are inputs, so none of them captures anew; another
    picture size, another batch size or the first further edit of a kept inversion does. A callback
    must see the latents between hops: with one, hops run as compiled code. Networks that are not
    guidance-distilled predict twice on some hops only, which no fixed graph can: RunnerError, as
    without CUDA.
    """

    name = "graph"

    def __init__(self, networks: Networks, placement: Placement = PLAIN):
        device = networks.device
        if device.type != "cuda":
            raise RunnerError(f"runner 'graph' needs a CUDA device, not {device}")
        if networks.reverse.guidance_channels is None:
            raise RunnerError(
                "runner 'graph' needs a guidance-distilled network: use 'compiled' for this model"
            )
        if placement.offload:
            raise RunnerError(
                "runner 'graph' needs every network where it was captured: use 'compiled' to offload"
            )
        super().__init__(networks, placement)
        self._replay_by(Graphs(device))

    def _replay_by(self, graphs: Graphs) -> None:
        self.graphs = graphs
        self._to_moments = self._graphed("to_moments", self._to_moments)
        self._prompt_features = self._graphed("prompt", self._prompt_features)
        self._to_image = self._graphed("to_image", self._to_image)
        self._to_pixels = self._graphed("to_pixels", self._to_pixels)

    def free_memory(self) -> None:
        self.graphs.clear()
        super().free_memory()

    def _graphed(self, name: str, function: Callable) -> Callable:
        return lambda *tensors: self.graphs.run(name, function, *tensors)

    def _encode(
        self,
        latents: Tensor,
        prompt: Tensor,
        shifts: Sequence[Tensor],
        hops: Sequence[Hop],
        callback: StepCallback | None = None,
    ) -> Tensor:
        encode = super()._encode
        hops = tuple(hops)
        if callback is not None:
            return encode(latents, prompt, shifts, hops, callback)

        def run(latents: Tensor, prompt: Tensor, shifts: list[Tensor]) -> Tensor:
            return encode(latents, prompt, shifts, hops)

        return self.graphs.run(("encode", hops), run, latents, prompt, list(shifts))

    def _decode(
        self,
        inputs: DecodeTensors,
        hops: Sequence[Hop],
        keep: bool,
        callback: StepCallback | None = None,
        second: SecondPrediction | None = None,
    ) -> Decoded:
        decode = super()._decode
        hops = tuple(hops)
        if callback is not None:
            return decode(inputs, hops, keep, callback, second)

        def run(*tensors: Any) -> tuple:
            decoded = decode(DecodeTensors(*tensors), hops, keep)
            return decoded.latents, decoded.masks, decoded.source

        return Decoded(*self.graphs.run(("decode", hops, keep), run, *inputs))
