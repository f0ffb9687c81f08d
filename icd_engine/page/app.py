"""The page of `icd ui`: what happens when its parts are used."""

from __future__ import annotations

import html
from collections.abc import Callable, Sequence
from dataclasses import fields
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr
from PIL import Image

from icd_engine.bundles.demo import Demo
from icd_engine.errors import IcdError, ImageError, RunnerError
from icd_engine.page.fields import Form, shares
from icd_engine.page.layout import CANVAS, CSS, THEME, Parts, lay_out
from icd_engine.page.session import Shown, Stopped, Visit
from icd_engine.picture_files import MAX_FILE_BYTES
from icd_engine.settings import EditSettings

if TYPE_CHECKING:
    from icd_engine.engine import Engine

SECONDS_KEPT = 3600  # without use: visits and their files
MOST_VISITS = 200  # at a time: the one not used for longest is forgotten
FIELDS = [field.name for field in fields(Form)]
SHOWN = ["slider", "choice", "note", "download"]
# A change of these edits at once; words do when they are complete, at Enter.
LIVE = [
    "guidance_scale",
    "tau",
    "cross_replace",
    "self_replace",
    "control",
    "amplify_factor",
    "mask_words",
    "paste_back",
]
WORDS = ["source", "targets", "seed", "feather", "blend_source", "blend_target", "amplify_word"]
# What automatic settings fill in
CHOSEN = ["cross_replace", "self_replace", "blend_source", "blend_target"]
Values = dict[str, Any]  # by the names of parts, or of Gradio's options


def build_page(engine: Engine, examples: Sequence[Demo], folder: Path) -> gr.Blocks:
    """The page for one engine. examples: the first is open at the beginning. folder: for the files
    of visits."""
    with gr.Blocks(title="icd", analytics_enabled=False, delete_cache=(60, SECONDS_KEPT)) as page:
        parts = lay_out(_about(engine), examples, engine.default_settings)
        parts["visit"] = gr.State(time_to_live=SECONDS_KEPT)
        _connect(page, parts, Actions(engine, examples, folder))
    return page


def start(
    page: gr.Blocks, host: str, port: int, login: tuple[str, str] | None, queue: int
) -> gr.Blocks:
    """Serves the page in the background; `close` ends it. RunnerError where the port is taken.

    login: user and password. queue: uses of the page that wait for the engine; one more is refused.
    """
    page.queue(max_size=queue, api_open=False)
    try:
        page.launch(
            server_name=host,
            server_port=port,
            auth=login,
            max_file_size=MAX_FILE_BYTES,
            state_session_capacity=MOST_VISITS,
            prevent_thread_lock=True,
            quiet=True,
            share=False,
            ssr_mode=False,
            run_history=False,
            footer_links=[],
            theme=THEME,
            css=CSS,
        )
    except OSError:
        raise RunnerError(
            f"cannot listen on {host}:{port}: is something else listening there?"
        ) from None
    return page


def _about(engine: Engine) -> str:
    up = len(engine.bundle.encode_times)
    down = len(engine.bundle.decode_times)
    return (
        f"A picture is encoded once, in {up} network calls; every edit of it is decoded in {down}. "
        f"Model {engine.bundle.path.name}, {engine.runner.name} on {engine.runner.device}."
    )


class Actions:
    """What each use of the page does: from the visit and what fields hold to what parts shall
    show."""

    def __init__(self, engine: Engine, examples: Sequence[Demo], folder: Path):
        self._engine = engine
        self._examples = examples
        self._folder = folder

    def begin(self) -> Values:
        visit = Visit(self._folder)
        return self.take_example(0, visit) if self._examples else {"visit": visit}

    def take_example(self, index: int, visit: Visit | None) -> Values:
        example = self._examples[index]
        return self._open(example.picture, visit) | _filled(example, self._engine.default_settings)

    def take_upload(self, data: bytes, visit: Visit | None) -> Values:
        return self._open(data, visit) | {"source": "", "targets": ""}

    def _open(self, image: Any, visit: Visit | None) -> Values:
        visit = visit or Visit(self._folder)
        picture = visit.open(image)
        nothing = {"slider": None, "choice": gr.Gallery([], visible=False), "note": ""}
        return nothing | {
            "visit": visit,
            "canvas": _unpainted(picture),
            "download": gr.DownloadButton(value=None, interactive=False),
        }

    def edit(
        self, visit: Visit | None, *values: Any, progress: gr.Progress = gr.Progress()
    ) -> Values:
        return self._edit(_present(visit), Form(*values), _bar(progress, "calls"))

    def edit_live(self, visit: Visit | None, *values: Any) -> Values:
        """Once a picture was edited, what is changed shows by itself."""
        if visit is None or visit.shown is None:
            return {}
        return self._edit(visit, Form(*values), lambda done, total: None)

    def paint(self, visit: Visit | None, canvas: Values | None, *values: Any) -> Values:
        # The canvas also tells of being given a picture, when nothing was painted.
        if visit is None or not visit.paint(canvas["layers"] if canvas else []):
            return {}
        return self.edit_live(visit, *values)

    def unpaint(self, visit: Visit | None) -> Values:
        """Clearing a canvas removes the picture from it, too."""
        return (
            {} if visit is None or visit.picture is None else {"canvas": _unpainted(visit.picture)}
        )

    def search(
        self, visit: Visit | None, *values: Any, progress: gr.Progress = gr.Progress()
    ) -> Values:
        visit = _present(visit)
        form = visit.choose_settings(self._engine, Form(*values), _bar(progress, "calls"))
        found = {name: getattr(form, name) for name in CHOSEN}
        return found | self._edit(visit, form, lambda done, total: None)

    def _edit(self, visit: Visit, form: Form, progress: Callable[[int, int], Any]) -> Values:
        shown = visit.edit(self._engine, form, progress)
        return {"visit": visit} | _of(shown, visit.chosen)

    def choose(self, visit: Visit | None, event: gr.SelectData) -> Values:
        visit = _present(visit)
        if visit.shown is None:
            return {}
        visit.chosen = event.index
        return _of(visit.shown, visit.chosen)

    def stop(self, visit: Visit | None) -> None:
        if visit is not None:
            visit.stop()


