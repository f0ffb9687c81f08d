"""Plans against an independent brute force that edits attention maps token by token, in float64."""

from pathlib import Path

import numpy as np
import pytest

from icd_engine.editing.plan import make_plan
from icd_engine.editing.words import PromptTokenizer
from icd_engine.errors import PromptError
from icd_engine.settings import EditSettings

TOKENIZER = PromptTokenizer.from_folder(Path(__file__).parents[2] / "data" / "bpe_tokenizer")
N, QUERIES = 77, 5
CAT, DOG = "a cat sits on the mat", "a dog sits on the mat"
BIRD, LEGO = "a photo of a bird standing on a branch", "a photo of a lego bird standing on a branch"
ZEBRA = "a zebra sits on the mat"  # "zebra" has several tokens in the small vocabulary


def plan(source, target, steps=4, **settings):
    source, target = TOKENIZER.encode(source), TOKENIZER.encode(target)
    return make_plan(source, target, EditSettings(**settings), steps)


def random_maps(seed):
    logits = np.random.default_rng(seed).standard_normal((QUERIES, N))
    return np.exp(logits) / np.exp(logits).sum(1, keepdims=True)


def spans(tokens):
    """First and last token position of every word, the frame around them, counted from character
    offsets."""
    words, position, owned = [], 1, tokens.length - 1
    for word in tokens.text.split():
        size, start = 0, position
        while position < owned and size < len(word):
            size += tokens.offsets[position][1] - tokens.offsets[position][0]
            position += 1
        words.append(list(range(start, position)))
    return words


def replaced_maps(P_s, source, target):
    edited = np.zeros_like(P_s)
    edited[:, 0] = P_s[:, 0]
    for s, t in zip(spans(source), spans(target), strict=True):
        for number, j in enumerate(t):
            for q in range(QUERIES):
                edited[q, j] = (
                    P_s[q, s[number]] if len(s) == len(t) else sum(P_s[q, i] for i in s) / len(t)
                )
    for i, j in zip(range(source.length - 1, N), range(target.length - 1, N), strict=False):
        edited[:, j] = P_s[:, i]
    return edited


def refined_maps(P_s, P_t, source, target, inserted):
    """For a target that only inserts tokens: `inserted` are their positions."""
    edited, i = P_t.copy(), 0
    for j in range(target.length):
        if j not in inserted:
            edited[:, j] = P_s[:, i]
            i += 1
    edited[:, target.length :] = P_s[:, target.length :]
    return edited


def check(made, expected_maps, P_s, P_t, alphas):
    for k, alpha in enumerate(alphas):
        brute = np.stack([expected_maps[:, j] if alpha[j] else P_t[:, j] for j in range(N)], axis=1)
        closed = P_s @ made.source_mix[k].astype(np.float64) + P_t * made.target_gain[k].astype(
            np.float64
        )
        # Entries are at most 20 and rounded to float32 once; a row of a map sums to 1.
        np.testing.assert_allclose(closed, brute, atol=20 * np.finfo(np.float32).eps)


@pytest.mark.parametrize("target", [DOG, ZEBRA, CAT, "my zebra sat, on the table"])
@pytest.mark.parametrize(
    "amplify", [None, {"on": 3.0}, {"the": -2.0, "ON": 20.0}], ids=["plain", "one", "two"]
)
def test_replace_against_brute_force(target, amplify):
    x, y = TOKENIZER.encode(CAT), TOKENIZER.encode(target)
    P_s, P_t = random_maps(0), random_maps(1)
    expected = replaced_maps(P_s, x, y)
    for word, factor in (amplify or {}).items():
        for j in spans(y)[target.split().index(word.lower())]:
            expected[:, j] *= factor
    made = plan(CAT, target, control="replace", cross_replace=0.4, amplify=amplify)
    check(made, expected, P_s, P_t, [np.full(N, k < 2) for k in range(4)])


@pytest.mark.parametrize(
    "amplify", [None, {"lego": 4.0}, {"bird": 2.0}], ids=["plain", "new-word", "kept-word"]
)
def test_refine_against_brute_force(amplify):
    x, y = TOKENIZER.encode(BIRD), TOKENIZER.encode(LEGO)
    P_s, P_t = random_maps(2), random_maps(3)
    expected = refined_maps(P_s, P_t, x, y, spans(y)[4])
    for word, factor in (amplify or {}).items():
        expected[:, spans(y)[LEGO.split().index(word)]] *= factor
    made = plan(BIRD, LEGO, control="refine", cross_replace=0.6, amplify=amplify)
    check(made, expected, P_s, P_t, [np.full(N, k < 3) for k in range(4)])


def test_windows_per_word_against_brute_force():
    x, y = TOKENIZER.encode(CAT), TOKENIZER.encode(ZEBRA)
    P_s, P_t = random_maps(4), random_maps(5)
    alphas = np.array([[1] * N, [1] * N, [0] * N, [0] * N])
    alphas[:, spans(y)[1]] = np.array([0, 1, 1, 0])[:, None]
    alphas[:, spans(y)[5]] = 0
    windows = {"default": 0.4, "zebra": (0.2, 0.6), "mat": 0.0}
    made = plan(CAT, ZEBRA, control="replace", cross_replace=windows)
    check(made, replaced_maps(P_s, x, y), P_s, P_t, alphas)


