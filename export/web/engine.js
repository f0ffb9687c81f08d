/** Pictures are inverted and edited by the graphs of a site: engine.py, decoding.py and runners/onnx.py. */

import { candidates, shared } from "./automatic.js";
import { PromptError, RunnerError, SettingsError } from "./errors.js";
import { Files } from "./files.js";
import { encodeHop } from "./hops.js";
import { Inversion } from "./inversion.js";
import { checkedMask } from "./masks.js";
import { dynamicGuidance, fittedSize, normalNoise } from "./numbers.js";
import { asPixels, toModelRange, toPixels } from "./pictures.js";
import { makePlan } from "./plan.js";
import { checked, settled } from "./settings.js";
import { Tokenizer } from "./words.js";

const { fround } = Math;
/** @typedef {import("./pictures.js").Pixels} Pixels */
/** @typedef {import("./settings.js").Settings} Settings */
/** @typedef {import("./words.js").Tokens} Tokens */
/** @typedef {{stage: string, done: number, total: number}} Progress bytes of files, or network calls */
/** @typedef {{signal?: AbortSignal, progress?: (told: Progress) => void}} Listening */
/** @typedef {{tokens: Tokens, plan: import("./plan.js").Plan, settings: Settings, guidance: number[]}} Row */
/** @typedef {{images: Pixels[], masks: (import("./settings.js").Mask | null)[], settings: Settings,
 *   candidates: {settings: Settings, agreement: number, change: number}[], network_calls: number,
 *   warnings: string[], milliseconds: number}} Result */

export class Engine {
  /**
   * Use `load`.
   * @param {any} manifest
   * @param {Tokenizer} words
   * @param {any} ort
   * @param {Record<string, any>} sessions
   */
  constructor(manifest, words, ort, sessions) {
    this.manifest = manifest;
    this.words = words;
    this.ort = ort;
    this.sessions = sessions;
    /** @type {Map<string, Float32Array>} */
    this.features = new Map();
  }

  /**
   * @param {URL} base the site's folder
   * @param {any} ort onnxruntime-web
   * @param {string} provider "wasm" or "webgpu"
   * @param {Listening} listening
   */
  static async load(base, ort, provider, { signal, progress }) {
    let done = 0;
    let total = 0;
    const files = new Files(base, (bytes) => progress?.({ stage: "files", done: (done += bytes), total }));
    const manifest = await files.manifest();
    // The largest first: what making its session needs is then there for the others
    const graphs = Object.entries(manifest.graphs);
    graphs.sort(([, one], [, other]) => other.data[0].bytes - one.data[0].bytes);
    const entries = [manifest.tokenizer, ...graphs.flatMap(([, graph]) => [graph, ...graph.data])];
    total = entries.reduce((sum, one) => sum + one.bytes, 0);
    const tables = JSON.parse(new TextDecoder().decode(await files.read(manifest.tokenizer)));
    /** @type {Record<string, any>} */
    const sessions = {};
    for (const [name, graph] of graphs) {
      signal?.throwIfAborted();
      const model = await files.read(graph);
      const externalData = [];
      for (const data of graph.data)
        externalData.push({ path: data.file.split("/").pop(), data: await files.read(data) });
      // A heap of a page never shrinks, so what a call needed goes back to the next one
      const frugal = { enableCpuMemArena: false, enableMemPattern: false };
      const options = { executionProviders: [provider], externalData, ...frugal };
      sessions[name] = await ort.InferenceSession.create(model, options).catch(failed(name));
    }
    await files.prune(entries);
    return new Engine(manifest, new Tokenizer(tables), ort, sessions);
  }

