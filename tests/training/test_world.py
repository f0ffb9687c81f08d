"""The procedural world: exact edits, readable captions, antialiased drawing, and the files the
command writes."""

import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from training import world
from training.world import Scene, draw, draw_batch, parse_caption, sample_pairs, sample_scene


def scenes(n: int, seed: int = 0) -> list[Scene]:
    rng = np.random.default_rng(seed)
    return [sample_scene(rng) for _ in range(n)]


PLAIN = Scene(
    size="large",
    color="white",
    shape="circle",
    texture="plain",
    background="black",
    x=64.0,
    y=64.0,
    radius_jitter=0.0,
    rotation=0.0,
    color_jitter=(0.0, 0.0, 0.0),
    background_jitter=(0.0, 0.0, 0.0),
    phase=(0.13, 0.37),
)


def covered(scene: Scene) -> np.ndarray:
    """Share of each pixel that the object covers, [128, 128], told from a white drawing of it on
    black."""
    hidden = {"color_jitter": PLAIN.color_jitter, "background_jitter": PLAIN.background_jitter}
    black_and_white = replace(scene, color="white", background="black", texture="plain", **hidden)
    white, black = world.COLORS["white"][0][0], world.COLORS["black"][1][0]
    return (draw(black_and_white)[..., 0].astype(float) - black) / (white - black)


def grown(region: np.ndarray) -> np.ndarray:
    """A region and its neighbours: coverage below half a level of 255 is not seen in the
    drawing."""
    padded = np.pad(region, 1)
    return np.lib.stride_tricks.sliding_window_view(padded, (3, 3)).max((-2, -1))


def test_same_seed_gives_the_same_scenes_and_pictures() -> None:
    assert scenes(20, seed=3) == scenes(20, seed=3)
    assert scenes(20, seed=3) != scenes(20, seed=4)
    np.testing.assert_array_equal(
        draw_batch(scenes(20)), np.stack([draw(scene) for scene in scenes(20)])
    )


def test_pictures_are_uint8_128_by_128() -> None:
    pictures = draw_batch(scenes(3))
    assert pictures.shape == (3, 128, 128, 3) and pictures.dtype == np.uint8
    assert draw_batch([]).shape == (0, 128, 128, 3)


def test_every_word_is_drawn_and_captions_parse_back() -> None:
    seen = {kind: set() for kind in world.WORDS}
    for scene in scenes(400):
        words = parse_caption(scene.caption)
        assert words == {kind: getattr(scene, kind) for kind in world.WORDS}
        assert words["color"] != words["background"]
        for kind, word in words.items():
            seen[kind].add(word)
    assert seen == {kind: set(words) for kind, words in world.WORDS.items()}


def test_caption_is_the_agreed_sentence() -> None:
    assert PLAIN.caption == "a large white circle on a plain black background"


@pytest.mark.parametrize(
    "caption", ["a small red circle", "a small red dog on a plain blue background", ""]
)
def test_foreign_captions_are_refused(caption: str) -> None:
    with pytest.raises(ValueError, match="not a caption"):
        parse_caption(caption)


@pytest.mark.parametrize("kind", list(world.WORDS))
def test_an_edit_changes_one_word_and_nothing_hidden(kind: str) -> None:
    for scene in scenes(30):
        for word in scene.alternatives(kind):
            edited = scene.edited(kind, word)
            changed = {
                name for name in vars(scene) if getattr(scene, name) != getattr(edited, name)
            }
            assert changed == {kind}
            assert edited.edited(kind, getattr(scene, kind)) == scene


def test_impossible_edits_are_refused() -> None:
    with pytest.raises(ValueError, match="unknown shape 'dog'"):
        PLAIN.edited("shape", "dog")
    with pytest.raises(ValueError, match="unknown kind 'x'"):
        PLAIN.edited("x", "red")
    with pytest.raises(ValueError, match="cannot be seen"):
        PLAIN.edited("color", "black")


@pytest.mark.parametrize("kind", ["color", "background", "texture", "shape", "size"])
def test_pixels_an_edit_does_not_touch_are_equal_to_the_last_bit(kind: str) -> None:
    for scene in scenes(40, seed=1):
        edited = scene.edited(kind, scene.alternatives(kind)[0])
        equal = (draw(scene) == draw(edited)).all(-1)
        if kind in ("background", "texture"):
            untouched = ~grown(covered(scene) < 1)
        else:
            untouched = ~grown((covered(scene) > 0) | (covered(edited) > 0))
        assert untouched.sum() > 500
        assert equal[untouched].all()


@pytest.mark.parametrize("shape", list(world.SHAPES))
def test_objects_keep_the_margin_in_every_rotation_and_size(shape: str) -> None:
    inner = np.zeros((128, 128), bool)
    inner[4:-4, 4:-4] = True
    for scene in scenes(60, seed=2):
        assert not covered(scene.edited("shape", shape).edited("size", "large"))[~inner].any()


