"""The tools, as the official client calls them: the engine's own pictures come out, and refusals are
one line."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest
from PIL import Image

from tests.icd_engine.integrations.mcp.conftest import called, content, file_of, talked
from tests.icd_engine.plain_loops import OTHER, SOURCE, TARGET, picture

TOOLS = {"edit_picture", "start_session", "edit_session", "end_session", "list_models"}


def pixels(result) -> np.ndarray:
    (sent,) = [one for one in result.content if one.type == "image"]
    assert sent.mime_type == "image/png"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(sent.data))))


def assert_refused(result, *parts: str) -> None:
    (told,) = result.content
    assert result.is_error and "\n" not in told.text
    for part in parts:
        assert part in told.text


def test_the_tools_and_what_they_are_told(desk):
    tools = {tool.name: tool for tool in talked(desk, lambda c: c.list_tools()).tools}
    assert set(tools) == TOOLS and all(tool.description for tool in tools.values())
    edit = tools["edit_picture"].input_schema
    assert set(edit["required"]) == {"image", "prompt"} and "ctx" not in edit["properties"]
    assert edit["$defs"]["Settings"]["additionalProperties"] is False


def test_an_edit_is_the_engines_own(desk, small_engine):
    result = called(
        desk,
        "edit_picture",
        image=content(file_of()),
        prompt=TARGET,
        source_prompt=SOURCE,
        settings={"seed": 3, "cross_replace": [0.0, 0.5], "blend": [["sits"], ["sits"]]},
    )
    chosen = {"seed": 3, "cross_replace": (0.0, 0.5), "blend": (["sits"], ["sits"])}
    expected = small_engine.edit(picture(), SOURCE, TARGET, **chosen)
    assert np.array_equal(pixels(result), np.asarray(expected.image))
    assert result.structured_content["settings"] == expected.settings.as_json()


def test_a_file_in_and_a_file_out(desk, folder, small_engine):
    told = called(
        desk, "edit_picture", image="in.png", prompt=TARGET, source_prompt=SOURCE, output="out.png"
    )
    assert [one.type for one in told.content] == ["text"]
    assert told.structured_content["file"] == str(folder / "out.png")
    expected = small_engine.edit(picture(), SOURCE, TARGET).image
    assert np.array_equal(np.asarray(Image.open(folder / "out.png")), np.asarray(expected))
    again = called(desk, "edit_picture", image="in.png", prompt=TARGET, output="out.png")
    assert_refused(again, "'out.png' is there already")


def test_a_mask_and_a_size(desk, folder, small_engine):
    mask = np.zeros((64, 64), np.uint8)
    mask[:, 32:] = 255
    Image.fromarray(mask).save(folder / "mask.png")
    result = called(
        desk,
        "edit_picture",
        image="in.png",
        prompt=TARGET,
        source_prompt=SOURCE,
        mask="mask.png",
        size="128x64",
    )
    expected = small_engine.edit(picture(), SOURCE, TARGET, mask=mask, size=(128, 64)).image
    assert np.array_equal(pixels(result), np.asarray(expected))


def test_a_session_is_a_kept_inversion(desk, small_engine):
    async def talk(client):
        given = {"image": "in.png", "source_prompt": SOURCE, "seed": 5}
        told = (await client.call_tool("start_session", given)).structured_content
        assert told["size"] == "64x64"
        name = {"session": told["session"]}
        edits = [
            await client.call_tool("edit_session", {**name, "prompt": prompt})
            for prompt in (TARGET, OTHER)
        ]
        ended = await client.call_tool("end_session", name)
        return edits, ended, await client.call_tool("edit_session", {**name, "prompt": TARGET})

    edits, ended, gone = talked(desk, talk)
    inversion = small_engine.invert(picture(), SOURCE, seed=5)
    for result, prompt in zip(edits, (TARGET, OTHER), strict=True):
        assert np.array_equal(pixels(result), np.asarray(inversion.edit(prompt).image))
    assert not ended.is_error
    assert_refused(gone, "no session", "ended")


def test_the_session_that_was_not_used_for_longest_goes(desk):
    async def talk(client):
        async def start():
            told = await client.call_tool("start_session", {"image": "in.png"})
            return told.structured_content

        async def edit(name):
            return (
                await client.call_tool("edit_session", {"session": name, "prompt": "x"})
            ).is_error

        first, second = (await start())["session"], (await start())["session"]
        assert not await edit(first)
        third = await start()
        assert third["ended_for_room"] == second
        return [await edit(name) for name in (first, second, third["session"])]

    assert talked(desk, talk) == [False, True, False]


def test_progress_is_told_by_the_hop(desk):
    heard = []

    async def talk(client):
        async def hear(done, total, message):
            heard.append(done)

        arguments = {"image": "in.png", "prompt": TARGET, "source_prompt": SOURCE}
        await client.call_tool("edit_picture", arguments, progress_callback=hear)

    talked(desk, talk)
    assert heard == [float(n) for n in range(1, 9)]


def test_the_models(desk, small_engine):
    told = called(desk, "list_models").structured_content
    assert told["in_use"]["model"] == "small" and told["in_use"]["size"] == "64x64"
    assert told["in_use"]["default_settings"] == small_engine.default_settings.as_json()
    assert {"icd-sd15", "icd-sdxl"} <= {one["model"] for one in told["others"]}


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        ({"image": "/etc/passwd"}, ["outside of the folder"]),
        ({"image": "none.png"}, ["no such file", "none.png"]),
        ({"image": 7}, ["image"]),
        ({"image": {"type": "text", "text": "x"}}, ["image"]),
        ({"prompt": ""}, ["prompt", "at least 1"]),
        ({"prompt": "x" * 1001}, ["prompt", "at most 1000"]),
        ({"output": "../out.png"}, ["outside of the folder"]),
        ({"output": "out.exe"}, ["must end in"]),
        ({"size": "9"}, ["size"]),
        ({"size": "8000x8000"}, ["4 times", "64x64"]),
        ({"size": "63x64"}, ["63"]),
        ({"settings": {"guidance": 3}}, ["did you mean 'guidance_scale'"]),
        ({"settings": {"anchor": 2}}, ["settings.anchor"]),
        ({"settings": {"mask": "/etc/passwd"}}, ["mask is an argument of its own"]),
        ({"settings": {"blend": "nowhere"}, "source_prompt": SOURCE}, ["nowhere"]),
        ({"mask": "none.png"}, ["the mask is missing"]),
        ({"promt": "x"}, ["unknown argument 'promt'", "prompt"]),
    ],
    ids=str,
)
def test_refusals_are_one_line(desk, folder, arguments, parts):
    given = {"image": "in.png", "prompt": TARGET, **arguments}
    assert_refused(called(desk, "edit_picture", **given), *parts)
    assert [path.name for path in folder.iterdir()] == ["in.png"]


def test_a_failure_of_our_own_is_not_told(desk, monkeypatch):
    def broken():
        raise ValueError("a secret of the server")

    monkeypatch.setattr(desk, "_engine", broken)
    result = called(desk, "edit_picture", image="in.png", prompt=TARGET)
    assert_refused(result, "edit_picture")
    assert "secret" not in result.content[0].text
