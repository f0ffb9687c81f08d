"""What the engine uses of torch.compile's private parts is there and means what it meant, and real
compiled code edits as the eager runner does.

The first tests are quick and compile nothing. A release of torch that breaks one of them breaks the
shortcut it names: mend `runners/inductor.py`, or end TESTED and the bound in pyproject.toml before
it.
"""

import tomllib
import warnings
from dataclasses import fields
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from icd_engine.editing.plan import EditStep
from icd_engine.networks.unet import UNet
from icd_engine.networks.vae import VAE
from icd_engine.runners import inductor
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


def compiled(network: Affine, shortcuts: bool = True):
    return inductor.compile_stage(network.predict, CPU, shortcuts=shortcuts, own_products=False)


# --- names and what they mean ---------------------------------------------------------------------


def test_settings_have_their_names_and_kinds():
    import torch._dynamo.config

    wanted = {torch._dynamo.config: inductor.LIMITS}
    wanted[torch._inductor.config] = {"freezing": True} | inductor.OWN_PRODUCTS
    for kind in inductor.OPTIONS.values():
        wanted[torch._inductor.config] |= kind["options"]
    for config, settings in wanted.items():
        for name, value in settings.items():
            before = getattr(config, name)
            assert type(before) is type(value), name
            with config.patch({name: value}):
                assert getattr(config, name) == value
            assert getattr(config, name) == before


def test_guards_are_named_as_the_filter_reads_them(traced, monkeypatch):
    from torch._dynamo.types import GuardFilterEntry

    assert {field.name: field.type for field in fields(GuardFilterEntry)}["name"] in (str, "str")
    seen = []

    def watched(guards):
        seen.extend(guard.name for guard in guards)
        return on_arguments(guards)

    on_arguments = inductor.on_arguments
    monkeypatch.setattr(inductor, "on_arguments", watched)
    compiled(Affine(2.0))(torch.ones(2, 3))
    assert any("._modules['layer']._parameters" in name for name in seen)
    assert "G['shifted']" in seen
    assert "x" in seen and not any("[" in name for name in seen if name.startswith("x"))


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


def test_the_process_keeps_no_choice_of_ours():
    from torch._inductor.ir import ChoiceCaller
    from torch._inductor.select_algorithm import get_algorithm_selector_cache

    cache = get_algorithm_selector_cache()
    before = list(cache.preprocessing_fns)
    with pytest.raises(ZeroDivisionError), inductor._products_written():
        assert cache.preprocessing_fns == [*before, inductor._own_product]
        raise ZeroDivisionError
    assert cache.preprocessing_fns == before
    assert get_algorithm_selector_cache() is cache
    assert ChoiceCaller("cpp_x", [], None, "").name == "cpp_x"


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
    # Were it to lack every setting and the guards' names, it would still compile.
    monkeypatch.setattr(inductor, "LIMITS", {"a_limit_of_old": 1})
    monkeypatch.setattr(inductor, "on_arguments", None)
    network = Affine(2.0)
    program = compiled(network, shortcuts=False)
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
def test_compiled_code_edits_as_the_eager_runner(dtype, monkeypatch):
    """In half precision it may be as far from float32 as the eager runner is."""
    written = []
    own = inductor._own_product

    def watched(choices):
        chosen = own(choices)
        written.extend(choice.name for choice in chosen)
        return chosen

    monkeypatch.setattr(inductor, "_own_product", watched)
    networks = smallest_networks(dtype)
    # A program from an earlier run's cache would have chosen its products then.
    with torch.compiler.config.patch(force_disable_caches=True):
        ours = edited(CompiledRunner(networks))
    theirs = edited(EagerRunner(networks))
    assert any(name.startswith("cpp_") for name in written)
    assert ours.source is not None and len(ours.source.latents) == 4
    if dtype == torch.float32:
        assert distance(ours, theirs) <= 1e-5
    else:
        exact = edited(EagerRunner(smallest_networks(torch.float32)))
        assert distance(ours, exact) <= 1.5 * distance(theirs, exact)
    torch.compiler.reset()
