/** Pixels: Pillow's resizing to the bit, network range both ways, and the detail that the VAE lost:
 * images.py and compositing.py. */

import { ImageError } from "./errors.js";
import { even } from "./numbers.js";

const { fround } = Math;
/** @typedef {{width: number, height: number, data: Uint8Array}} Pixels RGB, interleaved. */
/** @typedef {{width: number, height: number, data: Uint8Array | Uint8ClampedArray}} Given RGB, or RGBA as
 * ImageData has it. */

export const MOST_PIXELS = 64e6;

/**
 * A picture as RGB; transparent ones lie on white.
 * @param {Given} picture
 * @returns {Pixels}
 */
export function asPixels(picture) {
  const { width, height, data } = picture;
  const area = width * height;
  if (!(area >= 1) || area > MOST_PIXELS)
    throw new ImageError(`a picture has 1 to ${MOST_PIXELS / 1e6} million pixels, not ${width} x ${height}`);
  if (data.length === 3 * area) return { width, height, data: Uint8Array.from(data) };
  if (data.length !== 4 * area) throw new ImageError("a picture is RGB or RGBA, a byte for each value");
  const rgb = new Uint8Array(3 * area);
  for (let i = 0; i < area; i++) {
    const alpha = data[4 * i + 3];
    for (let c = 0; c < 3; c++) rgb[3 * i + c] = even((data[4 * i + c] * alpha + 255 * (255 - alpha)) / 255);
  }
  return { width, height, data: rgb };
}

/** @type {Record<string, {support: number, at: (x: number) => number}>} */
const FILTERS = {
  bilinear: { support: 1, at: (x) => Math.max(0, 1 - Math.abs(x)) },
  bicubic: {
    support: 2,
    at: (signed) => {
      const x = Math.abs(signed);
      if (x < 1) return (1.5 * x - 2.5) * x * x + 1;
      return x < 2 ? ((-0.5 * x + 2.5) * x - 4) * x + 2 : 0;
    },
  },
};

/**
 * Bytes of `channels` at another size, as Pillow resizes them: in whole numbers, across and then down.
 * @param {Uint8Array} data
 * @param {number} channels
 * @param {number[]} from [width, height]
 * @param {number[]} to
 * @param {"bicubic" | "bilinear"} filter
 */
export function resized(data, channels, from, to, filter = "bicubic") {
  let values = data;
  if (from[0] !== to[0]) values = pass(values, from[1], from[0], to[0], channels, filter);
  if (from[1] !== to[1]) values = pass(values, 1, from[1], to[1], channels * to[0], filter);
  return values;
}

/**
 * [outer, length, inner] -> [outer, count, inner].
 * @param {Uint8Array} data
 * @param {number} outer
 * @param {number} length
 * @param {number} count
 * @param {number} inner
 * @param {string} filter
 */
function pass(data, outer, length, count, inner, filter) {
  const { support, at } = FILTERS[filter];
  const scale = length / count;
  const wide = Math.max(scale, 1);
  const out = new Uint8Array(outer * count * inner);
  for (let i = 0; i < count; i++) {
    const centre = (i + 0.5) * scale;
    const first = Math.max(0, Math.trunc(centre - support * wide + 0.5));
    const last = Math.min(length, Math.trunc(centre + support * wide + 0.5));
    const weights = Array.from({ length: last - first }, (_, k) => at((k + first - centre + 0.5) * (1 / wide)));
    const sum = weights.reduce((total, weight) => total + weight, 0);
    const whole = weights.map((weight) => {
      const own = (weight / sum) * 2 ** 22;
      return Math.trunc(own < 0 ? own - 0.5 : own + 0.5);
    });
    for (let o = 0; o < outer; o++)
      for (let c = 0; c < inner; c++) {
        let total = 2 ** 21;
        for (let k = 0; k < whole.length; k++) total += data[(o * length + first + k) * inner + c] * whole[k];
        out[(o * count + i) * inner + c] = Math.min(255, Math.max(0, Math.floor(total / 2 ** 22)));
      }
  }
  return out;
}

/**
 * RGB at a size -> [3, h, w] in [-1, 1].
 * @param {Pixels} picture
 * @param {number[]} size
 */
