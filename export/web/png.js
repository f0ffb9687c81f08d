/** A picture as a PNG that says what made it: metadata.py's mark, where Python's files have it. */

/**
 * @param {ImageData} image
 * @param {string} xmp
 * @returns {Promise<Blob>}
 */
export async function provenPng(image, xmp) {
  const canvas = new OffscreenCanvas(image.width, image.height);
  /** @type {OffscreenCanvasRenderingContext2D} */ (canvas.getContext("2d")).putImageData(image, 0, 0);
  const file = new Uint8Array(await (await canvas.convertToBlob({ type: "image/png" })).arrayBuffer());
  return new Blob([marked(file, xmp)], { type: "image/png" });
}

/**
 * The file with the text as XMP (an iTXt chunk), right behind its header.
 * @param {Uint8Array} file
 * @param {string} xmp
 */
export function marked(file, xmp) {
  const keyword = "XML:com.adobe.xmp";
  // Not compressed, in no language
  const chunk = new TextEncoder().encode(`iTXt${keyword}\0\0\0\0\0${xmp}`);
  const header = 33; // the signature and IHDR
  const out = new Uint8Array(file.length + chunk.length + 8);
  const view = new DataView(out.buffer);
  out.set(file.subarray(0, header));
  view.setUint32(header, chunk.length - 4);
  out.set(chunk, header + 4);
  view.setUint32(header + 4 + chunk.length, crc(chunk));
  out.set(file.subarray(header), header + chunk.length + 8);
  return out;
}

/** @param {Uint8Array} data */
function crc(data) {
  let value = 0xffffffff;
  for (const byte of data) {
    value ^= byte;
    for (let bit = 0; bit < 8; bit++) value = (value >>> 1) ^ (value & 1 ? 0xedb88320 : 0);
  }
  return (value ^ 0xffffffff) >>> 0;
}
