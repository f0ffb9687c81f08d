/** Automatic settings: a few candidates decoded together, and the one that changes least of those that
 * show the target: automatic.py. */

/** @typedef {import("./engine.js").Row} Row */
/** @typedef {{first: number[][], rows: number[][], parents: number[][]}} Tree
 * Of each hop: the candidate of every row, the row of every candidate, the row before of every row. */

/**
 * The settings to try; what was chosen is left as it is.
 * @param {any} automatic candidates, blends and agrees of icd.json
 * @param {import("./settings.js").Settings} own
 * @param {string[]} chosen
 * @param {[string[], string[]] | null} words that differ
 * @param {number} most the greatest guidance scale
 * @returns {import("./settings.js").Settings[]}
 */
export function candidates(automatic, own, chosen, words, most) {
  if (own.control === "none" || own.control === "switch") return [{ ...own, auto: false }];
  const tried = words ? [...automatic.candidates, { ...automatic.blends, blend: words }] : automatic.candidates;
  return tried.map(({ guidance = 1, ...values }) => {
    const w = Math.min((own.guidance_scale ?? 0) * guidance, most);
    const all = { blend: null, guidance_scale: w, ...values };
    const free = Object.entries(all).filter(([name]) => !chosen.includes(name));
    return { ...own, ...Object.fromEntries(free), auto: false };
  });
}

/**
 * Rows without those that do what an earlier one does, and the tree of what the others share.
 * @param {Row[]} rows
 * @returns {{rows: Row[], tree: Tree}}
 */
export function shared(rows) {
  const every = rows.map((row) => row.guidance.map((_, k) => done(row, k)));
  const distinct = every.flatMap((own, i) =>
    every.findIndex((other) => other.join() === own.join()) === i ? [i] : [],
  );
  const keys = distinct.map((i) => every[i].map((_, k) => every[i].slice(0, k + 1).join()));
  /** @type {Tree} */
  const tree = { first: [], rows: [], parents: [] };
  for (let k = 0; k < keys[0].length; k++) {
    const different = [...new Set(keys.map((own) => own[k]))];
    const row = keys.map((own) => different.indexOf(own[k]));
    const first = different.map((_, number) => row.indexOf(number));
    const above = k ? tree.rows[k - 1] : row;
    tree.rows.push(row);
    tree.first.push(first);
    tree.parents.push(first.map((i) => above[i]));
  }
  return { rows: distinct.map((i) => rows[i]), tree };
}

/**
 * What a row does in hop k, as a key.
 * @param {Row} row
 * @param {number} k
 */
function done({ plan, guidance }, k) {
  return `[${plan.mix[k]};${plan.gain[k]};${plan.share[k]};${guidance[k]};${plan.blendSource !== null}]`;
}

/**
 * Best first: those that agree about as much as the best one, least change first; then the others.
 * @template {{agreement: number, change: number}} T
 * @param {T[]} found
 * @param {number} agrees
 * @returns {T[]}
 */
export function ranked(found, agrees) {
  const best = Math.max(...found.map((one) => one.agreement));
  const shows = (/** @type {T} */ one) => best > 0 && one.agreement >= agrees * best;
  const place = (/** @type {T} */ one) => (shows(one) ? one.change : -one.agreement);
  return [...found].sort((a, b) => Number(shows(b)) - Number(shows(a)) || place(a) - place(b));
}