export function toModelRange(picture, size) {
  const data = resized(picture.data, 3, [picture.width, picture.height], size);
  const area = size[0] * size[1];
  return Float32Array.from({ length: 3 * area }, (_, i) => {
    const [channel, at] = [Math.floor(i / area), i % area];
    return fround(fround(data[3 * at + channel]) / 127.5) - 1;
  });
}

/**
 * [3, h, w] in about [-1, 1] -> RGB, rounded to the nearest value.
 * @param {Float32Array} values
 * @param {number} width
 * @param {number} height
 * @returns {Pixels}
 */
export function toPixels(values, width, height) {
  const area = width * height;
  const data = new Uint8Array(3 * area);
  for (let channel = 0; channel < 3; channel++)
    for (let at = 0; at < area; at++) {
      const value = values[channel * area + at];
      if (!Number.isFinite(value)) throw new ImageError("the picture holds NaN or infinite values");
      data[3 * at + channel] = even(fround(fround(Math.min(1, Math.max(-1, value)) + 1) * 127.5));
    }
  return { width, height, data };
}

/**
 * A decoded picture at the original's size, with `share` of what the VAE lost of that one wherever both
 * show the same. reconstruction: the original, through the VAE alone.
 * @param {Pixels} decoded
 * @param {Pixels} original
 * @param {Pixels} reconstruction
 * @param {number} share
 * @param {{same: number, other: number}} limits
 * @returns {Pixels}
 */
export function finished(decoded, original, reconstruction, share, limits) {
  const [small, size] = [decoded, original].map((one) => [one.width, one.height]);
  const data = Uint8Array.from(resized(decoded.data, 3, small, size));
  if (!share) return { width: size[0], height: size[1], data };
  const wide = resized(reconstruction.data, 3, small, size);
  const shares = resized(alike(decoded, reconstruction, share, limits), 1, small, size, "bilinear");
  const unit = fround(255 / 255 ** 2);
  for (let i = 0; i < data.length; i++) {
    const own = fround(shares[Math.floor(i / 3)] * unit);
    const value = fround(data[i] + fround(own * (original.data[i] - wide[i])));
    data[i] = even(Math.min(255, Math.max(0, value)));
  }
  return { width: size[0], height: size[1], data };
}

/**
 * How much of what is lost each pixel gets back, 255 is all of it: by the greatest difference there or
 * beside it, blurred.
 * @param {Pixels} edited
 * @param {Pixels} other
 * @param {number} share
 * @param {{same: number, other: number}} limits
 */
function alike(edited, other, share, limits) {
  const { width, height, data } = edited;
  const differs = (/** @type {number} */ i) => Math.abs(data[i] - other.data[i]);
  let most = Uint8Array.from({ length: width * height }, (_, i) =>
    Math.max(differs(3 * i), differs(3 * i + 1), differs(3 * i + 2)),
  );
  const axes = [
    [width, 1],
    [height, width],
  ];
  for (const axis of axes) most = along(most, axis, (before, own, after) => Math.max(before, own, after));
  // Pillow's GaussianBlur(1): three boxes of 1.5 pixels along each axis, rounded after each
  const middle = fround(2 ** 24 / 1.5);
  const side = Math.trunc((2 ** 24 - middle) / 2);
  const blur = (/** @type {number} */ before, /** @type {number} */ own, /** @type {number} */ after) =>
    Math.floor((own * middle + (before + after) * side + 2 ** 23) / 2 ** 24);
  for (const axis of axes) for (let i = 0; i < 3; i++) most = along(most, axis, blur);
  const table = Uint8Array.from({ length: 256 }, (_, i) => {
    const weight = Math.min(1, Math.max(0, (limits.other - i) / (limits.other - limits.same)));
    return even(255 * share * weight);
  });
  return most.map((value) => table[value]);
}

/**
 * Each value by those before and after it along an axis, whose ends go on as they are.
 * @param {Uint8Array} data
 * @param {number[]} axis its length, and the step from one value to the next
 * @param {(before: number, own: number, after: number) => number} change
 */
function along(data, [length, step], change) {
  return data.map((own, i) => {
    const at = Math.floor(i / step) % length;
    return change(at ? data[i - step] : own, own, at < length - 1 ? data[i + step] : own);
  });
}
