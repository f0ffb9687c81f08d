/** A picture encoded to noise, kept: every further edit of it costs the decode hops alone. */

import { ranked } from "./automatic.js";
import { joined } from "./engine.js";
import { SettingsError } from "./errors.js";
import { afterHop, checkedMask, forTarget, pasteBack, touched } from "./masks.js";
import { normalNoise } from "./numbers.js";
import { finished } from "./pictures.js";
import { checked } from "./settings.js";

const { fround } = Math;
/** Target rows of a call; more are parts of their own, for the heap of a page never shrinks. */
const MOST_TARGETS = 3;
/** @typedef {import("./engine.js").Row} Row */
/** @typedef {import("./settings.js").Settings} Settings */
/** @typedef {{picture: import("./pictures.js").Pixels, tokens: import("./words.js").Tokens, seed: bigint,
 *   size: number[], shape: number[], noised: Float32Array, boundaries: Float32Array[] | null,
 *   reconstruction: import("./pictures.js").Pixels}} Held
 * size: what the model works at; shape: of the latents; boundaries: latents at the end of every decode
 * hop as encoding passed them; reconstruction: what the VAE alone keeps of the picture. */
/** @typedef {{sources: Float32Array[], targets: {x: Float32Array, maps: Float32Array[],
 *   plan: import("./plan.js").Plan}[], owner: number[], guidance: number[], features: any[],
 *   boundary: Float32Array | null, anchors: number[], free: Float32Array | null}} Rows
 * owner: the source of each target; features: of all rows. */
/** @typedef {{x: Float32Array, maps: [Float32Array, Float32Array], mask: Float32Array | null}} Decoded of a row */

export class Inversion {
  /**
   * @param {import("./engine.js").Engine} engine
   * @param {Held} held
   */
  constructor(engine, held) {
    this.engine = engine;
    this.held = held;
  }

  /**
   * Decodes towards one target prompt or several.
   * @param {string | string[]} target
   * @param {Settings & import("./engine.js").Listening} options
   * @returns {Promise<import("./engine.js").Result>}
   */
  async edit(target, { signal, progress, ...options } = {}) {
    const started = performance.now();
    const { picture, tokens, seed } = this.held;
    const { manifest } = this.engine;
    const given = checked(options, manifest.limits);
    if (given.seed !== undefined && given.seed !== seed)
      throw new SettingsError(`seed is ${seed} in this inversion and cannot become ${given.seed}`);
    const mask = given.mask ? checkedMask(given.mask, [picture.width, picture.height]) : null;
    const { rows, tree, automatic } = this.engine.rows(tokens, target, given);
    const judged = automatic && rows.length > 1;
    const hops = manifest.decode_hops.length;
    const step = this.engine.steps(hops + Number(judged), "decode", { signal, progress });
    const last = await this.decode(rows, tree, mask, step);
    const decoded = tree.rows[hops - 1].map((row) => last.targets[row]);
    let order = rows.map((row) => ({ ...row, agreement: 0, change: 0 }));
    if (judged) {
      await step();
      const found = await this.judged(rows, decoded, last.source);
      order = ranked(found, manifest.automatic.agrees);
      decoded.splice(0, decoded.length, decoded[found.indexOf(order[0])]);
    }
    const images = [];
    const masks = [];
    for (const [i, one] of decoded.entries()) {
      const settings = order[i].settings;
      const restricted = this.restricted(one, mask, settings);
      images.push(await this.finished(one.x, restricted, settings, mask !== null));
      masks.push(restricted);
    }
    const cut = [tokens, ...rows.map((row) => row.tokens)].filter((one) => one.cut);
    return {
      images,
      masks,
      settings: { ...order[0].settings, seed },
      candidates: judged ? order.map(({ settings, agreement, change }) => ({ settings, agreement, change })) : [],
      network_calls: hops + Number(judged),
      warnings: [...new Set(cut.map((one) => `${one.name} is too long, this part is cut: '${one.cut}'`))],
      milliseconds: performance.now() - started,
    };
  }

  /**
   * All decode hops of one source row and the target rows of a tree.
   * @param {Row[]} rows
   * @param {import("./automatic.js").Tree} tree
   * @param {Settings["mask"] | null} mask
   * @param {() => Promise<void>} step
   */
  async decode(rows, tree, mask, step) {
    const { noised, shape, tokens, boundaries } = this.held;
    const { decode_hops: hops, steps, blend_downscale: shrink } = this.engine.manifest;
    const cells = mask ? touched(mask, [shape[3], shape[2]]) : null;
    const nothing = new Float32Array(Math.floor(shape[2] / shrink) * Math.floor(shape[3] / shrink));
    const features = await this.features(rows);
    const anchored = boundaries !== null && rows[0].settings.anchor ? boundaries : null;
    let source = noised;
    /** @type {Decoded[]} */
    let targets = tree.first[0].map(() => ({ x: noised, maps: [nothing, nothing], mask: null }));
    for (const [k, hop] of hops.entries()) {
      await step();
      const own = tree.first[k].map((i) => rows[i]);
      const before = tree.parents[k].map((row) => targets[row]);
      const free = cells && afterHop(cells.data, k, hops.length);
      const prompts = own.map(({ settings, tokens: { ids } }) => {
        const tau = Array.isArray(settings.tau) ? settings.tau[0] : (settings.tau ?? 1);
        const switched = settings.control === "switch" && hop.t > steps * tau;
        return features.get((switched ? tokens : { ids }).ids.join());
      });
      const called = await this.hop(hop, k, {
        sources: [source],
        targets: own.map((row, i) => ({ ...before[i], plan: row.plan })),
        owner: own.map(() => 0),
        guidance: own.map((row) => row.guidance[k]),
        features: [features.get(tokens.ids.join()), ...prompts],
        boundary: anchored && anchored[k],
        anchors: own.map((row) => (anchored ? (row.settings.anchor ?? 0) : 0)),
        free,
      });
      [source] = called.sources;
      targets = called.targets;
    }
    return { source: anchored ? anchored[hops.length - 1] : source, targets };
  }

