"""Where a model runs: checked where it is made, the same by every way in."""

from dataclasses import fields
from inspect import signature

import pytest

from icd_engine import Engine
from icd_engine.cli import options
from icd_engine.errors import RunnerError
from icd_engine.placement import DTYPES, PLAIN, RUNNERS, Placement


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"device": []}, r"^device must be a name, not \[\]$"),
        ({"dtype": "half"}, "^dtype must be one of auto, float32, float16, bfloat16, not 'half'$"),
        ({"runner": "fast"}, "^runner must be one of auto, eager, compiled, graph, onnx"),
        ({"weights": "both"}, "^weights must be one of fused, switch, not 'both'$"),
        ({"compile": "slow"}, "^compile must be one of cheap, aten, full, not 'slow'$"),
        ({"offload": 1}, "^offload must be True or False, not 1$"),
        ({"vae_tiling": "no"}, "^vae_tiling must be True or False, not 'no'$"),
    ],
    ids=lambda value: value if isinstance(value, str) else next(iter(value)),
)
def test_what_no_model_knows_is_refused(values, text):
    with pytest.raises(RunnerError, match=text):
        Placement(**values)


def test_every_known_name_is_taken():
    for dtype in DTYPES:
        assert Placement(dtype=dtype).dtype == dtype
    for runner in RUNNERS:
        assert Placement(runner=runner).runner == runner
    assert Placement(vae_tiling=None).vae_tiling is None


def test_from_pretrained_takes_its_fields_with_its_defaults():
    parameters = signature(Engine.from_pretrained).parameters
    given = {field.name: parameters[field.name].default for field in fields(Placement)}
    assert Placement(**given) == PLAIN


def test_commands_have_an_option_for_each_field():
    """In its place among the others, and one value for the command."""

    @options.placed
    def command(model: options.Model = "tiny", placement: options.Placed = PLAIN) -> None:
        seen.append((model, placement))

    seen: list[tuple[str, Placement]] = []
    names = [field.name for field in fields(Placement)]
    assert list(signature(command).parameters) == ["model", *names]
    command(model="other", **{name: getattr(PLAIN, name) for name in names} | {"offload": True})
    assert seen == [("other", Placement(offload=True))]
