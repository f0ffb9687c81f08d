"""Time steps of published files: given, read from names, assumed, and refused where they contradict."""

from pathlib import Path

import pytest

from icd_engine.bundles.times import choose_times
from icd_engine.errors import BundleError

NAMES = {
    "4 steps, chain A": ("forward_19_259_519_779", "reverse_259_519_779_999"),
    "4 steps, chain B": ("forward-19-249-499-699", "reverse-249-499-699-999"),
    "3 steps": ("iCD-SD15-forward_19_339_699", "iCD-SD15-reverse_339_699_999"),
    "3 + 4": ("forward_19_339_699", "reverse_259_519_779_999"),
    "from zero": ("forward_0_259_519_779", "reverse_259_519_779_999"),
}


@pytest.mark.parametrize("case", NAMES)
def test_time_steps_are_read_from_names(case):
    forward, reverse = NAMES[case]
    encode, decode, notes = choose_times(
        Path(f"{forward}.safetensors"), Path(f"{reverse}.safetensors"), None, None
    )
    assert "_".join(map(str, encode)) in forward.replace("-", "_")
    assert "_".join(map(str, decode)) in reverse.replace("-", "_")
    assert notes == [
        f"encode times {encode} read from the name of {forward}.safetensors",
        f"decode times {decode} read from the name of {reverse}.safetensors",
    ]


@pytest.mark.parametrize(
    ("forward", "reverse", "encode", "decode", "expected"),
    [
        ("f", "r", None, None, ([19, 259, 519, 779], [259, 519, 779, 999])),
        ("f", "r", [19, 339, 699], [339, 699, 999], ([19, 339, 699], [339, 699, 999])),
        ("f", "r", None, [339, 699, 999], ([19, 339, 699], [339, 699, 999])),
        ("f_19_339_699", "r", None, None, ([19, 339, 699], [339, 699, 999])),
        ("f_19_339_699_999", "r", None, None, ([19, 339, 699], [339, 699, 999])),
        ("f_19_259_519_779", "r_259_519_779_999", (19, 259, 519, 779), (259, 519, 779, 999), None),
        (
            # Inverse-and-Edit's own name, which does not say that it starts at 0
            "finetuned_forward_model",
            "iCD-SD15-reverse_259_519_779_999",
            [0, 259, 519, 779],
            None,
            ([0, 259, 519, 779], [259, 519, 779, 999]),
        ),
        ("f_19_339_699", "r", [19, 259, 519, 779], None, None),
        ("f", "r_339_699_999", None, [259, 519, 779, 999], None),
        ("f_259_519_779_999", "r", [19, 259, 519, 779], None, None),
        ("f", "r_19_339_699", None, [259, 519, 779, 999], None),
        ("model-2024-11-23", "run-3-1-2", None, None, ([19, 259, 519, 779], [259, 519, 779, 999])),
    ],
    ids=[
        "chain A",
        "arguments",
        "from decode",
        "from name",
        "name with end",
        "both agree",
        "zero",
        "over the forward name",
        "over the reverse name",
        "over the other's forward name",
        "over the other's reverse name",
        "other numbers",
    ],
)
def test_time_steps_that_names_do_not_carry(forward, reverse, encode, decode, expected):
    found = choose_times(
        Path(f"{forward}.safetensors"), Path(f"{reverse}.safetensors"), encode, decode
    )
    assert found[:2] == (expected or ([19, 259, 519, 779], [259, 519, 779, 999]))


@pytest.mark.parametrize(
    ("forward", "reverse", "encode", "decode", "message"),
    [
        ("f_339_699_999", "r", None, None, "is given as the forward model"),
        ("f", "r_19_339_699", None, None, "is given as the reverse model"),
        ("f", "r", [519, 259], None, "encode times must ascend"),
        ("f", "r", None, [], "decode times must ascend"),
        ("f", "r", [19, 999], [259, 999], "must end below 999"),
    ],
    ids=[
        "swapped forward",
        "swapped reverse",
        "descending",
        "empty",
        "end",
    ],
)
def test_time_steps_that_contradict(forward, reverse, encode, decode, message):
    with pytest.raises(BundleError, match=message):
        choose_times(Path(f"{forward}.safetensors"), Path(f"{reverse}.safetensors"), encode, decode)


def test_a_name_that_is_overruled_is_noted():
    _, _, notes = choose_times(
        Path("f_19_339_699.safetensors"), Path("r"), [19, 259, 519, 779], [259, 519, 779, 999]
    )
    assert notes == [
        "encode times given: [19, 259, 519, 779], "
        "the name of f_19_339_699.safetensors says [19, 339, 699]"
    ]


def test_another_schedule_ends_elsewhere():
    encode, decode, _ = choose_times(Path("f"), Path("r"), [19, 400, 799], None, end=1199)
    assert (encode, decode) == ([19, 400, 799], [400, 799, 1199])
