"""What the engine uses of torch.compile's private parts is there and means what it meant, and real
compiled code edits as the eager runner does.

The first tests are quick and compile nothing. A release of torch that breaks one of them breaks the
shortcut it names: mend `runners/inductor.py`, or end TESTED and the bound in pyproject.toml before
it.
"""

import tomllib
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from icd_engine.editing.plan import EditStep
from icd_engine.networks.unet import UNet
from icd_engine.networks.vae import VAE
from icd_engine.placement import COMPILE
from icd_engine.runners import captures, inductor
from icd_engine.runners.compiled import CompiledRunner, can_compile
from icd_engine.runners.contract import Blend, Decoded, DecodeInputs
from icd_engine.runners.eager import EagerRunner
from icd_engine.runners.stages import TorchNetworks
from icd_engine.sampling.schedule import NoiseSchedule
from tests.conftest import UNET
from tests.conftest import VAE as VAE_CONFIG

ROOT = Path(__file__).parents[3]
CPU = torch.device("cpu")


class Affine(nn.Module):
    """A network of one layer, whose constant `factor` a program may hold."""

    def __init__(self, factor: float):
        super().__init__()
        self.layer = nn.Linear(3, 3)
        self.factor = factor

    def predict(self, x: Tensor) -> Tensor:
        return shifted(self.layer(x) * self.factor)


def shifted(x: Tensor) -> Tensor:
    return x + 1


@pytest.fixture
def traced(monkeypatch):
    """Dynamo's graphs run as they are: no C++ compiler is needed."""
    monkeypatch.setitem(inductor.OPTIONS, "cpu", {"backend": "eager"})
    yield
    torch.compiler.reset()


def compiled(network: Affine, shortcut: bool = True):
    return inductor.compile_stage(network.predict, CPU, shortcut=shortcut)


# --- names and what they mean ---------------------------------------------------------------------


def test_settings_have_their_names_and_kinds():
    import torch._dynamo.config

    wanted = {torch._dynamo.config: inductor.LIMITS}
    wanted[torch._inductor.config] = {"freezing": True}
    wanted[torch._inductor.config] |= inductor.OPTIONS["cpu"]["options"]
    for level in inductor.LEVELS.values():
        wanted[torch._inductor.config] |= level
    for config, settings in wanted.items():
        for name, value in settings.items():
            before = getattr(config, name)
            assert type(before) is type(value), name
            with config.patch({name: value}):
                assert getattr(config, name) == value
            assert getattr(config, name) == before


def test_arguments_are_guarded_and_networks_are_not(traced):
    network = Affine(2.0)
    program = compiled(network)
    for x in (torch.ones(2, 3), torch.ones(5, 3), torch.ones(3, 2).mT):
        assert torch.equal(program(x), network.predict(x))
    with torch.compiler.set_stance("fail_on_recompile"):
        network.layer.bias.requires_grad_(False)  # a guard on the network would ask for this
        program(torch.zeros(2, 3))
        with pytest.raises(RuntimeError, match=r"[Rr]ecompile"):
            program(torch.zeros(7, 3))


def test_programs_are_kept_by_code_object(traced):
    """So networks of one class, which no guard tells apart, keep to their own."""
    pair = [Affine(2.0), Affine(3.0)]
    programs = [compiled(network) for network in pair]
    for _ in range(2):
        for program, network in zip(programs, pair, strict=True):
            assert torch.equal(program(torch.ones(2, 3)), network.predict(torch.ones(2, 3)))


@pytest.mark.parametrize("level", inductor.LEVELS)
def test_levels_are_for_cuda_and_cudnn_searches_in_first_calls(level, monkeypatch):
    """Without CUDA: torch.compile is replaced by what looks at what it was asked for."""
    asked = []
    searched = []

    def compile_nothing(stage, *, options, **others):
        asked.append(options)
        return lambda x: searched.append(torch.backends.cudnn.benchmark)

    monkeypatch.setattr(torch, "compile", compile_nothing)
    for device in ("cuda", "cpu"):
        program = inductor.compile_stage(
            Affine(2.0).predict, torch.device(device), level, shortcut=True
        )
        for rows in (2, 2, 3):
            program(torch.ones(rows, 3))
    on_cuda, on_cpu = asked
    assert inductor.LEVELS[level].items() <= on_cuda.items()
    assert set(on_cpu) == {"cpp_wrapper", "guard_filter_fn"}
    first = level != "cheap"
    assert searched == [first, False, first, False, False, False]


