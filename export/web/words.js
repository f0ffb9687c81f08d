/** Tokens, the words they belong to, and the alignment of two prompts: editing/words.py. */

import { PromptError, shown } from "./errors.js";

/** @typedef {{text: string, tokens: number[]}} Word */
/** @typedef {{text: string, ids: number[], words: Word[], length: number, name: string, cut: string}} Tokens
 * ids: begin, content, end, padding, n in all; length: without the padding; cut: what was too long. */
/** @typedef {{length: number, begin: number, end: number, pad: number, unknown: number | null,
 *   special: Record<string, string>, vocabulary: Record<string, number>, casefold: Record<string, string>,
 *   merges?: string[], suffix?: string, pattern?: string}} Tables */
/** @typedef {{id: number, start: number, end: number}} Piece */

// White space as Unicode has it, and what Python counts beside it; JavaScript's \s is another set.
const UNICODE = "\\t-\\r \\x85\\xa0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000";
const PYTHON = `${UNICODE}\\x1c-\\x1f`;
const WORD = "\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}\\p{Join_Control}";
const PIECES = new RegExp(`[${WORD}]+|[^${WORD}]+`, "gu");
const GPT2 = /'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}+|[^\p{L}\p{N}]+/gu;
const PUNCTUATION = /^[\p{P}$+<=>^`|~]$/u;

/** @param {string} text */
export const split = (text) => text.match(new RegExp(`[^${PYTHON}]+`, "gu")) ?? [];

export class Tokenizer {
  /** @param {Tables} tables */
  constructor(tables) {
    this.tables = tables;
    this.vocabulary = new Map(Object.entries(tables.vocabulary));
    this.folds = new Map(Object.entries(tables.casefold));
    this.ranks = new Map((tables.merges ?? []).map((pair, rank) => [pair, rank]));
    const spaces = (tables.pattern ?? "").replaceAll("\\s", UNICODE);
    this.pattern = tables.pattern === undefined ? null : new RegExp(spaces, "gu");
  }

  /**
   * Tokens of a prompt; one that is too long is cut.
   * @param {unknown} text
   * @param {string} name what errors call it
   * @returns {Tokens}
   */
  encode(text, name = "the prompt") {
    if (typeof text !== "string" || /\p{Surrogate}/u.test(text))
      throw new PromptError(`${name} must be a text of valid characters, not ${shown(text)}`);
    const { length, begin, end, pad } = this.tables;
    const found = this.content(text);
    const content = found.slice(0, length - 2);
    const cut = found.length > content.length ? text.slice(found[content.length].start) : "";
    const ids = [begin, ...content.map((one) => one.id), end];
    const filled = [...ids, ...Array(length - ids.length).fill(pad)];
    const words = [...text.matchAll(new RegExp(`[^${PYTHON}]+`, "gu"))].map((match) => {
      const [from, to] = [match.index, match.index + match[0].length];
      const own = content.flatMap((one, i) => (one.start < to && one.end > from ? [i + 1] : []));
      return { text: match[0], tokens: own };
    });
    return { text, ids: filled, words, length: ids.length, name, cut };
  }

  /**
   * @param {string} text
   * @returns {Piece[]}
   */
  content(text) {
    const { special, unknown } = this.tables;
    const found = [];
    for (const chunk of text.matchAll(new RegExp(`[^${UNICODE}]+`, "gu"))) {
      const { lowered, from, to } = normalised(chunk[0]);
      for (const piece of this.pieces(lowered)) {
        const start = chunk.index + from[piece.start];
        const end = chunk.index + to[piece.end - 1];
        let id = /** @type {number | null} */ (piece.id);
        const spelt = special[piece.id];
        if (spelt !== undefined && this.fold(text.slice(start, end)) === this.fold(spelt)) id = unknown;
        if (id !== null) found.push({ id, start, end });
      }
    }
    return found;
  }

  /**
   * Token ids of text without white space.
   * @param {string} text
   * @returns {Piece[]}
   */
  pieces(text) {
    if (this.pattern === null)
      return [...text.matchAll(PIECES)].flatMap((match) => {
        const id = this.vocabulary.get(match[0]) ?? this.tables.unknown;
        return id === null ? [] : [{ id, start: match.index, end: match.index + match[0].length }];
      });
    return [...text.matchAll(this.pattern)].flatMap((outer) =>
      [...outer[0].matchAll(GPT2)].flatMap((inner) => this.merged(inner[0], outer.index + inner.index)),
    );
  }

  /**
   * Byte pairs of one piece, merged in the order of their ranks, leftmost first.
   * @param {string} text
   * @param {number} at
   * @returns {Piece[]}
   */
  merged(text, at) {
    /** @type {{part: string, start: number, end: number}[]} */
    const parts = [];
    let start = at;
    for (const character of text) {
      const end = start + character.length;
      for (const byte of new TextEncoder().encode(character)) parts.push({ part: BYTES[byte], start, end });
      start = end;
    }
    parts[parts.length - 1].part += this.tables.suffix;
    for (;;) {
      const ranks = parts.slice(1).map((one, i) => this.ranks.get(`${parts[i].part} ${one.part}`) ?? Infinity);
      const best = ranks.reduce((least, rank) => Math.min(least, rank), Infinity);
      if (best === Infinity) break;
      const i = ranks.indexOf(best);
      const [one, other] = parts.slice(i, i + 2);
      parts.splice(i, 2, { part: one.part + other.part, start: one.start, end: other.end });
    }
    return parts.flatMap(({ part, ...place }) => {
      const id = this.vocabulary.get(part) ?? this.tables.unknown;
      return id === null ? [] : [{ id, ...place }];
    });
  }

  /** @param {string} text */
  fold(text) {
    return [...text].map((one) => this.folds.get(one) ?? one.toLowerCase()).join("");
  }

  /**
   * A word as compared: folded, without punctuation around it unless it is nothing else.
   * @param {string} word
   */
  bare(word) {
    const folded = [...this.fold(word.normalize("NFC"))];
    const inner = folded.flatMap((one, i) => (PUNCTUATION.test(one) ? [] : [i]));
    return inner.length ? folded.slice(inner[0], inner[inner.length - 1] + 1).join("") : folded.join("");
  }

  /**
   * Positions, ascending, of every occurrence of one or several words or phrases.
   * @param {Tokens} tokens
   * @param {string | string[]} words
   * @returns {number[]}
   */
  find(tokens, words) {
    const present = tokens.words.map((word) => this.bare(word.text));
    const found = new Set();
    for (const phrase of typeof words === "string" ? [words] : words) {
      const wanted = split(phrase).map((word) => this.bare(word));
      const starts = present.flatMap((_, i) =>
        wanted.length && wanted.every((word, k) => present[i + k] === word) ? [i] : [],
      );
      const text = `${tokens.name} ${shown(tokens.text)}`;
      if (!starts.length) throw new PromptError(`${shown(phrase)} does not occur in ${text}`);
      const own = starts.flatMap((i) => tokens.words.slice(i, i + wanted.length).flatMap((word) => word.tokens));
      if (!own.length) throw new PromptError(`${shown(phrase)} is beyond the ${tokens.ids.length} tokens of ${text}`);
      for (const position of own) found.add(position);
    }
    return [...found].sort((a, b) => a - b);
  }

  /**
   * The words that differ, as blend words; null where either prompt has none.
   * @param {Tokens} source
   * @param {Tokens} target
   * @returns {[string[], string[]] | null}
   */
  changedWords(source, target) {
    const texts = [source, target].map((prompt) => prompt.words.map((word) => this.bare(word.text)));
    const same = commonRuns(texts[0], texts[1]);
    const found = texts.map((own, side) => {
      const kept = new Set(same.flatMap((run) => own.slice(run[side], run[side] + run[2])));
      return [...new Set(own)].filter((word) => !kept.has(word));
    });
    return found.every((own) => own.length) ? [found[0], found[1]] : null;
  }
}

/** ByteLevel's characters of the 256 bytes. */
const BYTES = (() => {
  let next = 256;
  return Array.from({ length: 256 }, (_, byte) => {
    const plain = (byte > 32 && byte < 127) || (byte > 160 && byte !== 173);
    return String.fromCodePoint(plain ? byte : next++);
  });
})();

/**
 * NFC and lower case of text without white space; from, to: of each unit of it, where it comes from.
 * @param {string} text
 */
function normalised(text) {
  const units = [];
  for (const one of text) {
    const last = units[units.length - 1];
    const joins = last && (last + one).normalize("NFC") !== last.normalize("NFC") + one.normalize("NFC");
    const marks = last && /\p{M}/u.test(one) && !/^[\x1c-\x1f]/u.test(last);
    if (joins || marks) units[units.length - 1] += one;
    else units.push(one);
  }
  let lowered = "";
  let at = 0;
  const from = [];
  const to = [];
  for (const unit of units) {
    const own = [...unit.normalize("NFC")].map((one) => one.toLowerCase()).join("");
    for (let i = 0; i < own.length; i++) {
      from.push(at);
      to.push(at + unit.length);
    }
    lowered += own;
    at += unit.length;
  }
  return { lowered, from, to };
}

/**
 * Runs [i, j, count] that two lists have in common, as difflib's SequenceMatcher finds them: the longest
 * first, the earliest of several, then left and right of it.
 * @param {string[]} one
 * @param {string[]} other
 * @returns {[number, number, number][]}
 */
function commonRuns(one, other, i0 = 0, i1 = one.length, j0 = 0, j1 = other.length) {
  /** @type {[number, number, number]} */
  let best = [i0, j0, 0];
  let before = new Map();
  for (let i = i0; i < i1; i++) {
    const lengths = new Map();
    for (let j = j0; j < j1; j++) {
      if (one[i] !== other[j]) continue;
      const count = (before.get(j - 1) ?? 0) + 1;
      lengths.set(j, count);
      if (count > best[2]) best = [i - count + 1, j - count + 1, count];
    }
    before = lengths;
  }
  const [i, j, count] = best;
  if (!count) return [];
  const left = commonRuns(one, other, i0, i, j0, j);
  return [...left, best, ...commonRuns(one, other, i + count, i1, j + count, j1)];
}

/**
 * Needleman-Wunsch alignment: gap 0, match 1, mismatch -1. The source position of every target position,
 * -1 where it is new.
 * @param {Tokens} source
 * @param {Tokens} target
 * @returns {number[]}
 */
export function align(source, target) {
  const x = source.ids.slice(0, source.length);
  const y = target.ids.slice(0, target.length);
  const score = [Array(y.length + 1).fill(0)];
  for (let i = 0; i < x.length; i++) {
    score.push([0]);
    for (let j = 0; j < y.length; j++) {
      const pair = score[i][j] + (x[i] === y[j] ? 1 : -1);
      score[i + 1].push(Math.max(score[i + 1][j], score[i][j + 1], pair));
    }
  }
  const m = target.ids.map((_, j) => j);
  let [i, j] = [x.length, y.length];
  while (j > 0)
    if (i === 0 || score[i][j] === score[i][j - 1]) m[--j] = -1;
    else if (score[i][j] === score[i - 1][j]) i--;
    else m[--j] = --i;
  return m;
}
