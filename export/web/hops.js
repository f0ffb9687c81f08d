/** Calls of the networks: what their graphs take, as runners/onnx.py and onnx_decoding.py give it. */

import { guidanceEmbedding } from "./numbers.js";

/** @typedef {import("./engine.js").Engine} Engine */
/** @typedef {import("./plan.js").Plan} Plan */
/** @typedef {{sources: Float32Array[], targets: {x: Float32Array, maps: Float32Array[],
 *   plan: import("./plan.js").Plan}[], owner: number[], guidance: number[], features: any[],
 *   boundary: Float32Array | null, anchors: number[], free: Float32Array | null}} Rows
 * owner: the source of each target; features: of all rows. */
/** @typedef {{sources: Float32Array[], targets: {x: Float32Array, maps: [Float32Array, Float32Array],
 *   mask: Float32Array | null}[]}} Called */

/** Target rows of a call; more are parts of their own, for the heap of a page never shrinks. */
const MOST_TARGETS = 3;

/**
 * Latents after a hop of the encode network, unguided.
 * @param {Engine} engine
 * @param {number[]} shape
 * @param {{t: number, A: number, B: number}} hop
 * @param {Float32Array} x
 * @param {Float32Array} features
 * @returns {Promise<Float32Array>}
 */
export async function encodeHop(engine, shape, hop, x, features) {
  if (engine.sessions.hop) {
    // One network for both: the picture is a source row, and a target row is there because one must be
    const none = new Float32Array(mapSize(engine, shape).reduce((height, width) => height * width));
    const target = { x, maps: [none, none], plan: neutral(engine.words.tables.length) };
    const rows = { sources: [x], targets: [target], owner: [0], guidance: [0], features: [features, features] };
    const called = await call(engine, shape, hop, 0, { ...rows, boundary: null, anchors: [0], free: null }, 1);
    return called.sources[0];
  }
  const width = engine.manifest.guidance_width_forward;
  const feeds = hopFeeds(engine, [x], hop, [0], [features], shape, width);
  return (await engine.run("encode_hop", feeds, ["next_latents"])).next_latents;
}

/**
 * [height, width] of the word maps.
 * @param {Engine} engine
 * @param {number[]} shape of the latents
 */
export const mapSize = ({ manifest }, shape) =>
  shape.slice(2).map((side) => Math.floor(side / manifest.blend_downscale));

/**
 * The plan of a row that is left alone, for one step.
 * @param {number} n tokens
 * @returns {Plan}
 */
export function neutral(n) {
  const gain = [new Float32Array(n).fill(1)];
  return { mix: [new Float32Array(n * n)], gain, share: [false], blendSource: null, blendTarget: null };
}

/**
 * A hop of source rows and their targets, in calls of few targets each.
 * @param {Engine} engine
 * @param {number[]} shape of the latents
 * @param {{t: number, A: number, B: number}} hop
 * @param {number} k the step of the plans
 * @param {Rows} rows
 */
export async function decodeHop(engine, shape, hop, k, rows) {
  const { targets, owner, sources } = rows;
  if (targets.length <= MOST_TARGETS) return call(engine, shape, hop, k, rows);
  /** @type {Called} */
  const found = { sources: [], targets: [] };
  for (let from = 0; from < targets.length; from += MOST_TARGETS) {
    const to = Math.min(from + MOST_TARGETS, targets.length);
    const part = [...new Set(owner.slice(from, to))];
    const called = await call(engine, shape, hop, k, {
      ...rows,
      sources: part.map((i) => sources[i]),
      targets: targets.slice(from, to),
      owner: owner.slice(from, to).map((i) => part.indexOf(i)),
      guidance: rows.guidance.slice(from, to),
      features: [
        ...part.map((i) => rows.features[i]),
        ...rows.features.slice(sources.length + from, sources.length + to),
      ],
      anchors: rows.anchors.slice(from, to),
    });
    part.forEach((i, at) => (found.sources[i] = called.sources[at]));
    found.targets.push(...called.targets);
  }
  return found;
}

/**
 * One call of the decode network: source rows, then target rows.
 * @param {Engine} engine
 * @param {number[]} shape
 * @param {{t: number, A: number, B: number}} hop
 * @param {number} k the step of the plans
 * @param {Rows} rows
 * @param {number} encodes 1: of the encode network, where one graph is both
 * @returns {Promise<Called>}
 */
