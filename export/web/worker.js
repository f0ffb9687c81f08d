/** The engine's worker: one call after the other; every call can be aborted between network calls. */

import { Engine } from "./engine.js";
import { BundleError, ImageError, RunnerError, SettingsError, shown } from "./errors.js";
import { Files } from "./files.js";

/** Bytes of weights from which a GPU is worth the larger runtime, where it is not asked for. */
const GPU_FROM = 200e6;
const MOST_THREADS = 8;

/** @type {Engine} */
let engine;
/** @type {Map<number, import("./inversion.js").Inversion>} */
const inversions = new Map();
/** @type {Map<number, AbortController>} */
const running = new Map();
let last = Promise.resolve();

self.onmessage = ({ data: { id, call, given } }) => {
  if (call === "abort") running.get(given)?.abort();
  else if (call === "release") inversions.delete(given);
  else {
    const controller = new AbortController();
    running.set(id, controller);
    last = last.then(() => answer(id, call, given, controller.signal));
  }
};

/** @type {Record<string, (given: any, listening: import("./engine.js").Listening, id: number) => Promise<any>>} */
const CALLS = {
  load,
  invert: async ({ picture, source, seed }, listening, id) => {
    inversions.set(id, await engine.invert(await pixels(picture), source, { seed, ...listening }));
    return id;
  },
  reedit: async ({ id, target, options }, listening) => {
    const inversion = inversions.get(id);
    return imageData(await /** @type {any} */ (inversion).edit(target, { ...options, ...listening }));
  },
  edit: async ({ picture, source, target, options }, listening) =>
    imageData(await engine.edit(await pixels(picture), source, target, { ...options, ...listening })),
};

/**
 * @param {number} id
 * @param {string} call
 * @param {any} given
 * @param {AbortSignal} signal
 */
async function answer(id, call, given, signal) {
  const progress = (/** @type {any} */ told) => self.postMessage({ id, progress: told });
  try {
    signal.throwIfAborted();
    self.postMessage({ id, value: await CALLS[call](given, { signal, progress }, id) });
  } catch (error) {
    const { name, message } = /** @type {Error} */ (error);
    self.postMessage({ id, error: { name, message } });
  }
  running.delete(id);
}

/**
 * @param {{base: string, device?: string, threads?: number}} given
 * @param {import("./engine.js").Listening} listening
 */
async function load({ base, device = "auto", threads }, listening) {
  if (!["auto", "wasm", "webgpu"].includes(device))
    throw new SettingsError(`device must be auto, wasm or webgpu, not ${shown(device)}`);
  const files = new Files(new URL(base), () => undefined);
  const manifest = await files.manifest();
  const half = Math.floor((navigator.hardwareConcurrency || 1) / 2);
  // A busy machine makes two threads slower than one, so half of the cores are left to it
  const most = self.crossOriginIsolated ? Math.max(1, Math.min(threads ?? half, MOST_THREADS)) : 1;
  const weights = Object.values(manifest.graphs).flatMap((/** @type {any} */ graph) => graph.data);
  const large = weights.reduce((sum, one) => sum + one.bytes, 0) >= GPU_FROM;
  const gpu = device === "webgpu" || (device === "auto" && large && (await hasGpu()));
  const ort = await runtime(manifest, files, gpu, most);
  engine = await Engine.load(new URL(base), ort, gpu ? "webgpu" : "wasm", listening);
  URL.revokeObjectURL(ort.env.wasm.wasmPaths.wasm);
  return { device: gpu ? "webgpu" : "wasm", threads: most, isolated: self.crossOriginIsolated, manifest };
}

/**
 * onnxruntime-web, whose program comes from Cache Storage too.
 * @param {any} manifest
 * @param {Files} files
 * @param {boolean} gpu
 * @param {number} threads
 */
async function runtime(manifest, files, gpu, threads) {
  const [program, module] = gpu
    ? ["ort-wasm-simd-threaded.asyncify.wasm", "ort.webgpu.min.mjs"]
    : ["ort-wasm-simd-threaded.wasm", "ort.wasm.min.mjs"];
  const entry = manifest.runtime.files.find((/** @type {{file: string}} */ one) => one.file === `ort/${program}`);
  if (!entry) throw new BundleError("this site was exported without onnxruntime-web (--no-runtime)");
  const folder = new URL("ort/", files.base);
  const ort = await import(new URL(module, folder).href).catch((error) => {
    throw new RunnerError(`onnxruntime-web cannot be loaded: ${error.message}`);
  });
  // An address, not the bytes: they would stay in memory
  const wasm = URL.createObjectURL(new Blob([await files.read(entry)], { type: "application/wasm" }));
  ort.env.wasm.wasmPaths = { wasm, mjs: new URL(program.replace(/wasm$/, "mjs"), folder).href };
  ort.env.wasm.numThreads = threads;
  ort.env.logLevel = "error";
  return ort;
}

async function hasGpu() {
  const adapter = await /** @type {any} */ (navigator).gpu?.requestAdapter().catch(() => null);
  return Boolean(adapter) && !(adapter.info?.isFallbackAdapter ?? adapter.isFallbackAdapter);
}

/**
 * @param {Blob | ImageBitmap | ImageData} picture
 * @returns {Promise<import("./pictures.js").Given>}
 */
async function pixels(picture) {
  if (picture instanceof ImageData) return picture;
  const bitmap = picture instanceof Blob ? await decoded(picture) : picture;
  const canvas = new OffscreenCanvas(bitmap.width, bitmap.height);
  const context = /** @type {OffscreenCanvasRenderingContext2D} */ (canvas.getContext("2d"));
  context.drawImage(bitmap, 0, 0);
  return context.getImageData(0, 0, bitmap.width, bitmap.height);
}

/** @param {Blob} file */
function decoded(file) {
  return createImageBitmap(file, { premultiplyAlpha: "none" }).catch(() => {
    throw new ImageError("not a picture that this browser knows, or a damaged one");
  });
}

/**
 * The result with its pictures as ImageData.
 * @param {import("./engine.js").Result} result
 */
function imageData(result) {
  const images = result.images.map(({ width, height, data }) => {
    const image = new ImageData(width, height);
    for (let i = 0; i < width * height; i++) {
      image.data.set(data.subarray(3 * i, 3 * i + 3), 4 * i);
      image.data[4 * i + 3] = 255;
    }
    return image;
  });
  return { ...result, images };
}
