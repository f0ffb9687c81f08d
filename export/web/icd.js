/** The engine in a worker, for pages: `const engine = await Engine.load("icd/")`. See docs/web.md. */

import { ImageError, revived } from "./errors.js";
import { provenPng } from "./png.js";

/** @typedef {import("./settings.js").Settings} Settings */
/** @typedef {import("./engine.js").Progress} Progress */
/** @typedef {{signal?: AbortSignal, progress?: (told: Progress) => void}} Listening */
/** @typedef {Blob | ImageBitmap | ImageData | HTMLImageElement | HTMLCanvasElement} Picture */
/** @typedef {Omit<import("./engine.js").Result, "images"> & {images: ImageData[]}} Result
 * images: one a target, at the picture's own size. */
/** @typedef {{resolve: (value: any) => void, reject: (error: Error) => void,
 *   progress?: (told: Progress) => void}} Waiting */
/** @typedef {{device: string, threads: number, isolated: boolean, manifest: any}} About */

export class Engine {
  /** @type {Map<number, Waiting>} */
  #waiting = new Map();
  #worker = new Worker(new URL("worker.js", import.meta.url), { type: "module" });
  #calls = 0;
  /** @type {About | null} */
  #about = null;
  #released = new FinalizationRegistry((/** @type {number} */ id) => this.#post("release", id));

  /**
   * Fetches the model of a site's folder, or takes it from Cache Storage, and makes it ready.
   * @param {string | URL} folder with icd.json
   * @param {Listening & {device?: "auto" | "wasm" | "webgpu", threads?: number}} options
   */
  static async load(folder = new URL(".", import.meta.url), { device, threads, ...listening } = {}) {
    const engine = new Engine();
    const base = new URL(folder, globalThis.document?.baseURI ?? location.href).href.replace(/\/?$/, "/");
    try {
      engine.#about = await engine.#call("load", { base, device, threads }, listening);
    } catch (error) {
      engine.close();
      throw error;
    }
    return engine;
  }

  constructor() {
    this.#worker.onmessage = ({ data: { id, value, error, progress } }) => {
      const call = this.#waiting.get(id);
      if (progress) return call?.progress?.(progress);
      this.#waiting.delete(id);
      if (error) call?.reject(revived(error));
      else call?.resolve(value);
    };
    this.#worker.onerror = (event) => {
      for (const call of this.#waiting.values()) call.reject(revived({ name: "RunnerError", message: event.message }));
      this.#waiting.clear();
    };
  }

  /** What runs, and icd.json. */
  get about() {
    return /** @type {About} */ (this.#about);
  }

  /**
   * Encodes a picture with its source prompt to noise; every edit of it then costs decoding alone.
   * @param {Picture} picture
   * @param {string} source
   * @param {Listening & {seed?: number | bigint | string}} options
   */
  async invert(picture, source, { seed, ...listening } = {}) {
    const id = await this.#call("invert", { picture: await sendable(picture), source, seed }, listening);
    const inversion = new Inversion((target, { signal, progress, ...options }) =>
      this.#call("reedit", { id, target, options }, { signal, progress }),
    );
    this.#released.register(inversion, id);
    return inversion;
  }

  /**
   * Inverts a picture and decodes it towards one target prompt or several. options: settings as Python
   * has them, and `signal`, `progress`.
   * @param {Picture} picture
   * @param {string} source
   * @param {string | string[]} target
   * @param {Settings & Listening} options
   * @returns {Promise<Result>}
   */
  async edit(picture, source, target, { signal, progress, ...options } = {}) {
    const given = { picture: await sendable(picture), source, target, options };
    return this.#call("edit", given, { signal, progress });
  }

  /**
   * A picture as a PNG file that says a model edited it (IPTC digital source type).
   * @param {ImageData} image
   */
  png(image) {
    return provenPng(image, this.about.manifest.xmp);
  }

  /** Ends the worker, and gives its memory back. */
  close() {
    this.#worker.terminate();
    for (const call of this.#waiting.values()) call.reject(new DOMException("the engine was closed", "AbortError"));
    this.#waiting.clear();
  }

  /**
   * @param {string} call
   * @param {any} given
   * @param {Listening} listening
   * @returns {Promise<any>}
   */
  #call(call, given, { signal, progress }) {
    return new Promise((resolve, reject) => {
      signal?.throwIfAborted();
      const id = this.#post(call, given);
      this.#waiting.set(id, { resolve, reject, progress });
      signal?.addEventListener("abort", () => this.#waiting.has(id) && this.#post("abort", id), { once: true });
    });
  }

  /**
   * @param {string} call
   * @param {any} given
   */
  #post(call, given) {
    const id = ++this.#calls;
    this.#worker.postMessage({ id, call, given });
    return id;
  }
}

/** A picture encoded to noise, kept in the worker as long as this is. */
export class Inversion {
  /** @param {(target: string | string[], options: Settings & Listening) => Promise<Result>} edit */
  constructor(edit) {
    this.edit = (
      /** @type {string | string[]} */ target,
      /** @type {Settings & Listening} */ options = {},
    ) => edit(target, options);
  }
}

/**
 * @param {any} picture
 * @returns {Promise<Blob | ImageBitmap | ImageData>}
 */
async function sendable(picture) {
  const plain = ["Blob", "File", "ImageBitmap", "ImageData"].includes(picture?.constructor?.name);
  if (plain) return picture;
  return createImageBitmap(picture).catch(() => {
    throw new ImageError("a picture is a Blob, an ImageBitmap, ImageData, or an image of the page");
  });
}
