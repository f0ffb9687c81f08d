/** The page: a picture, two prompts, live settings on the kept inversion, a mask, results. */

import { Brush } from "./brush.js";
import { Engine } from "./icd.js";

/** @typedef {import("./icd.js").Inversion} Inversion */
/** @typedef {import("./icd.js").Result} Result */

/** @template {HTMLElement} T @param {string} id @returns {T} */
const at = (id) => /** @type {T} */ (document.getElementById(id));
const [source, target, blend, seed] = ["source", "target", "blend", "seed"].map(
  (id) => /** @type {HTMLInputElement} */ (at(id)),
);
const auto = /** @type {HTMLInputElement} */ (at("auto"));
const sliders = /** @type {HTMLInputElement[]} */ ([...document.querySelectorAll("[data-setting]")]);
const brush = new Brush(at("mask"), at("brush"));

/** @type {Engine} */
let engine;
/** @type {ImageBitmap | null} */
let picture = null;
/** @type {{inversion: Inversion, of: string} | null} what the settings are tried on */
let kept = null;
/** @type {Result | null} */
let result = null;
let shown = 0;
/** @type {AbortController | null} of the edit that runs */
let running = null;
/** Whether another edit is wanted once this one is done: the last values of a slider count. */
let again = false;
let pictures = 0;

// --- pictures ---------------------------------------------------------------------------------------

/**
 * @param {Blob} file
 * @param {{source?: string, target?: string}} prompts
 */
async function open(file, prompts = {}) {
  const bitmap = await createImageBitmap(file).catch(() => null);
  if (!bitmap) return tell("not a picture that this browser knows, or a damaged one");
  running?.abort();
  picture = bitmap;
  pictures++;
  kept = result = null;
  source.value = prompts.source ?? "";
  target.value = prompts.target ?? "";
  blend.value = "";
  auto.checked = true;
  draw(at("before"), bitmap);
  brush.fit(bitmap.width, bitmap.height);
  present();
  tell("");
  if (!prompts.source) source.focus();
}

/**
 * @param {HTMLCanvasElement} canvas
 * @param {ImageBitmap | ImageData} image
 */
function draw(canvas, image) {
  canvas.width = image.width;
  canvas.height = image.height;
  const context = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
  if (image instanceof ImageData) context.putImageData(image, 0, 0);
  else context.drawImage(image, 0, 0);
}

/** Shows the chosen picture of the result, or that there is none. */
function present() {
  const images = result?.images ?? [];
  at("after").hidden = at("splitter").hidden = !images.length;
  /** @type {HTMLButtonElement} */ (at("download")).disabled = !images.length;
  const buttons = images.length > 1 ? images.map(thumbnail) : [];
  at("choice").replaceChildren(...buttons);
  if (images.length) draw(at("after"), images[shown]);
}

/**
 * @param {ImageData} image
 * @param {number} i
 */
function thumbnail(image, i) {
  const button = document.createElement("button");
  const canvas = document.createElement("canvas");
  draw(canvas, image);
  button.append(canvas);
  button.type = "button";
  button.title = targets()[i] ?? "";
  button.setAttribute("aria-label", `Target ${i + 1}: ${button.title}`);
  button.setAttribute("aria-pressed", String(i === shown));
  button.onclick = () => {
    shown = i;
    present();
    /** @type {HTMLElement} */ (at("choice").children[i]).focus();
  };
  return button;
}

// --- edits ------------------------------------------------------------------------------------------

const targets = () => target.value.split("\n").filter((line) => line.trim());

/** What the form says, as settings of an edit. */
function settings() {
  /** @type {import("./icd.js").Settings} */
  const own = { mask: brush.mask() ?? undefined };
  if (auto.checked) return { ...own, auto: targets().length === 1 };
  for (const slider of sliders) Object.assign(own, { [String(slider.dataset.setting)]: slider.valueAsNumber });
  const words = blend.value.split("/").map((side) => side.split(",").map((word) => word.trim()).filter(Boolean));
  if (blend.value.trim()) own.blend = words.length > 1 ? [words[0], words[1]] : [words[0], words[0]];
  return { ...own, auto: false };
}

async function edit() {
  if (!engine || !picture) return;
  if (running) {
    again = true;
    return;
  }
  const controller = (running = new AbortController());
  at("error").textContent = "";
  again = false;
  busy(true);
  try {
    const listening = { signal: controller.signal, progress };
    const of = JSON.stringify([pictures, source.value, seed.value]);
    const started = performance.now();
    const fresh = kept?.of !== of;
    if (fresh) kept = { inversion: await engine.invert(picture, source.value, { seed: seed.value, ...listening }), of };
    const { inversion } = /** @type {NonNullable<typeof kept>} */ (kept);
    const [own, wanted] = [settings(), targets().length ? targets() : ""];
    if (fresh && own.auto) {
      // A plain edit is there long before the best of the candidates
      result = await inversion.edit(wanted, { ...own, auto: false, ...listening });
      shown = 0;
      present();
    }
    result = await inversion.edit(wanted, { ...own, ...listening });
    shown = Math.min(shown, result.images.length - 1);
    if (auto.checked && result.candidates.length) take(result.settings);
    present();
    const seconds = ((performance.now() - started) / 1000).toFixed(2);
    tell(result.warnings.join("; "), `${seconds} s${fresh ? "" : " on the kept inversion"}`);
  } catch (error) {
    const { name, message } = /** @type {Error} */ (error);
    if (name === "AbortError") tell("", "Cancelled: nothing was changed.");
    else tell(message, "");
  }
  running = null;
  busy(false);
  if (again) edit();
}

