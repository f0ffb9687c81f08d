/** A picture encoded to noise, kept: every further edit of it costs the decode hops alone. */

import { ranked } from "./automatic.js";
import { SettingsError } from "./errors.js";
import { decodeHop, mapSize, neutral } from "./hops.js";
import { afterHop, checkedMask, forTarget, pasteBack, touched } from "./masks.js";
import { normalNoise } from "./numbers.js";
import { finished } from "./pictures.js";
import { checked } from "./settings.js";

const { fround } = Math;
/** @typedef {import("./engine.js").Row} Row */
/** @typedef {import("./settings.js").Settings} Settings */
/** @typedef {{picture: import("./pictures.js").Pixels, tokens: import("./words.js").Tokens, seed: bigint,
 *   size: number[], shape: number[], noised: Float32Array, boundaries: Float32Array[] | null,
 *   reconstruction: import("./pictures.js").Pixels}} Held
 * size: what the model works at; shape: of the latents; boundaries: latents at the end of every decode
 * hop as encoding passed them; reconstruction: what the VAE alone keeps of the picture. */
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
    const { decode_hops: hops, steps } = this.engine.manifest;
    const cells = mask ? touched(mask, [shape[3], shape[2]]) : null;
    const nothing = new Float32Array(mapSize(this.engine, shape).reduce((height, width) => height * width));
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
      const called = await decodeHop(this.engine, shape, hop, k, {
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
    const plan = neutral(this.engine.words.tables.length);
    const called = await decodeHop(this.engine, this.held.shape, judge, 0, {
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
