/** A mask that is painted over a picture, with a pointer or with keys. */

const KEYS = /** @type {Record<string, [number, number]>} */ ({
  ArrowLeft: [-1, 0],
  ArrowRight: [1, 0],
  ArrowUp: [0, -1],
  ArrowDown: [0, 1],
});

export class Brush {
  /**
   * @param {HTMLCanvasElement} canvas over the picture
   * @param {HTMLInputElement} size of the brush, in hundredths of the picture's longer side
   */
  constructor(canvas, size) {
    this.canvas = canvas;
    this.size = size;
    this.painted = false;
    this.place = { x: 0, y: 0 };
    /** Called when a stroke ends. */
    this.changed = () => {};
    canvas.onpointerdown = (event) => {
      canvas.setPointerCapture(event.pointerId);
      this.stroke(event);
    };
    canvas.onpointermove = (event) => event.buttons && this.stroke(event);
    canvas.onpointerup = () => this.changed();
    canvas.onkeydown = (event) => this.key(event);
  }

  /** @returns {CanvasRenderingContext2D} */
  get context() {
    return /** @type {CanvasRenderingContext2D} */ (this.canvas.getContext("2d", { willReadFrequently: true }));
  }

  /**
   * An empty mask for a picture of this size.
   * @param {number} width
   * @param {number} height
   */
  fit(width, height) {
    this.canvas.width = width;
    this.canvas.height = height;
    this.place = { x: width / 2, y: height / 2 };
    this.painted = false;
  }

  clear() {
    const had = this.painted;
    this.fit(this.canvas.width, this.canvas.height);
    if (had) this.changed();
  }

  /** The mask, 1 where it is painted; null where nothing is. */
  mask() {
    const { width, height } = this.canvas;
    if (!this.painted) return null;
    const { data: rgba } = this.context.getImageData(0, 0, width, height);
    const data = Float32Array.from({ length: width * height }, (_, i) => Number(rgba[4 * i + 3] >= 128));
    return data.some(Boolean) ? { width, height, data } : null;
  }

  /** @param {PointerEvent} event */
  stroke(event) {
    const box = this.canvas.getBoundingClientRect();
    this.place = {
      x: ((event.clientX - box.left) / box.width) * this.canvas.width,
      y: ((event.clientY - box.top) / box.height) * this.canvas.height,
    };
    this.dab(true);
  }

  /** @param {KeyboardEvent} event */
  key(event) {
    const move = KEYS[event.key];
    const { width, height } = this.canvas;
    if (move) {
      const step = Math.max(width, height) / (event.shiftKey ? 8 : 32);
      const within = (/** @type {number} */ value, /** @type {number} */ most) => Math.min(most, Math.max(0, value));
      this.place = {
        x: within(this.place.x + step * move[0], width),
        y: within(this.place.y + step * move[1], height),
      };
      this.canvas.setAttribute("aria-description", `brush at ${Math.round(this.place.x)}, ${Math.round(this.place.y)}`);
    } else if (event.key === " " || event.key === "Delete" || event.key === "Backspace") {
      this.dab(event.key === " ");
      this.changed();
    } else return;
    event.preventDefault();
  }

  /** @param {boolean} paints or rubs out */
  dab(paints) {
    const { context, canvas } = this;
    context.globalCompositeOperation = paints ? "source-over" : "destination-out";
    context.fillStyle = "#f33";
    context.beginPath();
    const radius = (Math.max(canvas.width, canvas.height) * this.size.valueAsNumber) / 200;
    context.arc(this.place.x, this.place.y, radius, 0, 2 * Math.PI);
    context.fill();
    this.painted ||= paints;
  }
}