  /**
   * Encodes a picture with its source prompt to noise.
   * @param {import("./pictures.js").Given} picture
   * @param {string} source
   * @param {Listening & {seed?: number | bigint | string}} options
   * @returns {Promise<Inversion>}
   */
  async invert(picture, source, { seed, ...listening } = {}) {
    const about = this.manifest;
    const own = asPixels(picture);
    const tokens = this.tokens(source, "the source prompt");
    const settings = settled(checked({ seed }, about.limits), about.defaults, about.anchors);
    const chosen = BigInt(settings.seed ?? 0);
    const size = fittedSize([own.width, own.height], about.size, about.size_step, about.most_aspect);
    const [width, height] = size.map((side) => side / about.downscale);
    const shape = [1, about.latent_channels, height, width];
    const features = await this.encodePrompt(tokens);
    const pixels = this.tensor("float32", toModelRange(own, size), [1, 3, size[1], size[0]]);
    const moments = (await this.run("vae_encoder", { sample: pixels }, ["latent_parameters"])).latent_parameters;
    const mean = moments.subarray(0, moments.length / 2);
    const latents = mean.map((value) => fround(about.scaling_factor) * value);
    const { a, sigma } = about.start;
    const noise = normalNoise(chosen, latents.length);
    /** @type {Float32Array} */
    let x = latents.map((value, i) => fround(fround(a) * value) + fround(fround(sigma) * noise[i]));
    /** @type {Map<number, Float32Array>} */
    const passed = new Map([[0, latents]]);
    const step = this.steps(about.encode_hops.length, "encode", listening);
    for (const hop of about.encode_hops) {
      await step();
      x = await encodeHop(this, shape, hop, x, features);
      passed.set(hop.s, x);
    }
    const kept = about.decode_hops.map((/** @type {{s: number}} */ hop) => passed.get(hop.s));
    const reconstruction = await this.decodeLatents(latents, size);
    const boundaries = about.anchors ? kept : null;
    const held = { picture: own, tokens, seed: chosen, size, shape, noised: x, boundaries, reconstruction };
    return new Inversion(this, held);
  }

  /**
   * Inverts a picture and decodes it towards one target prompt or several. options: settings by Python's
   * names, signal, progress.
   * @param {import("./pictures.js").Given} picture
   * @param {string} source
   * @param {string | string[]} target
   * @param {Settings & Listening} options
   * @returns {Promise<Result>}
   */
  async edit(picture, source, target, options = {}) {
    const { seed, signal, progress, ...rest } = options;
    // All that can be wrong is known before the first network call
    const given = checked(rest, this.manifest.limits);
    if (given.mask) checkedMask(given.mask, [picture.width, picture.height]);
    this.rows(this.tokens(source, "the source prompt"), target, given);
    const calls = this.manifest.encode_hops.length;
    const started = performance.now();
    const inversion = await this.invert(picture, source, { seed, signal, progress });
    const result = await inversion.edit(target, { ...rest, signal, progress });
    const milliseconds = performance.now() - started;
    return { ...result, network_calls: result.network_calls + calls, milliseconds };
  }

  /**
   * @param {unknown} prompt
   * @param {string} name
   */
  tokens(prompt, name) {
    if (typeof prompt === "string" && !prompt.trim()) throw new PromptError(`${name} is empty`);
    return this.words.encode(prompt, name);
  }

