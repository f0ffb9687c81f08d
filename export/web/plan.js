/** The plan of an edit: prompt-to-prompt control as numbers per decode step: editing/plan.py. */

import { PromptError, shown } from "./errors.js";
import { align } from "./words.js";

/** @typedef {import("./words.js").Tokens} Tokens */
/** @typedef {{mix: Float32Array[], gain: Float32Array[], share: boolean[], blendSource: Float32Array | null,
 *   blendTarget: Float32Array | null}} Plan
 * mix: S [n, n] of each decode step, source token -> target token; gain: d [n]; blend words as [n]. */

/**
 * @param {import("./words.js").Tokenizer} words
 * @param {Tokens} source
 * @param {Tokens} target
 * @param {import("./settings.js").Settings} settings
 * @param {number} steps
 * @returns {Plan}
 */
export function makePlan(words, source, target, settings, steps) {
  const n = target.ids.length;
  const control = controlOf(source, target, settings.control ?? "auto");
  const edits = control !== "none" && control !== "switch";
  const alpha = crossWindows(words, target, settings.cross_replace, steps);
  const eq = new Float32Array(n).fill(1);
  for (const [word, factor] of Object.entries(settings.amplify ?? {}))
    for (const position of words.find(target, word)) eq[position] = factor;
  const share = span(settings.self_replace, steps, steps);
  const m = control === "replace" ? null : align(source, target);
  const mapper = m === null ? replaceMapper(source, target) : refineMapper(m);
  const plan = { mix: /** @type {Float32Array[]} */ ([]), gain: /** @type {Float32Array[]} */ ([]) };
  for (let k = 0; k < steps; k++) {
    const mix = new Float32Array(n * n);
    const gain = new Float32Array(n);
    for (let t = 0; t < n; t++) {
      const held = edits && alpha[k][t] ? eq[t] : 0;
      const aligned = m === null || m[t] >= 0 ? 1 : 0;
      // Rounded where Python's arrays round
      gain[t] = Math.fround(held * (1 - aligned) + 1) - (edits ? alpha[k][t] : 0);
      for (let s = 0; s < n; s++) mix[s * n + t] = mapper[s * n + t] * held * aligned;
    }
    plan.mix.push(mix);
    plan.gain.push(gain);
  }
  const [first, second] = settings.blend
    ? [columns(words.find(source, settings.blend[0]), n), columns(words.find(target, settings.blend[1]), n)]
    : [null, null];
  return { ...plan, share: share.map((on) => edits && on), blendSource: first, blendTarget: second };
}

/**
 * alpha of every step [n]: 1 where the token's cross-attention still comes from the source.
 * @param {import("./words.js").Tokenizer} words
 * @param {Tokens} target
 * @param {import("./settings.js").Settings["cross_replace"]} given
 * @param {number} steps
 */
function crossWindows(words, target, given, steps) {
  const windows = typeof given === "object" && given !== null && !Array.isArray(given) ? given : { default: given };
  const usual = span(windows.default, steps + 1, steps);
  const alpha = usual.map((on) => new Float32Array(target.ids.length).fill(Number(on)));
  for (const [word, share] of Object.entries(windows)) {
    if (word === "default") continue;
    const own = span(share, steps + 1, steps);
    for (const position of words.find(target, word)) own.forEach((on, k) => (alpha[k][position] = Number(on)));
  }
  return alpha;
}

/**
 * @param {number | number[] | null | undefined} share
 * @param {number} count
 * @param {number} steps
 */
function span(share, count, steps) {
  const [low, high] = Array.isArray(share) ? share : [0, share ?? 0];
  return Array.from({ length: steps }, (_, k) => Math.trunc(low * count) <= k && k < Math.trunc(high * count));
}

/**
 * @param {Tokens} source
 * @param {Tokens} target
 * @param {string} control
 */
function controlOf(source, target, control) {
  const [one, other] = [source.words.length, target.words.length];
  if (control === "auto") return one === other ? "replace" : "refine";
  if (control === "replace" && one !== other)
    throw new PromptError(
      `control 'replace' needs prompts of equal word counts, but ${shown(source.text)} has ${one} words and ` +
        `${shown(target.text)} has ${other}: use 'refine'`,
    );
  return control;
}

/**
 * Word by word; one-to-one for equal token counts, else spread evenly over the target's tokens.
 * @param {Tokens} source
 * @param {Tokens} target
 */
function replaceMapper(source, target) {
  const n = target.ids.length;
  const mapper = new Float32Array(n * n);
  const used = [new Set(), new Set()];
  source.words.forEach(({ tokens: s }, i) => {
    const t = target.words[i].tokens;
    if (!s.length || !t.length) return;
    for (const one of s) used[0].add(one);
    for (const one of t) used[1].add(one);
    if (s.length === t.length) s.forEach((one, k) => (mapper[one * n + t[k]] = 1));
    else for (const one of s) for (const other of t) mapper[one * n + other] = 1 / t.length;
  });
  const [rest, others] = used.map((own) => target.ids.flatMap((_, p) => (own.has(p) ? [] : [p])));
  rest.slice(0, others.length).forEach((one, k) => (mapper[one * n + others[k]] = 1));
  return mapper;
}

/**
 * Column j picks source token m(j); a new token's is empty.
 * @param {number[]} m
 */
function refineMapper(m) {
  const mapper = new Float32Array(m.length ** 2);
  m.forEach((s, t) => s >= 0 && (mapper[s * m.length + t] = 1));
  return mapper;
}

/**
 * @param {number[]} positions
 * @param {number} n
 */
function columns(positions, n) {
  const own = new Float32Array(n);
  for (const position of positions) own[position] = 1;
  return own;
}
