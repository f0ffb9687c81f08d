/** A user's mask: what it lets latents do in each hop, and the original's own pixels outside of it:
 * masks.py, feathering.py and compositing.paste_back. */

import { ImageError } from "./errors.js";
import { even } from "./numbers.js";

const { fround } = Math;
/** @typedef {import("./settings.js").Mask} Grid Values of [height, width]. */

/**
 * A mask of the picture's own size. ImageError for any other.
 * @param {any} mask
 * @param {number[]} size
 * @returns {Grid}
 */
export function checkedMask(mask, size) {
  const { width, height, data } = mask ?? {};
  if (width !== size[0] || height !== size[1])
    throw new ImageError(`the mask is ${width} x ${height} and the picture ${size[0]} x ${size[1]}`);
  const values = Float32Array.from(data);
  if (values.length !== width * height) throw new ImageError("a mask has one value a pixel");
  if (!values.every((value) => value >= 0 && value <= 1)) throw new ImageError("mask values must be in 0..1");
  return { width, height, data: values };
}

/**
 * The greatest value in each cell of a grid of `size` = [columns, rows] that covers the mask; a pixel
 * between two cells counts in both.
 * @param {Grid} mask
 * @param {number[]} size
 * @returns {Grid}
 */
export function touched(mask, [width, height]) {
  const data = new Float32Array(width * height);
  for (let i = 0; i < height; i++)
    for (let j = 0; j < width; j++) {
      const rows = [Math.floor((i * mask.height) / height), Math.ceil(((i + 1) * mask.height) / height)];
      const columns = [Math.floor((j * mask.width) / width), Math.ceil(((j + 1) * mask.width) / width)];
      let most = 0;
      for (let y = rows[0]; y < rows[1]; y++)
        for (let x = columns[0]; x < columns[1]; x++) most = Math.max(most, mask.data[y * mask.width + x]);
      data[i * width + j] = most;
    }
  return { width, height, data };
}

/**
 * What strengths in [0, 1] let latents do after hop k of `hops`: 1 free, 0 held.
 * @param {Float32Array} strengths
 * @param {number} k
 * @param {number} hops
 */
export function afterHop(strengths, k, hops) {
  return strengths.map((strength) => {
    const free = strength > 0 ? Math.max(Math.floor(fround(fround(strength * hops) + 0.5)), 1) : 0;
    return hops - k <= free ? 1 : 0;
  });
}

/**
 * Where a picture of the mask's size may change: by the mask, by the cells that blend words left free,
 * grown by one, or by both.
 * @param {Grid | null} mask
 * @param {Grid | null} cells
 * @param {number[]} size
 * @returns {Grid}
 */
export function forTarget(mask, cells, [width, height]) {
  if (mask && !cells) return mask;
  const own = /** @type {Grid} */ (cells);
  const free = (/** @type {number} */ y, /** @type {number} */ x) =>
    y >= 0 && x >= 0 && y < own.height && x < own.width && own.data[y * own.width + x] > 0;
  const near = [-1, 0, 1];
  const grown = own.data.map((_, i) => {
    const [y, x] = [Math.floor(i / own.width), i % own.width];
    return Number(near.some((down) => near.some((right) => free(y + down, x + right))));
  });
  const data = Float32Array.from({ length: width * height }, (_, i) => {
    const row = Math.floor((Math.floor(i / width) * own.height) / height);
    const column = Math.floor(((i % width) * own.width) / width);
    const open = grown[row * own.width + column];
    return open && mask ? mask.data[i] : open;
  });
  return { width, height, data };
}

/**
 * The original's own pixels where the mask is 0, the edit where it is not, faded in over a ring inside.
 * @param {Uint8Array} original RGB
 * @param {Uint8Array} edited RGB
 * @param {Grid} mask
 * @param {number} feather pixels
 */
export function pasteBack(original, edited, mask, feather) {
  const weights = ringWeights(mask, feather);
  return original.map((old, i) => {
    const weight = weights[Math.floor(i / 3)];
    return even(fround(old + fround(weight * (edited[i] - old))));
  });
}

/**
 * The share of the edit in every pixel: 0 where the mask is, rising to 1 at `feather` pixels inside.
 * Where a part is less than four rings thick they shrink, so that half of it stays 1.
 * @param {Grid} mask
 * @param {number} feather
 */
export function ringWeights(mask, feather) {
  const { width, height } = mask;
  const inside = Uint8Array.from(mask.data, (value) => Number(value > 0));
  const weights = Float32Array.from(inside);
  if (!(feather > 1) || weights.every((value) => value === 1)) return weights;
  const thick = 2 * feather;
  const depth = distances(inside, width, height, thick + 2);
  const middle = middles(depth, width, height, thick);
  const ring = fround(feather);
  const other = middle.some(Boolean)
    ? distances(middle.map((own) => 1 - own), width, height, thick)
    : new Float32Array(depth.length).fill(Infinity);
  return weights.map((_, i) => {
    const half = fround(depth[i] + other[i]);
    const own = Math.min(Math.max(fround(half / 2), 1), ring);
    return Math.min(fround(depth[i] / own), 1);
  });
}

/**
 * The middles of parts that are less than `thick` from edge to middle.
 * @param {Float32Array} depth
 * @param {number} width
 * @param {number} height
 * @param {number} thick
 */
function middles(depth, width, height, thick) {
  const middle = Uint8Array.from(depth, (own, i) => {
    if (!(own > 0 && own < thick)) return 0;
    const [y, x] = [Math.floor(i / width), i % width];
    for (let down = -1; down <= 1; down++)
      for (let right = -1; right <= 1; right++) {
        const [row, column] = [y + down, x + right];
        if ((!down && !right) || row < 0 || column < 0 || row >= height || column >= width) continue;
        const step = fround(0.5 * fround(Math.hypot(down, right)));
        if (fround(depth[row * width + column] - own) > step) return 0;
      }
    return 1;
  });
  if (!middle.some(Boolean)) return middle;
  // Bumps of an edge are thin, too, but lie beside what is not
  const thin = Uint8Array.from(depth, (own) => Number(own < thick));
  const away = distances(thin, width, height, thick + 2);
  return middle.map((own, i) => Number(own && away[i] >= thick + 1));
}

/**
 * Of every pixel inside the Euclidean distance to the nearest one that is not, at most `most`.
 * @param {Uint8Array} inside
 * @param {number} width
 * @param {number} height
 * @param {number} most
 */
export function distances(inside, width, height, most) {
  const reach = Math.ceil(most);
  const columns = new Int32Array(inside.length).fill(reach);
  for (let x = 0; x < width; x++)
    for (const [start, step] of [[0, 1], [height - 1, -1]]) {
      let since = reach;
      for (let y = start; y >= 0 && y < height; y += step) {
        const at = y * width + x;
        since = inside[at] ? Math.min(since + 1, reach) : 0;
        columns[at] = Math.min(columns[at], since);
      }
    }
  return Float32Array.from(columns, (own, i) => {
    const x = i % width;
    let nearest = own * own;
    for (let k = 1; k < width && k * k < nearest; k++) {
      if (x >= k) nearest = Math.min(nearest, columns[i - k] ** 2 + k * k);
      if (x + k < width) nearest = Math.min(nearest, columns[i + k] ** 2 + k * k);
    }
    return Math.min(fround(Math.sqrt(nearest)), fround(most));
  });
}
