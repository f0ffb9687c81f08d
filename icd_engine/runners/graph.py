"""The graph runner: each stage of an edit is one CUDA graph, captured over compiled code and
replayed."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from icd_engine.errors import RunnerError
from icd_engine.networks.unet import UNetOutput
from icd_engine.placement import PLAIN, Placement
from icd_engine.runners import captures
from icd_engine.runners.compiled import CompiledRunner
from icd_engine.runners.contract import Decoded, Prompts, StepCallback
from icd_engine.runners.hops import DecodeTensors, SecondPrediction
from icd_engine.runners.nested import layout
from icd_engine.runners.packing import Packing
from icd_engine.runners.stages import Stages, TorchNetworks
from icd_engine.sampling.schedule import Hop

MOST_GRAPHS = 32


class Captured(NamedTuple):
    """A graph with the tensors it reads and writes; they stay where they are from replay to
    replay."""

    graph: torch.cuda.CUDAGraph
    inputs: Packing
    outputs: Packing


class Graphs:
    """CUDA graphs of functions of tensors, captured when first called with a shape; the least
    recently used go.

    All share one memory pool and one stream, and run one at a time, so no two of them are ever
    alive in the pool at once. Results are copies, made in one piece: the next replay does not touch
    them. Where a capture fails, functions are called as they are from then on.
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
            self._clear()

    def _clear(self) -> None:
        self._stream.synchronize()
        self._graphs.clear()
        # torch 2.11 takes no new graphs into a pool whose graphs are all gone
        self._pool = torch.cuda.graph_pool_handle()

    def replay(self, name: Hashable, function: Callable[..., Any], *arguments: Any) -> Any:
        """function(*arguments), from a graph. Arguments and results are tensors, in any nesting;
        `name` stands for the function, whatever else it depends on included."""
        key = (name, layout(arguments, strides=False))
        with self._lock, torch.cuda.device(self._device):
            captured = self._graphs.get(key) or self._captured(key, function, arguments)
            if captured is not None:
                self._graphs.move_to_end(key)
                return self._replayed(captured, arguments)
        return function(*arguments)

    def _replayed(self, captured: Captured, arguments: tuple[Any, ...]) -> Any:
        caller = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(caller)
        with torch.cuda.stream(self._stream):
            captured.inputs.write(arguments)
            captured.graph.replay()
            results = [flat.clone() for flat in captured.outputs.flats]
        caller.wait_stream(self._stream)
        for result in results:
            result.record_stream(caller)  # made on our stream, used and freed on the caller's
        return captured.outputs.read(results, later=True)

    def _captured(
        self, key: Hashable, function: Callable[..., Any], arguments: tuple[Any, ...]
    ) -> Captured | None:
        """The graph of a function, captured now; None where graphs cannot be captured."""
        if captures.FAILED.cause:
            return None
        self._stream.wait_stream(torch.cuda.current_stream(self._device))
        with captures.LOCK, torch.cuda.stream(self._stream):
            inputs = Packing(arguments)
            inputs.write(arguments)
            held = inputs.read(inputs.flats)
            # Twice: compile, tune, and let libraries allocate what they keep
            outputs = Packing(function(*held))
            outputs.write(function(*held))
            self._stream.synchronize()
            try:
                graph = self._record(lambda: outputs.write(function(*held)))
                captured = self._graphs[key] = Captured(graph, inputs, outputs)
            except Exception as error:
                captures.FAILED.note(error)
                captured = None
        if captured is None:
            self._clear()
            captures.hand_back_memory()
        elif len(self._graphs) > self._most:
            self._graphs.popitem(last=False)
        return captured

    def _record(self, work: Callable[[], None]) -> torch.cuda.CUDAGraph:
        graph = torch.cuda.CUDAGraph()
        # thread_local: what other threads launch on the device meanwhile is none of the capture's
        # business.
        with torch.cuda.graph(
            graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"
        ):
            work()
        self.captures += 1
        return graph


def graphed_stages(stages: Stages, graphs: Graphs) -> Stages:
    """The stages from graphs, the hops of a loop in one. With a callback, which must see the
    latents between hops, a loop runs as it was."""

    def replayed(name: str) -> Callable[..., Any]:
        stage = getattr(stages, name)
        return lambda *tensors: graphs.replay(name, stage, *tensors)

    def encode(
        network: Callable[..., UNetOutput],
        latents: Tensor,
        prompt: Tensor,
        shifts: Sequence[Tensor],
        hops: Sequence[Hop],
        callback: StepCallback | None = None,
    ) -> list[Tensor]:
        hops = tuple(hops)
        if callback is not None:
            return stages.encode(network, latents, prompt, shifts, hops, callback)

        def all_hops(latents: Tensor, prompt: Tensor, shifts: list[Tensor]) -> list[Tensor]:
            return stages.encode(network, latents, prompt, shifts, hops)

        return graphs.replay(("encode", hops), all_hops, latents, prompt, list(shifts))

    def decode(
        network: Callable[..., UNetOutput],
        inputs: DecodeTensors,
        hops: Sequence[Hop],
        keep: bool,
        callback: StepCallback | None = None,
        second: SecondPrediction | None = None,
    ) -> Decoded:
        hops = tuple(hops)
        if callback is not None:
            return stages.decode(network, inputs, hops, keep, callback, second)

        def all_hops(*tensors: Any) -> tuple:
            decoded = stages.decode(network, DecodeTensors(*tensors), hops, keep)
            return decoded.latents, decoded.masks, decoded.source, decoded.maps

        return Decoded(*graphs.replay(("decode", hops, keep), all_hops, *inputs))

    single = ("prompt_features", "decode_features", "to_moments", "to_image", "to_pixels")
    return stages._replace(
        **{name: replayed(name) for name in single}, encode=encode, decode=decode
    )


class GraphRunner(CompiledRunner):
    """CUDA only. Graphs: prompt encoder, VAE encoder, all encode hops, all decode hops with
    blending, VAE decoder.

    Prompts, seeds, guidance, edits and masks are inputs, so none of them captures anew; another
    picture size, another batch size or the first re-edit of a kept inversion does. A callback must
    see the latents between hops: with one, hops run as compiled code. Networks that are not
    guidance-distilled predict twice on some hops only, which no fixed graph can: RunnerError, as
    without CUDA.
    """

    name = "graph"
    prompts_a_pass = 2  # an edit's: what a pass takes is launches, for one as for two

    def __init__(self, networks: TorchNetworks, placement: Placement = PLAIN):
        device = networks.device
        if device.type != "cuda":
            raise RunnerError(f"runner 'graph' needs a CUDA device, not {device}")
        if networks.decode_network.guidance_channels is None:
            raise RunnerError(
                "runner 'graph' needs a guidance-distilled network: use 'compiled' for this model"
            )
        if placement.offload:
            raise RunnerError(
                "runner 'graph' needs every network where it was captured: use 'compiled' to offload"
            )
        self.graphs = Graphs(device)
        super().__init__(networks, placement)

    def _make_stages(self, networks: TorchNetworks) -> Stages:
        return graphed_stages(super()._make_stages(networks), self.graphs)

    def encode_prompts(self, ids: Sequence[Sequence[int]]) -> Prompts:
        """And what the decode network makes of them, while the device has nothing else to do yet."""
        prompts = super().encode_prompts(ids)
        with torch.no_grad():
            for own in prompts.ids:
                self._values((self.decode_network, own))
        return prompts

    def free_memory(self) -> None:
        self.graphs.clear()
        super().free_memory()
