"""Names of files: chains of time steps are found among whatever else is in them, and nothing else is
taken for one."""

from itertools import product

import pytest

from icd_engine.bundles.names import times_in

CHAINS = {
    "forward": ["19_259_519_779", "19-249-499-699", "19_339_699", "0_259_519_779", "19_500"],
    "reverse": ["259_519_779_999", "249-499-699-999", "339_699_999", "499_999", "60_999"],
}
# Around a chain; numbers of their own, versions and dates among them
AROUND = [
    "{}", "iCD-SD15-forward_{}", "x_{}_fp16", "{}.fp16", "{}-v2", "{} (1)", "SD15_{}", "sdxl-512_{}",
    "SD_512_{}", "SD1.5_{}", "sd15-{}", "v1.0_{}", "v0_{}", "2025-11-19_{}", "{}_2025-11-19", "20251119_{}", "{}_2",
    "epoch7-{}", "4steps_{}", "a b {} c", "é{}é", "{}_step", "20-30-40 {}",
]  # fmt: skip


@pytest.mark.parametrize("around", AROUND)
def test_a_chain_is_found_whatever_is_around_it(around):
    for role, chains in CHAINS.items():
        for chain in chains:
            steps = [int(t) for t in chain.replace("-", "_").split("_")]
            assert times_in(around.format(chain), role) == steps, chain
            other = "reverse" if role == "forward" else "forward"
            assert times_in(around.format(chain), other) is None, chain


@pytest.mark.parametrize(
    "name",
    [
        "forward_2025-11-19-20", "my-icd-forward-v1.0_500", "2024-11-19", "19-11-2024", "0-19",
        "19_20", "19-45-59", "0_59", "2025-11-19_20-30-00", "v0-100", "1.19-500", "19", "0", "999", "", "a",
        "19_519_259", "19_19_19", "999_999", "59_999", "19_1000", "190_259", "1_259",
        "00_259", "19.259.519", "500_1000_999", "0.19_500",
    ],
)  # fmt: skip
def test_what_is_no_chain(name):
    assert times_in(name, "forward") is None and times_in(name, "reverse") is None


def test_dates_and_times_of_day_are_no_chains():
    for a, b, c in product((0, 1, 11, 19, 20, 31, 59), repeat=3):
        for name in (
            f"2025-{a:02}-{b:02}",
            f"{a:02}-{b:02}-{c:02}",
            f"{a}_{b}_{c}",
            f"{a}-{b}_{c}",
        ):
            assert times_in(name, "forward") is None and times_in(name, "reverse") is None, name


def test_the_longest_chain_counts():
    assert times_in("19-500_19_259_519_779", "forward") == [19, 259, 519, 779]
    assert times_in("a_19_500_b_19_339_699", "forward") == [19, 339, 699]


def test_a_forward_chain_up_to_the_end_is_no_reverse_one():
    assert times_in("f_19_339_699_999", "forward") == [19, 339, 699, 999]
    assert times_in("f_19_339_699_999", "reverse") is None


def test_another_schedule_ends_elsewhere():
    assert times_in("400_799_1199", "reverse", end=1199) == [400, 799, 1199]
    assert times_in("19_400_1100", "forward", end=1199) == [19, 400, 1100]
    assert times_in("19_400_2025", "forward", end=1199) is None
    assert times_in("259_519_999", "reverse", end=1199) is None
    assert times_in("19_29_39", "forward", end=49) is None