@pytest.mark.parametrize("shape", list(world.SHAPES))
@pytest.mark.parametrize("rotation", [0.0, 17.0, -25.0])
def test_reach_bounds_the_shape_and_areas_are_alike(shape: str, rotation: float) -> None:
    """Area within 10 % of 2.55 r^2 for r = 36: a word of size means the same for all shapes."""
    coverage = covered(replace(PLAIN, shape=shape, rotation=rotation))
    rows, columns = np.nonzero(coverage)
    assert np.hypot(rows + 0.5 - 64, columns + 0.5 - 64).max() < world.REACH * 36 + 1
    assert coverage.sum() / 36**2 == pytest.approx(2.55, rel=0.1)


def test_circle_edges_carry_the_exact_area() -> None:
    """Antialiasing: partly covered pixels line the edge, and the area is pi r^2 at any subpixel
    position."""
    radius = 0.94 * 36
    for offset in (0.0, 0.25, 0.6):
        coverage = covered(replace(PLAIN, x=64 + offset, y=64 - offset / 2))
        partial = (coverage > 0.02) & (coverage < 0.98)
        assert 0.5 * 2 * np.pi * radius < partial.sum() < 2 * 2 * np.pi * radius
        assert coverage.sum() == pytest.approx(np.pi * radius**2, rel=1e-3)


@pytest.mark.parametrize("texture", ["striped", "checkered", "dotted"])
def test_textures_show_two_shades_with_soft_edges_and_move_with_their_phase(texture: str) -> None:
    picture = draw(replace(PLAIN, texture=texture))
    corner = picture[:24, :24, 0].astype(int)
    dark, light = corner.min(), corner.max()
    assert light - dark == pytest.approx(world.TEXTURE_CONTRAST * 255, abs=1)
    assert ((corner > dark + 2) & (corner < light - 2)).any()
    assert (picture[:24] != draw(replace(PLAIN, texture=texture, phase=(0.63, 0.37)))[:24]).any()


def test_change_mask_is_the_changed_pixels_grown_by_three() -> None:
    picture = np.full((20, 20, 3), 100, np.uint8)
    truth = picture.copy()
    truth[10, 5, 1] = 109
    truth[0, 19, 2] = 91
    truth[15, 15] = 108
    expected = np.zeros((20, 20), bool)
    expected[7:14, 2:9] = True
    expected[:4, 16:] = True
    np.testing.assert_array_equal(world.change_mask(picture, truth), expected)


def test_pairs_cycle_through_kinds_and_are_exact() -> None:
    pairs = sample_pairs(8, seed=5, kinds=("color", "shape", "texture"))
    assert [pair.kind for pair in pairs[:4]] == ["color", "shape", "texture", "color"]
    for pair in pairs:
        source, target = parse_caption(pair.source), parse_caption(pair.target)
        assert [kind for kind in source if source[kind] != target[kind]] == [pair.kind]
        np.testing.assert_array_equal(pair.mask, world.change_mask(pair.picture, pair.truth))
        difference = np.abs(pair.picture.astype(int) - pair.truth).max(-1)
        assert pair.mask.any() and difference[~pair.mask].max(initial=0) <= world.CHANGE_THRESHOLD


def test_command_writes_pairs_json_with_its_pictures_and_repeats_itself(tmp_path, capsys) -> None:
    for name in ("one", "two"):
        world.main(["--pairs", "4", "--seed", "7", "--out", str(tmp_path / name)])
    assert capsys.readouterr().out.splitlines()[0] == str(tmp_path / "one" / "pairs.json")
    entries = json.loads((tmp_path / "one" / "pairs.json").read_text())
    assert [entry["kind"] for entry in entries] == ["color", "background", "shape", "color"]
    for entry, pair in zip(entries, sample_pairs(4, seed=7), strict=True):
        assert set(entry) == {"picture", "truth", "mask", "source", "target", "kind"}
        assert (entry["source"], entry["target"]) == (pair.source, pair.target)
        for name in ("picture", "truth"):
            np.testing.assert_array_equal(
                np.asarray(Image.open(tmp_path / "one" / entry[name])), getattr(pair, name)
            )
        np.testing.assert_array_equal(
            np.asarray(Image.open(tmp_path / "one" / entry["mask"])), pair.mask * np.uint8(255)
        )
    files = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert len(files) == 13
    assert all(
        (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
        for name in files
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "nothing to do"),
        (["--pairs", "4"], "--out"),
        (["--pairs", "0", "--out", "x"], "above 0"),
        (["--pairs", "4", "--out", "x", "--kinds", "color,mood"], "unknown kind 'mood'"),
    ],
    ids=["nothing", "no-out", "no-pairs", "unknown-kind"],
)
def test_command_refuses_with_one_line(arguments: list[str], message: str, capsys) -> None:
    with pytest.raises(SystemExit) as exit:
        world.main(arguments)
    assert exit.value.code == 2 and message in capsys.readouterr().err.splitlines()[-1]


def test_contact_sheet_is_written(tmp_path) -> None:
    world.main(["--sheet", str(tmp_path / "sheet.png")])
    assert Image.open(tmp_path / "sheet.png").size == (6 * 148, 8 * 164)