  /**
   * The rows of an edit, from settings that were checked; chosen automatically where they ask for it.
   * @param {Tokens} source
   * @param {string | string[]} target
   * @param {Settings} given
   * @returns {{rows: Row[], tree: import("./automatic.js").Tree, automatic: boolean}}
   */
  rows(source, target, given) {
    const about = this.manifest;
    const settings = settled(given, about.defaults, about.anchors);
    const prompts = Array.isArray(target) ? target : [target];
    if (!prompts.length) throw new PromptError("a target prompt, or a list of them, is needed");
    const called = (/** @type {number} */ i) =>
      prompts.length === 1 ? "the target prompt" : `target prompt ${i + 1} of ${prompts.length}`;
    const targets = prompts.map((text, i) => this.tokens(text, called(i)));
    if (targets.length > 1 && given.auto)
      throw new SettingsError("automatic settings are for one target at a time");
    if (given.paste_back && !given.mask && !given.blend)
      throw new SettingsError("paste_back needs blend words or a mask: they say what is not to change");
    const automatic = settings.auto && targets.length === 1;
    const { candidates: fixed, blends } = about.automatic;
    const words = automatic ? this.words.changedWords(source, targets[0]) : null;
    const tried = automatic
      ? candidates({ candidates: fixed, blends }, settings, Object.keys(given), words, about.limits.guidance)
      : targets.map(() => ({ ...settings, auto: false }));
    const rows = tried.map((own, i) => this.row(source, targets[automatic ? 0 : i], own));
    if (automatic) return { ...shared(rows), automatic: true };
    const all = about.decode_hops.map(() => rows.map((_, i) => i));
    return { rows, tree: { first: all, rows: all, parents: all }, automatic: false };
  }

  /**
   * @param {Tokens} source
   * @param {Tokens} tokens
   * @param {Settings} settings
   * @returns {Row}
   */
  row(source, tokens, settings) {
    const { decode_hops: hops, steps } = this.manifest;
    const { guidance_scale: w = 0, tau = 1, tau_low: low = 0 } = settings;
    const guidance = hops.map((/** @type {{t: number}} */ hop) => dynamicGuidance(hop.t, w, tau, low, steps));
    return { tokens, settings, guidance, plan: makePlan(this.words, source, tokens, settings, hops.length) };
  }

  // --- network calls ------------------------------------------------------------------------------

  /**
   * What is awaited before every network call: tells of progress, and lets messages in that may abort.
   * @param {number} total
   * @param {string} stage
   * @param {Listening} listening
   */
  steps(total, stage, { signal, progress }) {
    let done = 0;
    return async () => {
      progress?.({ stage, done: done++, total });
      await new Promise((resolve) => setTimeout(resolve));
      signal?.throwIfAborted();
    };
  }

  /**
   * @param {string} type
   * @param {any} data
   * @param {number[]} dims
   */
  tensor(type, data, dims) {
    return new this.ort.Tensor(type, data, dims);
  }

  /**
   * @param {string} name
   * @param {Record<string, any>} feeds
   * @param {string[]} outputs
   * @returns {Promise<Record<string, Float32Array>>}
   */
  async run(name, feeds, outputs) {
    const found = await this.sessions[name].run(feeds, outputs).catch(failed(name));
    return Object.fromEntries(outputs.map((port) => [port, found[port].data]));
  }

  /**
   * @param {Tokens} tokens
   * @returns {Promise<Float32Array>} [n, C]
   */
  async encodePrompt({ ids }) {
    const key = ids.join();
    const kept = this.features.get(key);
    if (kept) return kept;
    const feed = this.tensor("int64", BigInt64Array.from(ids, BigInt), [1, ids.length]);
    const features = (await this.run("text_encoder", { input_ids: feed }, ["last_hidden_state"])).last_hidden_state;
    this.features.set(key, features);
    if (this.features.size > 256) this.features.delete(this.features.keys().next().value ?? "");
    return features;
  }

  /**
   * @param {Float32Array} latents
   * @param {number[]} size
   */
  async decodeLatents(latents, [width, height]) {
    const { scaling_factor: scaling, latent_channels: channels, downscale } = this.manifest;
    const dims = [1, channels, height / downscale, width / downscale];
    const feed = this.tensor("float32", latents.map((value) => value / fround(scaling)), dims);
    const { sample } = await this.run("vae_decoder", { latent_sample: feed }, ["sample"]);
    return toPixels(sample, width, height);
  }
}

/**
 * @param {string} name
 * @returns {(error: any) => never}
 */
function failed(name) {
  return (error) => {
    throw new RunnerError(`onnxruntime failed in ${name}: ${String(error?.message ?? error).slice(0, 300)}`);
  };
}