  /**
   * A hop of source rows and their targets, in calls of few targets each.
   * @param {{t: number, A: number, B: number}} hop
   * @param {number} k the step of the plans
   * @param {Rows} rows
   */
  async hop(hop, k, rows) {
    const { targets, owner, sources } = rows;
    if (targets.length <= MOST_TARGETS) return this.call(hop, k, rows);
    /** @type {Awaited<ReturnType<Inversion["call"]>>} */
    const found = { sources: [], targets: [] };
    for (let from = 0; from < targets.length; from += MOST_TARGETS) {
      const to = Math.min(from + MOST_TARGETS, targets.length);
      const part = [...new Set(owner.slice(from, to))];
      const called = await this.call(hop, k, {
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
   * @param {{t: number, A: number, B: number}} hop
   * @param {number} k the step of the plans
   * @param {Rows} rows
   */
  async call(hop, k, { sources, targets, owner, guidance, features, boundary, anchors, free }) {
    const { engine } = this;
    const { blend_downscale: shrink, guidance_width: width } = engine.manifest;
    const [, channels, h, w] = this.held.shape;
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
    const size = [Math.floor(h / shrink), Math.floor(w / shrink)];
    const feeds = {
      ...engine.hopFeeds(all, hop, scales, features, this.held.shape, width),
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
    const out = await engine.run("decode_hop", feeds, outputs);
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
   * The features of the source and of every target, by token ids.
   * @param {Row[]} rows
   */
  async features(rows) {
    const found = new Map();
    for (const tokens of [this.held.tokens, ...rows.map((row) => row.tokens)])
      found.set(tokens.ids.join(), await this.engine.encodePrompt(tokens));
    return found;
  }

  /**
   * The rows with how much better the target prompt than the source prompt explains each, by the decode
   * network, unguided, at one time step; and how much each has changed.
   * @param {Row[]} rows
   * @param {Decoded[]} decoded
   * @param {Float32Array} source
   */
  async judged(rows, decoded, source) {
    const { judge } = this.engine.manifest;
    const count = decoded.length;
    const noise = normalNoise(0n, source.length);
    const noised = decoded.map(({ x }) => x.map((own, i) => fround(judge.a) * own + fround(judge.sigma) * noise[i]));
    const features = await this.features(rows);
    const n = this.engine.words.tables.length;
    const plan = {
      mix: [new Float32Array(n * n)],
      gain: [new Float32Array(n).fill(1)],
      share: [false],
      blendSource: null,
      blendTarget: null,
    };
    const called = await this.hop(judge, 0, {
      sources: noised,
      targets: decoded.map(({ maps }, i) => ({ x: noised[i], maps, plan })),
      owner: decoded.map((_, i) => i),
      guidance: Array(count).fill(0),
      features: [this.held.tokens, rows[0].tokens].flatMap(({ ids }) => Array(count).fill(features.get(ids.join()))),
      boundary: null,
      anchors: Array(count).fill(0),
      free: null,
    });
    const error = (/** @type {Float32Array} */ before, /** @type {Float32Array} */ after) =>
      mean(after, (value, i) => {
        const predicted = fround(fround(value - fround(judge.A) * before[i]) / fround(judge.B));
        const eps = judge.prediction === "epsilon" ? predicted : judge.sigma * before[i] + judge.a * predicted;
        return (eps - noise[i]) ** 2;
      });
    return rows.map((row, i) => ({
      ...row,
      agreement: error(noised[i], called.sources[i]) - error(noised[i], called.targets[i].x),
      change: mean(decoded[i].x, (value, at) => Math.abs(value - source[at])),
    }));
  }

  /**
   * Where the picture of a row may change; null where it may everywhere.
   * @param {Decoded} decoded
   * @param {Settings["mask"] | null} mask
   * @param {Settings} settings
   */
  restricted({ mask: cells }, mask, settings) {
    const { picture, shape } = this.held;
    const own = settings.blend && cells ? { width: shape[3], height: shape[2], data: cells } : null;
    return mask || own ? forTarget(mask ?? null, own, [picture.width, picture.height]) : null;
  }

  /**
   * A row's picture at the original's size, over the original where that is asked for.
   * @param {Float32Array} latents
   * @param {ReturnType<Inversion["restricted"]>} mask
   * @param {Settings} settings
   * @param {boolean} masked whether the user gave a mask
   */
  async finished(latents, mask, settings, masked) {
    const { picture, reconstruction, size, shape } = this.held;
    const small = await this.engine.decodeLatents(latents, size);
    const own = finished(small, picture, reconstruction, settings.detail ?? 0, this.engine.manifest.detail);
    if (!mask || !(settings.paste_back ?? masked)) return own;
    const cell = Math.max(picture.width / shape[3], picture.height / shape[2]);
    return { ...own, data: pasteBack(picture.data, own.data, mask, settings.feather ?? cell / 2) };
  }
}

/**
 * @param {Float32Array} values
 * @param {(value: number, i: number) => number} of
 */
function mean(values, of) {
  return values.reduce((sum, value, i) => sum + of(value, i), 0) / values.length;
}
