"""PIE-Bench and CSV suites read as they are published."""

import json

import numpy as np
import pytest
from PIL import Image

from benchmarks.evaluation import suites
from benchmarks.evaluation.suites import Edited
from icd_engine.errors import ImageError, SettingsError

ENTRY = {
    "image_path": "0_random/000.png",
    "original_prompt": "a [cat] sitting on a wooden chair",
    "editing_prompt": "a [dog] sitting on a wooden chair",
    "editing_instruction": "change the cat into a dog",
    "editing_type_id": "1",
    "blended_word": "cat dog",
    "mask": [512 * 10 + 20, 5, 512 * 11 + 20, 3],
}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "annotation_images" / "0_random").mkdir(parents=True)
    Image.new("RGB", (512, 512), "red").save(
        tmp_path / "annotation_images" / "0_random" / "000.png"
    )
    (tmp_path / "mapping_file.json").write_text(json.dumps({"000000000000": ENTRY}))
    return tmp_path


def test_pie_bench(folder):
    (item,) = suites.pie(folder)
    assert (item.name, item.kind) == ("000000000000", "change object")
    assert (
        item.source == "a cat sitting on a wooden chair"
        and item.target == "a dog sitting on a wooden chair"
    )
    assert item.instruction == "change the cat into a dog"
    assert item.picture().shape == (512, 512, 3) and item.picture()[0, 0].tolist() == [255, 0, 0]
    inner = item.mask[1:-1, 1:-1]
    assert (
        inner.sum() == 8
        and item.mask[10, 20:25].all()
        and item.mask[11, 20:23].all()
        and not item.mask[11, 23]
    )
    assert item.mask[0].all() and item.mask[:, -1].all()  # the border counts as masked


@pytest.mark.parametrize("runs", [[0], [512 * 512, 1], [-1, 2], [5, -6]], ids=str)
def test_runs_that_are_no_mask_are_refused(runs):
    with pytest.raises(ValueError):
        suites.pie_mask(runs)


def test_a_run_ends_with_the_picture():
    mask = suites.pie_mask([8 * 7 - 3, 99], side=8)
    assert mask[1:-1, 1:-1].sum() == 2 and mask[6, 5:7].all()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not PIE-Bench"),
        ('{"a": {}}', "original_prompt"),
        ("[]", "not PIE-Bench"),
        (None, "not PIE-Bench"),
    ],
)
def test_a_damaged_mapping_file_is_one_error(folder, text, message):
    path = folder / "mapping_file.json"
    path.unlink() if text is None else path.write_text(text)
    with pytest.raises(SettingsError, match=message):
        suites.pie(folder)


def test_a_missing_picture_is_named_when_it_is_read(folder):
    (item,) = suites.pie(folder)
    (folder / "annotation_images" / "0_random" / "000.png").unlink()
    with pytest.raises(ImageError, match=r"000\.png"):
        item.picture()


def test_pairs(tmp_path):
    Image.new("RGB", (8, 6), "blue").save(tmp_path / "a.png")
    (tmp_path / "pairs.csv").write_text(
        'picture,source,target,kind,instruction\na.png,"a cat, blue",a dog,animal,\n'
        "a.png,a cat,a dog,animal,make it a dog\n"
    )
    item, told = suites.pairs(tmp_path / "pairs.csv")
    assert item.instruction is None and told.instruction == "make it a dog"
    assert (item.source, item.target, item.kind) == ("a cat, blue", "a dog", "animal")
    assert item.picture().shape == (6, 8, 3) and item.truth is None and item.mask is None


@pytest.mark.parametrize("text", ["picture,source\na,b\n", "picture,source,target\na.png,,x\n"])
def test_a_csv_that_lacks_something_names_the_line(tmp_path, text):
    (tmp_path / "pairs.csv").write_text(text)
    with pytest.raises(SettingsError, match="line 2: no"):
        suites.pairs(tmp_path / "pairs.csv")


def test_tiny_scenes_are_fresh_for_every_seed_and_have_their_truth():
    one, other = suites.tiny(3, seed=1), suites.tiny(3, seed=2)
    assert [item.kind for item in one] == ["color", "background", "shape"]
    assert not np.array_equal(one[0].picture(), other[0].picture())
    for item in one:
        assert item.words is not None and item.words[item.kind] in item.target
        assert np.array_equal(item.picture()[~item.mask], item.truth[~item.mask])


def test_prompts_from_a_file_and_from_the_world(tmp_path):
    (tmp_path / "p.txt").write_text("a cat\n\n  a dog \nthird\n")
    items = suites.prompts(tmp_path / "p.txt", 2, seed=7)
    assert [(item.name, item.target) for item in items] == [("7", "a cat"), ("8", "a dog")]
    with pytest.raises(ValueError, match="no picture"):
        items[0].picture()
    (tmp_path / "p.csv").write_text('id,prompt\n1,"a cat, sitting"\n2,a dog\n')
    assert [item.target for item in suites.prompts(tmp_path / "p.csv", 9, 0)] == [
        "a cat, sitting",
        "a dog",
    ]
    (tmp_path / "p.csv").write_text("id,text\n1,a cat\n")
    with pytest.raises(SettingsError, match="line 2: no prompt"):
        suites.prompts(tmp_path / "p.csv", 9, 0)
    drawn = suites.prompts(None, 3, seed=7)
    assert all(item.words["color"] in item.target for item in drawn)
    assert [item.target for item in drawn] == [
        item.target for item in suites.prompts(None, 3, seed=7)
    ]
    with pytest.raises(SettingsError, match="not a readable text file"):
        suites.prompts(tmp_path / "none.txt", 3, seed=7)


def test_the_judge_reads_true_pictures():
    """Of an edit the word that changed and the others; of a prompt the share of its words."""
    item = suites.tiny(1, seed=3)[0]
    truth = Edited(item.truth, item.picture(), 8, 0.1)
    judge = suites.judged()
    assert judge(item, truth) == {"edit_success": 1.0, "others_kept": 1.0}
    assert judge(item, Edited(item.picture(), item.picture(), 8, 0.1)) == {
        "edit_success": 0.0,
        "others_kept": 1.0,
    }
    prompt = suites.Item("0", "scene", item.target, item.target, None, words=item.words)
    assert set(judge(prompt, truth).values()) == {1.0}
    found = judge(prompt, Edited(item.picture(), None, 4, 0.1))
    assert (
        found["prompt_success"] == pytest.approx(0.8)
        and found["color_right"] == 0.0
        and found["shape_right"] == 1.0
    )
