// Reads calls of the page's modules from a JSON file, [[name, arguments], ...], and writes their results,
// or their errors, to another. Numbers that JSON has not travel as texts.
import { readFileSync, writeFileSync } from "node:fs";
import { pathToFileURL } from "node:url";

const [folder, asked, answered] = process.argv.slice(2);
const load = (name) => import(pathToFileURL(`${folder}/${name}.js`).href);
const [words, plan, numbers, pictures, masks, settings, automatic] = await Promise.all(
  ["words", "plan", "numbers", "pictures", "masks", "settings", "automatic"].map(load),
);
const { tables, calls } = JSON.parse(readFileSync(asked, "utf8"));
const tokenizer = tables && new words.Tokenizer(tables);
const bytes = (values) => Uint8Array.from(values);
const floats = (values) => Float32Array.from(values);
const grid = ([width, height, data]) => ({ width, height, data: floats(data) });
const rgb = ([width, height, data]) => ({ width, height, data: bytes(data) });
const pair = (source, target) => [tokenizer.encode(source), tokenizer.encode(target)];

const FUNCTIONS = {
  encode: (text) => {
    const { ids, words: own, length, cut } = tokenizer.encode(text);
    return { ids, length, cut, words: own.map((word) => [word.text, word.tokens]) };
  },
  find: (text, phrase) => tokenizer.find(tokenizer.encode(text), phrase),
  bare: (word) => tokenizer.bare(word),
  align: (source, target) => words.align(...pair(source, target)),
  changed: (source, target) => tokenizer.changedWords(...pair(source, target)),
  plan: (source, target, own, steps) => {
    const made = plan.makePlan(tokenizer, ...pair(source, target), own, steps);
    // Sparse, or thousands of plans would be gigabytes of text
    const sparse = (values) => [...values].flatMap((value, i) => (value ? [[i, value]] : []));
    return {
      mix: made.mix.map(sparse),
      gain: made.gain.map((values) => [...values]),
      share: made.share,
      blend: [made.blendSource, made.blendTarget].map((own) => own && sparse(own).map(([i]) => i)),
    };
  },
  noise: (seed, count) => numbers.normalNoise(BigInt(seed), count),
  guidance: (...own) => numbers.dynamicGuidance(...own),
  embedding: (scales, width) => numbers.guidanceEmbedding(scales, width),
  fitted: (...own) => numbers.fittedSize(...own),
  even: (value) => numbers.even(value),
  resized: (data, channels, from, to, filter) => pictures.resized(bytes(data), channels, from, to, filter),
  asPixels: (width, height, data) => pictures.asPixels({ width, height, data: bytes(data) }).data,
  range: (picture, size) => pictures.toModelRange(rgb(picture), size),
  pixels: (values, width, height) => pictures.toPixels(floats(values), width, height).data,
  finished: (decoded, original, other, share, limits) =>
    pictures.finished(rgb(decoded), rgb(original), rgb(other), share, limits).data,
  touched: (mask, size) => masks.touched(grid(mask), size).data,
  afterHop: (strengths, k, hops) => masks.afterHop(floats(strengths), k, hops),
  forTarget: (mask, cells, size) => masks.forTarget(mask && grid(mask), cells && grid(cells), size).data,
  checkedMask: ([width, height, data], size) => masks.checkedMask({ width, height, data }, size).data,
  ring: (mask, feather) => masks.ringWeights(grid(mask), feather),
  paste: (original, edited, mask, feather) => masks.pasteBack(bytes(original), bytes(edited), grid(mask), feather),
  settled: (given, defaults, limits, anchors) => settings.settled(settings.checked(given, limits), defaults, anchors),
  ranked: (found, agrees) => automatic.ranked(found, agrees).map((one) => one.name),
};

const plain = (_, value) => {
  if (typeof value === "bigint") return String(value);
  return ArrayBuffer.isView(value) ? [...value] : value;
};
const results = calls.map(([name, given]) => {
  try {
    return { value: FUNCTIONS[name](...given) };
  } catch (error) {
    if (!/^(Image|Prompt|Settings)Error$/.test(error.name)) throw error;
    return { error: error.name, text: error.message };
  }
});
writeFileSync(answered, JSON.stringify(results, plain));