def _connect(page: gr.Blocks, parts: Parts, actions: Actions) -> None:
    form = [parts[name] for name in ("visit", *FIELDS)]
    everything = [parts[name] for name in ("visit", "canvas", *FIELDS, *SHOWN)]
    result = [parts[name] for name in ("visit", *SHOWN)]
    # Edits wait for each other, whoever's they are: they share a device.
    engine: Values = {
        "concurrency_id": "engine",
        "concurrency_limit": 1,
        "api_visibility": "private",
    }
    seen: Values = engine | {"show_progress_on": parts["slider"]}
    quiet: Values = {"api_visibility": "private", "show_progress": "hidden"}

    def told(action: Callable[..., Values]) -> Callable[..., Any]:
        return _told(action, parts)

    page.load(told(actions.begin), None, everything, **quiet)
    parts["examples"].click(
        told(actions.take_example), [parts["examples"], parts["visit"]], everything, **quiet
    )
    upload = parts["upload"].upload(
        told(actions.take_upload), [parts["upload"], parts["visit"]], everything, **quiet
    )
    upload.then(lambda: None, None, parts["upload"], **quiet)
    enter = [parts[name].submit for name in WORDS]
    gr.on([parts["edit"].click, *enter], told(actions.edit), form, result, **seen)
    parts["search"].click(
        told(actions.search), form, result + [parts[name] for name in CHOSEN], **seen
    )
    changed = [parts[name].input for name in LIVE]
    live: Values = engine | quiet | {"trigger_mode": "always_last"}
    gr.on(changed, told(actions.edit_live), form, result, **live)
    # The canvas alone sends itself: it is slow to, and sliders are not.
    canvas = parts["canvas"]
    canvas.input(told(actions.paint), [parts["visit"], canvas, *form[1:]], result, **live)
    canvas.clear(told(actions.unpaint), parts["visit"], canvas, **quiet)
    parts["choice"].select(told(actions.choose), parts["visit"], result, **quiet)
    parts["stop"].click(actions.stop, parts["visit"], None, queue=False, **quiet)


def _told(action: Callable[..., Values], parts: Parts) -> Callable[..., Any]:
    """The action for Gradio: what it shows by part, wrong input as one message that leaves all in
    place."""

    @wraps(action)
    def call(*values: Any) -> Any:
        shown: Values = {}
        try:
            shown = action(*values)
        except IcdError as error:
            gr.Warning(html.escape(" ".join(str(error).split()), quote=False))
        except Stopped:
            gr.Info("Cancelled: nothing was changed.")
        return {parts[name]: value for name, value in shown.items()} or gr.skip()

    return call


def _present(visit: Visit | None) -> Visit:
    if visit is None:
        raise ImageError("the picture was put away after an hour without use: choose it again")
    return visit


def _bar(progress: gr.Progress, unit: str) -> Callable[[int, int], Any]:
    return lambda done, total: progress((done, total), unit=unit)


def _of(shown: Shown, chosen: int) -> Values:
    """An edit with one of its targets beside the picture; a single one needs no choice."""
    path, _ = shown.edited[min(chosen, len(shown.edited) - 1)]
    several = len(shown.edited) > 1
    return {
        "slider": (shown.before, path),
        "choice": gr.Gallery(shown.edited if several else [], visible=several),
        "note": shown.note,
        "download": gr.DownloadButton(value=path, interactive=True),
    }


def _filled(example: Demo, defaults: EditSettings) -> Values:
    """The fields as an example wants them."""
    settings = EditSettings.from_mapping(example.settings).resolve(defaults)
    blend = settings.blend or ((), ())
    word, factor = next(iter((settings.amplify or {}).items()), ("", 2.0))
    return shares(settings) | {
        "source": example.source,
        "targets": example.target,
        "seed": settings.seed,
        "control": settings.control,
        "blend_source": ", ".join(blend[0]),
        "blend_target": ", ".join(blend[1]),
        "amplify_word": word,
        "amplify_factor": factor,
        "mask_words": settings.from_words,
        "paste_back": settings.paste_back is not False,
        "feather": settings.feather,
    }


def _unpainted(picture: Image.Image) -> Values:
    """What the canvas shows of a picture: a copy of a size that a brush suits, whatever the
    picture's."""
    scale = CANVAS / max(picture.size)
    width, height = (max(1, round(scale * side)) for side in picture.size)
    background = picture.resize((width, height), Image.Resampling.BICUBIC)
    return {"background": background, "layers": [], "composite": None}
