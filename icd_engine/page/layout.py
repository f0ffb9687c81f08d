"""The parts of the page of `icd ui`, by name: what a part of a Form holds bears the name of its
field."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, get_args

import gradio as gr

from icd_engine.bundles.demo import Demo
from icd_engine.page.fields import MOST_TARGETS, shares
from icd_engine.picture_files import SUFFIXES
from icd_engine.settings import MAX_FEATHER, Control, EditSettings

Parts = dict[str, Any]
THEME = gr.themes.Base(
    primary_hue="indigo",
    neutral_hue="slate",
    radius_size="lg",
    font=[gr.themes.Font("system-ui"), gr.themes.Font("sans-serif")],
    font_mono=[gr.themes.Font("ui-monospace"), gr.themes.Font("monospace")],
)
PANEL = 420  # px, height of the pictures
CANVAS = 512  # px, longer side of the copy of the picture that is painted on
CSS = """
.gradio-container {width: 100%; max-width: 1240px !important; margin: 0 auto !important}
#about p {color: var(--body-text-color-subdued)}
#upload {min-height: 0}
#upload .wrap {flex-direction: row; gap: .5em; padding: 0; font-size: var(--text-md)}
#upload .icon-wrap {width: 1.2em; margin: 0}
#note p {color: var(--body-text-color-subdued)}
"""


def lay_out(about: str, examples: Sequence[Demo], defaults: EditSettings) -> Parts:
    """All parts, in the page that is being made."""
    gr.Markdown(f"## Edit a picture by text\n{about}", elem_id="about")
    with gr.Row():
        with gr.Column():
            parts = _picture(examples) | _prompts() | _words(defaults)
        with gr.Column():
            parts |= _result() | _settings(defaults)
    return parts


def _picture(examples: Sequence[Demo]) -> Parts:
    upload = gr.File(
        show_label=False,
        file_types=list(SUFFIXES),
        type="binary",
        height=56,
        elem_id="upload",
    )
    canvas = gr.ImageEditor(
        label="Picture: paint over what may change, or nothing",
        height=PANEL,
        canvas_size=(CANVAS, CANVAS),
        sources=(),
        transforms=(),
        layers=False,
        brush=gr.Brush(default_size=36, colors=["#6366f1b0"], color_mode="fixed"),
        format="png",
        buttons=[],
        elem_id="canvas",
    )
    gallery = gr.Dataset(
        components=[gr.Image(visible=False, format="png")],
        samples=[[example.picture] for example in examples],
        type="index",
        label="Examples",
        visible=bool(examples),
        elem_id="examples",
    )
    return {"upload": upload, "canvas": canvas, "examples": gallery}


def _prompts() -> Parts:
    source = gr.Textbox(
        label="What it shows", placeholder="a photo of a cat on a sofa", elem_id="source"
    )
    targets = gr.Textbox(
        label=f"What it should show (up to {MOST_TARGETS}, one a line)",
        placeholder="a photo of a dog on a sofa",
        lines=2,
        max_lines=MOST_TARGETS,
        elem_id="targets",
    )
    with gr.Row():
        edit = gr.Button("Edit", variant="primary", size="md", min_width=90, elem_id="edit")
        search = gr.Button("Automatic settings", size="md", min_width=170, elem_id="search")
        stop = gr.Button("Cancel", size="md", min_width=90, elem_id="stop")
    return {"source": source, "targets": targets, "edit": edit, "search": search, "stop": stop}


def _result() -> Parts:
    slider = gr.ImageSlider(
        label="Before and after",
        interactive=False,
        format="png",
        height=PANEL,
        max_height=PANEL,
        buttons=["fullscreen"],
        elem_id="result",
    )
    choice = gr.Gallery(
        show_label=False,
        columns=MOST_TARGETS,
        height=150,
        format="png",
        allow_preview=False,
        interactive=False,
        visible=False,
        buttons=[],
        elem_id="choice",
    )
    with gr.Row(equal_height=True):
        note = gr.Markdown(elem_id="note")
        download = gr.DownloadButton(
            "Download PNG", interactive=False, size="md", scale=0, min_width=150, elem_id="download"
        )
    return {"slider": slider, "choice": choice, "note": note, "download": download}


def _settings(defaults: EditSettings) -> Parts:
    start = shares(defaults)

    def share(name: str, label: str, info: str) -> gr.Slider:
        return gr.Slider(
            0, 1, start[name], step=0.01, label=label, info=info, buttons=[], elem_id=name
        )

    parts: Parts = {}
    with gr.Accordion("Settings"):
        with gr.Row():
            parts["guidance_scale"] = gr.Slider(
                0,
                20,
                start["guidance_scale"],
                step=0.1,
                label="Guidance w",
                info="strength of the target",
                buttons=[],
                elem_id="guidance_scale",
            )
            parts["tau"] = share("tau", "Tau", "guidance is on below this noise level")
        with gr.Row():
            parts["cross_replace"] = share(
                "cross_replace", "Text attention kept", "share of the calls: objects stay"
            )
            parts["self_replace"] = share(
                "self_replace", "Self-attention kept", "share of the calls: layout stays"
            )
        with gr.Row():
            controls = list(get_args(Control))
            parts["control"] = gr.Dropdown(
                controls, value=defaults.control, label="Control", elem_id="control"
            )
            parts["seed"] = gr.Number(
                defaults.seed, label="Seed", precision=0, minimum=0, elem_id="seed"
            )
    return parts


def _words(defaults: EditSettings) -> Parts:
    parts: Parts = {}
    with gr.Accordion("Words and mask", open=False):
        with gr.Row():
            parts["blend_source"] = gr.Textbox(
                label="Change only where this is",
                placeholder="cat",
                info="source words",
                elem_id="blend_source",
            )
            parts["blend_target"] = gr.Textbox(
                label="and becomes this",
                placeholder="dog",
                info="target words",
                elem_id="blend_target",
            )
        with gr.Row():
            parts["amplify_word"] = gr.Textbox(
                label="Strengthen", placeholder="dog", info="a target word", elem_id="amplify_word"
            )
            parts["amplify_factor"] = gr.Slider(
                -5, 10, 2, step=0.1, label="by the factor", buttons=[], elem_id="amplify_factor"
            )
        parts["mask_words"] = gr.Checkbox(
            defaults.from_words,
            label="Change only where these words are, or those that differ",
            elem_id="mask_words",
        )
        with gr.Row():
            parts["paste_back"] = gr.Checkbox(
                defaults.paste_back is not False,
                label="Original pixels outside these words and the mask",
                elem_id="paste_back",
            )
            parts["feather"] = gr.Number(
                defaults.feather,
                label="Fade in over",
                info="pixels inside of the mask",
                placeholder="half a cell",
                minimum=0,
                maximum=MAX_FEATHER,
                elem_id="feather",
            )
    return parts
