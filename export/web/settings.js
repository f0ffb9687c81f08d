/** What an edit may be told: Python's names and ranges, checked: settings.py, and Model.settle. */

import { SettingsError, shown } from "./errors.js";

/** @typedef {number | [number, number]} Share */
/** @typedef {{width: number, height: number, data: Float32Array}} Mask 0 is kept, 1 may change. */
/** @typedef {{guidance_scale?: number, tau?: Share, tau_low?: number,
 *   control?: "auto" | "replace" | "refine" | "switch" | "none",
 *   cross_replace?: Share | Record<string, Share>, self_replace?: Share, amplify?: Record<string, number>,
 *   blend?: [string[], string[]] | null, mask?: Mask, paste_back?: boolean, feather?: number,
 *   seed?: number | bigint | string, anchor?: number, detail?: number, auto?: boolean}} Settings */
/** @typedef {{guidance: number, amplify: number, feather: number}} Limits */

const CONTROLS = ["auto", "replace", "refine", "switch", "none"];
/** What says how an edit is made: choosing one turns a model's own automatic settings off. */
const ATTENTION = ["control", "cross_replace", "self_replace", "amplify", "blend"];
const CHOICES = ["guidance_scale", "tau", "tau_low", ...ATTENTION, "anchor"];

/**
 * The settings that were given, checked, and blend words as a pair of lists.
 * @param {Record<string, any>} given
 * @param {Limits} limits
 * @returns {Settings}
 */
export function checked(given, limits) {
  const unit = number(0, 1);
  /** @type {Record<string, (name: string, value: any) => unknown>} */
  const checks = {
    guidance_scale: number(0, limits.guidance),
    tau: share,
    tau_low: unit,
    control: (name, value) => {
      if (!CONTROLS.includes(value)) throw wrong(name, `must be one of ${CONTROLS.join(", ")}`, value);
      return value;
    },
    cross_replace: (name, value) => (isMap(value) ? each(name, value, share) : share(name, value)),
    self_replace: share,
    amplify: (name, value) => {
      if (!isMap(value)) throw wrong(name, "must map words to factors", value);
      return each(name, value, number(-limits.amplify, limits.amplify));
    },
    blend: pair,
    mask: (_, value) => value,
    paste_back: truth,
    feather: number(0, limits.feather),
    seed,
    anchor: unit,
    detail: unit,
    auto: truth,
  };
  const known = Object.keys(checks);
  /** @type {Record<string, unknown>} */
  const found = {};
  for (const [name, value] of Object.entries(given)) {
    if (!known.includes(name)) throw new SettingsError(`unknown setting ${shown(name)} (known: ${known.join(", ")})`);
    if (value !== null && value !== undefined) found[name] = checks[name](name, value);
  }
  return found;
}

/**
 * What an edit will use: the model's defaults filled in.
 * @param {Settings} given
 * @param {Settings} defaults
 * @param {boolean} anchors whether decoding can be held to what encoding has passed
 * @returns {Settings}
 */
export function settled(given, defaults, anchors) {
  const settings = { ...defaults, ...given };
  const windows = given.cross_replace;
  if (isMap(windows) && !("default" in windows)) {
    const usual = defaults.cross_replace;
    const other = isMap(usual) ? /** @type {Record<string, Share>} */ (usual).default : usual;
    if (other !== undefined) settings.cross_replace = { ...windows, default: other };
  }
  if (given.auto === undefined && CHOICES.some((name) => name in given)) settings.auto = false;
  if (settings.anchor && !anchors) settings.anchor = 0;
  settings.detail ??= settings.anchor;
  if (settings.control === "switch" && settings.blend)
    throw new SettingsError(
      "control 'switch' has no maps to blend by words: give a mask, or another control",
    );
  return settings;
}

/**
 * @param {string} name
 * @param {string} rule
 * @param {unknown} value
 */
const wrong = (name, rule, value) => new SettingsError(`${name} ${rule}, not ${shown(value)}`);

/** @param {unknown} value @returns {value is Record<string, any>} */
const isMap = (value) => typeof value === "object" && value !== null && !Array.isArray(value);

/**
 * @param {number} low
 * @param {number} high
 */
const number = (low, high) => (/** @type {string} */ name, /** @type {unknown} */ value) => {
  if (typeof value !== "number") throw wrong(name, "must be a number", value);
  if (!(low <= value && value <= high)) throw wrong(name, `must lie in ${low}..${high}`, value);
  return value;
};

/** @type {(name: string, value: unknown) => Share} */
function share(name, value) {
  const one = number(0, 1);
  if (!Array.isArray(value)) return one(name, value);
  if (value.length !== 2) throw wrong(name, "must be one share or a pair (low, high)", value);
  const [low, high] = value.map((own) => one(name, own));
  if (low > high) throw wrong(name, "must be an ascending pair", value);
  return [low, high];
}

/** @type {(name: string, value: Record<string, unknown>, check: (name: string, value: unknown) => any) => any} */
function each(name, value, check) {
  const entries = Object.entries(value).map(([own, of]) => [word(name, own), check(`${name}['${own}']`, of)]);
  return Object.fromEntries(entries);
}

/** @type {(name: string, value: unknown) => string} */
function word(name, value) {
  if (typeof value !== "string" || !value.trim()) throw wrong(name, "needs words that are not empty", value);
  return value;
}

/** @type {(name: string, value: unknown) => string[]} */
function words(name, value) {
  if (typeof value === "string") return [word(name, value)];
  if (!Array.isArray(value) || !value.length) throw wrong(name, "needs a word or a list of words", value);
  return value.map((one) => word(name, one));
}

/** @type {(name: string, value: unknown) => [string[], string[]]} */
function pair(name, value) {
  if (!Array.isArray(value) || value.every((one) => typeof one === "string")) {
    const both = words(name, value);
    return [both, both];
  }
  if (value.length !== 2) throw wrong(name, "must be a pair (source words, target words)", value);
  return [words(name, value[0]), words(name, value[1])];
}

/** @type {(name: string, value: unknown) => boolean} */
function truth(name, value) {
  if (typeof value !== "boolean") throw wrong(name, "must be true or false", value);
  return value;
}

/** A seed as a BigInt: numbers beyond 2**53 come as text. @type {(name: string, value: unknown) => bigint} */
function seed(name, value) {
  const whole = typeof value === "string" ? /^\d+$/.test(value) : Number.isSafeInteger(value);
  if (!whole && typeof value !== "bigint") throw wrong(name, "must be a whole number", value);
  const own = BigInt(/** @type {string} */ (value));
  if (own < 0n || own >= 2n ** 63n) throw wrong(name, "must lie in 0..2**63-1", String(value));
  return own;
}