async function call(engine, shape, hop, k, rows, encodes = 0) {
  const { sources, targets, owner, guidance, features, boundary, anchors, free } = rows;
  const width = engine.manifest.guidance_width;
  const [, channels, h, w] = shape;
  const n = engine.words.tables.length;
  const count = targets.length;
  const plans = targets.map((row) => row.plan);
  const all = [...sources, ...targets.map((row) => row.x)];
  const scales = [...sources.map(() => 0), ...guidance];
  const float = (/** @type {Float32Array[]} */ values, /** @type {number[]} */ ...dims) =>
    engine.tensor("float32", joined(values), dims);
  const truth = (/** @type {boolean[]} */ values) => engine.tensor("bool", Uint8Array.from(values, Number), [count]);
  const none = new Float32Array(n);
  const everywhere = free ?? new Float32Array(h * w).fill(1);
  const held = all.map((own, i) => (i < sources.length && boundary ? boundary : new Float32Array(own.length)));
  const blends = plans.some((plan) => plan.blendSource);
  const size = mapSize(engine, shape);
  const feeds = {
    ...hopFeeds(engine, all, hop, scales, features, shape, width),
    source_row: engine.tensor("int64", BigInt64Array.from(owner, BigInt), [count]),
    source_mix: float(plans.map((plan) => plan.mix[k]), count, n, n),
    target_gain: float(plans.map((plan) => plan.gain[k]), count, n),
    share_self: truth(plans.map((plan) => plan.share[k])),
    source_words: float(plans.map((plan) => plan.blendSource ?? none), count, n),
    target_words: float(plans.map((plan) => plan.blendTarget ?? none), count, n),
    use_blend: truth(plans.map((plan) => plan.blendSource !== null)),
    word_maps: float([0, 1].flatMap((side) => targets.map((row) => row.maps[side])), 2, count, ...size),
    user_mask: float(targets.map(() => everywhere), count, h, w),
    boundary: float(held, all.length, channels, h, w),
    anchor: float([Float32Array.from([...sources.map(() => Number(boundary !== null)), ...anchors])], all.length),
  };
  const outputs = blends ? ["next_latents", "next_word_maps", "mask"] : ["next_latents"];
  const both = engine.sessions.hop && { encodes: float([Float32Array.of(encodes)], 1) };
  const out = await engine.run(both ? "hop" : "decode_hop", { ...feeds, ...both }, outputs);
  const row = (/** @type {Float32Array} */ values, /** @type {number} */ i, /** @type {number} */ length) =>
    values.slice(i * length, (i + 1) * length);
  const latents = all.map((own, i) => row(out.next_latents, i, own.length));
  return {
    sources: latents.slice(0, sources.length),
    targets: targets.map(({ maps }, i) => ({
      x: latents[sources.length + i],
      maps: /** @type {[Float32Array, Float32Array]} */ (
        blends ? [0, 1].map((side) => row(out.next_word_maps, side * count + i, size[0] * size[1])) : maps
      ),
      mask: blends && plans[i].blendSource ? row(out.mask, i, h * w) : null,
    })),
  };
}

/**
 * What every hop takes for each row.
 * @param {Engine} engine
 * @param {Float32Array[]} x
 * @param {{t: number, A: number, B: number}} hop
 * @param {number[]} guidance
 * @param {Float32Array[]} features
 * @param {number[]} shape
 * @param {number} width of the guidance embedding
 */
function hopFeeds(engine, x, hop, guidance, features, shape, width) {
  const rows = x.length;
  const tokens = engine.words.tables.length;
  const filled = (/** @type {number} */ value) => engine.tensor("float32", new Float32Array(rows).fill(value), [rows]);
  return {
    latents: engine.tensor("float32", joined(x), [rows, ...shape.slice(1)]),
    hop_a: filled(hop.A),
    hop_b: filled(hop.B),
    timestep: engine.tensor("int64", new BigInt64Array(rows).fill(BigInt(hop.t)), [rows]),
    timestep_cond: engine.tensor("float32", guidanceEmbedding(guidance, width), [rows, width]),
    encoder_hidden_states: engine.tensor("float32", joined(features), [rows, tokens, features[0].length / tokens]),
  };
}

/**
 * @param {Float32Array[]} arrays
 */
function joined(arrays) {
  const out = new Float32Array(arrays.reduce((sum, one) => sum + one.length, 0));
  let at = 0;
  for (const one of arrays) {
    out.set(one, at);
    at += one.length;
  }
  return out;
}