def test_code_for_cuda_is_compiled_while_nobody_captures(monkeypatch):
    free = []

    def compile_nothing(stage, **options):
        return lambda x: free.append(taken_by_another_thread())

    def taken_by_another_thread() -> bool:
        with ThreadPoolExecutor(1) as other:
            got = other.submit(captures.LOCK.acquire, blocking=False).result()
            if got:
                other.submit(captures.LOCK.release).result()
            return got

    monkeypatch.setattr(torch, "compile", compile_nothing)
    for device in ("cuda", "cpu"):
        program = inductor.compile_stage(Affine(2.0).predict, torch.device(device), shortcut=True)
        for _ in range(2):
            program(torch.ones(2, 3))
    assert free == [False, True, True, True]


def test_placement_knows_the_levels():
    assert tuple(inductor.LEVELS) == COMPILE


# --- releases -------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["2.11.0", "2.12.1+cu130", "2.13.0a0+git1234"])
def test_tested_releases_are_used_in_full(version):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert inductor.is_tested(version)


@pytest.mark.parametrize("version", ["2.10.2", "2.14.0", "3.0.0.dev1"])
def test_another_release_is_told_once_and_does_without(version, traced, monkeypatch):
    with pytest.warns(UserWarning, match="was not tested") as told:
        assert not inductor.is_tested(version)
    assert len(told) == 1
    # Were it to lack every setting and the guards' filter, it would still compile.
    monkeypatch.setattr(inductor, "LIMITS", {"a_limit_of_old": 1})
    monkeypatch.setattr(inductor, "on_arguments", None)
    network = Affine(2.0)
    program = compiled(network, shortcut=False)
    for rows in (2, 5, 2):
        x = torch.ones(rows, 3)
        assert torch.equal(program(x), network.predict(x))


def test_the_bound_of_the_package_is_what_was_tested():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    bound = next(line for line in project["dependencies"] if line.startswith("torch>"))
    first, last = inductor.TESTED
    major, minor = last.split(".")
    assert bound == f"torch>={first},<{major}.{int(minor) + 1}"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert inductor.is_tested()  # the torch that is installed


# --- real code ------------------------------------------------------------------------------------

# Text attention at the highest level and in the middle: every kind of block, and word maps.
SMALLEST = UNET | {
    "block_out_channels": [32],
    "down_block_types": ["CrossAttnDownBlock2D"],
    "up_block_types": ["UpBlock2D"],
}
TOKENS = 8


class NoText(nn.Module):
    """Prompt features by token id, without an encoder."""

    def encode(self, ids: Tensor) -> tuple[Tensor, None]:
        generator = torch.Generator().manual_seed(int(ids.sum()))
        return torch.randn(*ids.shape, UNET["cross_attention_dim"], generator=generator), None


def smallest_networks(dtype: torch.dtype) -> TorchNetworks:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        unet = UNet(SMALLEST, blend_downscale=1, share_downscale=1)
        vae = VAE(VAE_CONFIG)
    unet, vae = (network.eval().requires_grad_(False).to(dtype) for network in (unet, vae))
    return TorchNetworks(NoText(), vae, unet, unet)


def edited(runner: EagerRunner) -> Decoded:
    """One source and one target under an edit that does something everywhere."""
    generator = torch.Generator().manual_seed(1)
    latents = torch.randn(1, 4, 8, 8, generator=generator).expand(2, -1, -1, -1).contiguous()
    prompts = runner.encode_prompts([range(TOKENS), range(1, TOKENS + 1)])
    mix = torch.rand(1, TOKENS, TOKENS, generator=generator) / TOKENS
    gain, *words = torch.rand(3, 1, TOKENS, generator=generator)
    row = torch.tensor([0])
    steps = [EditStep(row, mix, gain, torch.tensor([True]), *words)] * 4
    mask = torch.rand(1, 8, 8, generator=generator)
    inputs = DecodeInputs(
        latents,
        prompts,
        [[0.0, 5.0]] * 4,
        edits=steps,
        blend=[Blend(row, torch.tensor([False]), mask)] * 4,
        keep=True,
    )
    return runner.decode(inputs, NoiseSchedule.scaled_linear().decode_hops(), None)


def distance(ours: Decoded, theirs: Decoded) -> float:
    return float((ours.latents - theirs.latents).norm() / theirs.latents.norm())


@pytest.mark.skipif(not can_compile(CPU), reason="no C++ compiler")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.filterwarnings("ignore:dynamo_pgo")
def test_compiled_code_edits_as_the_eager_runner(dtype):
    """In half precision it may be as far from float32 as the eager runner is."""
    networks = smallest_networks(dtype)
    ours = edited(CompiledRunner(networks))
    theirs = edited(EagerRunner(networks))
    assert ours.source is not None and len(ours.source.latents) == 4
    if dtype == torch.float32:
        assert distance(ours, theirs) <= 1e-5
    else:
        exact = edited(EagerRunner(smallest_networks(torch.float32)))
        assert distance(ours, exact) <= 1.5 * distance(theirs, exact)
    torch.compiler.reset()