@pytest.mark.parametrize(
    ("share", "cross", "self_"),
    [
        (0.2, 1, 0),
        (0.3, 1, 1),
        (0.4, 2, 1),
        (0.5, 2, 2),
        (0.6, 3, 2),
        (0.7, 3, 2),
        (0.8, 4, 3),
        (1, 4, 4),
        (0, 0, 0),
    ],
)
def test_shares_of_four_steps(share, cross, self_):
    made = plan(CAT, DOG, cross_replace=share, self_replace=share)
    assert [bool(d[0] == 0) for d in made.target_gain] == [k < cross for k in range(4)]
    assert made.share_self.tolist() == [k < self_ for k in range(4)]


def test_windows_of_four_steps():
    made = plan(CAT, DOG, cross_replace=(0.4, 0.8), self_replace=(0.25, 0.75))
    assert made.target_gain[:, 0].tolist() == [1, 1, 0, 0]
    assert made.share_self.tolist() == [False, True, True, False]


def test_shapes_and_types():
    made = plan(CAT, DOG, steps=3, cross_replace=1.0, blend=("cat", "dog"))
    assert (
        made.source_mix.shape == (3, N, N)
        and made.target_gain.shape == (3, N)
        and made.share_self.shape == (3,)
    )
    arrays = (made.source_mix, made.target_gain, made.blend_source, made.blend_target)
    assert all(array.dtype == np.float32 for array in arrays) and made.share_self.dtype == bool


@pytest.mark.parametrize("control", ["auto", "replace", "refine"])
def test_equal_prompts_are_the_identity_edit(control):
    made = plan(CAT, CAT, control=control, cross_replace={"default": 0.4, "cat": 0.8})
    for S, d in zip(made.source_mix, made.target_gain, strict=True):
        np.testing.assert_array_equal(S, np.diag(1 - d))
    assert made.target_gain[:, 1].tolist() == [0, 0, 1, 1] and made.target_gain[:, 2].tolist() == [
        0,
        0,
        0,
        0,
    ]


@pytest.mark.parametrize(
    ("source", "target", "same_as"), [(CAT, ZEBRA, "replace"), (BIRD, LEGO, "refine")]
)
def test_auto_goes_by_word_counts(source, target, same_as):
    auto = plan(source, target, control="auto", cross_replace=0.5)
    chosen = plan(source, target, control=same_as, cross_replace=0.5)
    np.testing.assert_array_equal(auto.source_mix, chosen.source_mix)
    np.testing.assert_array_equal(auto.target_gain, chosen.target_gain)


def test_control_none_leaves_only_the_blend():
    made = plan(
        BIRD,
        LEGO,
        control="none",
        cross_replace=1.0,
        self_replace=1.0,
        amplify={"lego": 3},
        blend=("of", "lego"),
    )
    assert not made.source_mix.any() and (made.target_gain == 1).all() and not made.share_self.any()
    assert np.flatnonzero(made.blend_source).tolist() == [3] and np.flatnonzero(
        made.blend_target
    ).tolist() == [5]


def test_blend_indicators():
    made = plan(BIRD, LEGO, blend="A")
    assert np.flatnonzero(made.blend_source).tolist() == [1, 4, 8]
    assert np.flatnonzero(made.blend_target).tolist() == [1, 4, 9]
    made = plan(CAT, DOG, blend=["mat", "the"])
    assert (
        np.flatnonzero(made.blend_source).tolist()
        == np.flatnonzero(made.blend_target).tolist()
        == [5, 6]
    )
    assert plan(CAT, DOG).blend_source is None and plan(CAT, DOG).blend_target is None


@pytest.mark.parametrize(
    ("settings", "word", "prompt"),
    [
        ({"amplify": {"cat": 2}}, "cat", DOG),
        ({"cross_replace": {"cat": 0.5}}, "cat", DOG),
        ({"blend": ("dog", "dog")}, "dog", CAT),
        ({"blend": ("cat", "cat")}, "cat", DOG),
        ({"amplify": {"cat": 2}, "control": "none"}, "cat", DOG),
    ],
    ids=["amplify", "window", "blend-source", "blend-target", "without-control"],
)
def test_absent_word_is_named_with_the_prompt(settings, word, prompt):
    with pytest.raises(PromptError, match=f"'{word}' does not occur in the prompt '{prompt}'"):
        plan(CAT, DOG, **settings)


def test_replace_needs_equal_word_counts():
    with pytest.raises(PromptError, match=r"9 words.*10: use 'refine'"):
        plan(BIRD, LEGO, control="replace")


@pytest.mark.filterwarnings("ignore:prompt is longer")
@pytest.mark.parametrize("control", ["auto", "replace", "refine", "none"])
@pytest.mark.parametrize(
    ("source", "target"),
    [
        ("cat " * 100, "zebra " * 100),
        ("zebra " * 100, "cat " * 100),
        ("", ""),
        ("x" * 500, "y"),
        ("🐶", "שלום"),
    ],
    ids=["cut-target", "cut-both", "empty", "one-long-word", "emoji"],
)
def test_plans_of_odd_prompts(source, target, control):
    made = plan(source, target, control=control, cross_replace=1.0, self_replace=0.5)
    assert np.isfinite(made.source_mix).all() and np.isfinite(made.target_gain).all()
    # A source token gives away no more attention than it has.
    assert (
        control == "refine" or (made.source_mix.sum(2) <= 1 + 77 * np.finfo(np.float32).eps).all()
    )
