/** Noise from a seed, dynamic guidance and its embedding, sizes: sampling/*.py and model.fitted_size. */

const { fround } = Math;

/**
 * What torch.randn draws on the CPU after manual_seed, to the rounding of logarithm and cosine: a
 * Mersenne Twister, 24 bits to a uniform number, Box-Muller on pairs eight apart.
 * @param {bigint} seed
 * @param {number} count at least 16
 */
export function normalNoise(seed, count) {
  const draw = twister(Number(BigInt.asUintN(32, seed)));
  const whole = count - (count % 16);
  const tail = whole < count ? 16 : 0;
  const uniform = Float32Array.from({ length: count + tail }, () => (draw() & 0xffffff) / 2 ** 24);
  const noise = new Float32Array(count);
  for (let block = 0; block < whole + tail; block += 16) {
    // The last 16 are drawn anew where the count is no multiple
    const [at, to] = block < whole ? [block, block] : [count, count - 16];
    for (let i = 0; i < 8; i++) {
      const radius = fround(Math.sqrt(fround(-2 * fround(Math.log(fround(1 - uniform[at + i]))))));
      const angle = fround(fround(2 * Math.PI) * uniform[at + 8 + i]);
      noise[to + i] = radius * fround(Math.cos(angle));
      noise[to + 8 + i] = radius * fround(Math.sin(angle));
    }
  }
  return noise;
}

/**
 * MT19937: 32-bit numbers of a 32-bit seed.
 * @param {number} seed
 */
function twister(seed) {
  const state = new Uint32Array(624);
  state[0] = seed;
  for (let i = 1; i < 624; i++) state[i] = Math.imul(1812433253, state[i - 1] ^ (state[i - 1] >>> 30)) + i;
  let at = 624;
  return () => {
    if (at === 624) {
      for (let i = 0; i < 624; i++) {
        const bits = (state[i] & 0x80000000) | (state[(i + 1) % 624] & 0x7fffffff);
        state[i] = state[(i + 397) % 624] ^ (bits >>> 1) ^ (bits & 1 ? 0x9908b0df : 0);
      }
      at = 0;
    }
    let y = state[at++];
    y ^= y >>> 11;
    y ^= (y << 7) & 0x9d2c5680;
    y ^= (y << 15) & 0xefc60000;
    return (y ^ (y >>> 18)) >>> 0;
  };
}

/**
 * w(t): the full scale up to tau1, 0 from tau2 on and below tauLow, linear in between.
 * @param {number} t
 * @param {number} scale
 * @param {number | number[]} tau
 * @param {number} tauLow
 * @param {number} steps
 */
export function dynamicGuidance(t, scale, tau, tauLow, steps) {
  const [tau1, tau2] = Array.isArray(tau) ? tau : [tau, tau];
  const at = t / steps;
  if (at < tauLow) return 0;
  if (at <= tau1) return scale;
  return at >= tau2 ? 0 : (scale * (tau2 - at)) / (tau2 - tau1);
}

/**
 * Guidance scales -> sinusoids [B, width] of 1000 w, in float32 as networks were trained on them.
 * @param {number[]} scales
 * @param {number} width
 */
export function guidanceEmbedding(scales, width) {
  const half = Math.floor(width / 2);
  const rate = fround(fround(Math.log(10000)) / fround(half - 1));
  const out = new Float32Array(scales.length * width);
  scales.forEach((w, row) => {
    for (let k = 0; k < half; k++) {
      const frequency = fround(Math.exp(fround(k * -rate)));
      const phase = fround(fround(1000 * fround(w)) * frequency);
      out[row * width + k] = Math.sin(phase);
      out[row * width + half + k] = Math.cos(phase);
    }
  });
  return out;
}

/**
 * [width, height] in multiples of `step` with the aspect of the picture and about the pixels of `area`.
 * @param {number[]} picture
 * @param {number[]} area
 * @param {number} step
 * @param {number} most aspect
 * @returns {[number, number]}
 */
export function fittedSize(picture, area, step, most) {
  if (picture[0] * area[1] === picture[1] * area[0]) return [area[0], area[1]];
  const aspect = Math.min(Math.max(picture[0] / picture[1], 1 / most), most);
  const height = Math.sqrt((area[0] * area[1]) / aspect);
  const whole = (/** @type {number} */ side) => Math.max(1, even(side / step)) * step;
  return [whole(aspect * height), whole(height)];
}

/**
 * Rounded to the nearest whole number, halves to even ones, as Python and numpy do.
 * @param {number} value
 */
export function even(value) {
  const low = Math.floor(value);
  const rest = value - low;
  return rest < 0.5 || (rest === 0.5 && low % 2 === 0) ? low : low + 1;
}