/**
 * Shows the settings that were found for an edit; moving one goes on from them.
 * @param {import("./icd.js").Settings} found
 */
function take(found) {
  /** @type {Record<string, any>} */
  const whole = { ...found, detail: found.detail ?? found.anchor };
  for (const slider of sliders) {
    const value = whole[String(slider.dataset.setting)];
    if (typeof value === "number") slider.value = String(value);
    label(slider);
  }
  blend.value = found.blend ? found.blend.map((words) => words.join(", ")).join(" / ") : "";
}

/** @param {import("./icd.js").Progress} told */
function progress({ stage, done, total }) {
  const bar = /** @type {HTMLProgressElement} */ (at("progress"));
  bar.max = total;
  bar.value = done;
  const mega = (/** @type {number} */ bytes) => (bytes / 1e6).toFixed(0);
  at("note").textContent =
    stage === "files"
      ? `Loading the model: ${mega(done)} of ${mega(total)} MB`
      : `${stage === "encode" ? "Inverting" : "Editing"}: call ${done + 1} of ${total}`;
}

/** @param {boolean} on */
function busy(on) {
  /** @type {HTMLButtonElement} */ (at("cancel")).disabled = !on;
  if (!on) /** @type {HTMLProgressElement} */ (at("progress")).value = 0;
  document.body.dataset.busy = String(on);
}

/**
 * @param {string} error
 * @param {string} note
 */
function tell(error, note = "") {
  at("error").textContent = error;
  at("note").textContent = note;
}

/** @param {HTMLInputElement} slider */
function label(slider) {
  const output = slider.parentElement?.querySelector("output");
  if (output) output.value = slider.value;
}

// --- what visitors do -------------------------------------------------------------------------------

at("form").onsubmit = (event) => {
  event.preventDefault();
  edit();
};
at("cancel").onclick = () => {
  again = false;
  running?.abort();
};
at("download").onclick = async () => {
  if (!result) return;
  const link = document.createElement("a");
  link.href = URL.createObjectURL(await engine.png(result.images[shown]));
  link.download = result.images.length > 1 ? `edited_${shown + 1}.png` : "edited.png";
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
};
/** @type {HTMLInputElement} */ (at("file")).onchange = ({ target: input }) => {
  const [file] = /** @type {HTMLInputElement} */ (input).files ?? [];
  if (file) open(file);
};
for (const kind of ["dragover", "dragleave", "drop"])
  document.addEventListener(kind, (event) => {
    event.preventDefault();
    at("drop").classList.toggle("over", kind === "dragover");
    const file = kind === "drop" && /** @type {DragEvent} */ (event).dataTransfer?.files[0];
    if (file) open(file);
  });
document.addEventListener("paste", ({ clipboardData }) => {
  const file = clipboardData?.files[0];
  if (file) open(file);
});
for (const slider of [...sliders, blend])
  slider.addEventListener("input", () => {
    auto.checked = false;
    label(slider);
    if (kept && slider !== blend) edit();
  });
blend.addEventListener("change", () => kept && edit());
auto.addEventListener("change", () => kept && edit());
at("painting").addEventListener("toggle", () => {
  at("mask").hidden = !(/** @type {HTMLDetailsElement} */ (at("painting")).open);
});
at("brush").addEventListener("input", ({ target: input }) => label(/** @type {HTMLInputElement} */ (input)));
at("clear").onclick = () => brush.clear();
brush.changed = () => kept && edit();
at("split").oninput = ({ target: input }) =>
  at("stage").style.setProperty("--split", `${/** @type {HTMLInputElement} */ (input).value}%`);

// --- the model --------------------------------------------------------------------------------------

async function begin() {
  const asked = new URLSearchParams(location.search);
  const threads = Number(asked.get("threads")) || undefined;
  const device = /** @type {"auto" | "wasm" | "webgpu" | undefined} */ (asked.get("device") ?? undefined);
  engine = await Engine.load(undefined, { device, threads, progress });
  const { manifest, device: runs, threads: used } = engine.about;
  take(manifest.defaults);
  label(/** @type {HTMLInputElement} */ (at("brush")));
  at("about").hidden = !manifest.knows;
  at("knows").textContent = manifest.knows ?? "";
  for (const example of manifest.examples) at("examples").append(exampleButton(example));
  at("examples").hidden = !manifest.examples.length;
  /** @type {HTMLButtonElement} */ (at("edit")).disabled = false;
  if (manifest.examples.length && !picture) await openExample(manifest.examples[0]);
  tell("", `Ready: ${runs}, ${used === 1 ? "one thread" : `${used} threads`}`);
  busy(false);
}

/** @param {{picture: string, source: string, target: string}} example */
async function openExample(example) {
  await open(await (await fetch(example.picture)).blob(), example);
}

/** @param {{picture: string, source: string, target: string}} example */
function exampleButton(example) {
  const button = document.createElement("button");
  const image = document.createElement("img");
  image.src = example.picture;
  image.alt = example.source;
  button.append(image);
  button.type = "button";
  button.onclick = () => openExample(example);
  return button;
}

begin().catch(({ message }) => tell(message, "The model could not be loaded."));
