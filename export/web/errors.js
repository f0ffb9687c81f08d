/** Errors by the names that Python's have: bad input is one short line that names the culprit. */

export class IcdError extends Error {
  /** @param {string} text */
  constructor(text) {
    super(text.split(/\s+/u).join(" ").trim());
    this.name = new.target.name;
  }
}
/** A picture or mask that cannot be used. */
export class ImageError extends IcdError {}
/** A prompt that cannot be used, or a word that a setting names and the prompt does not hold. */
export class PromptError extends IcdError {}
/** A setting that is unknown, of the wrong type or out of range. */
export class SettingsError extends IcdError {}
/** A file of the site that is missing, changed or damaged. */
export class BundleError extends IcdError {}
/** A network call that this browser cannot do. */
export class RunnerError extends IcdError {}

const KINDS = { ImageError, PromptError, SettingsError, BundleError, RunnerError };

/**
 * An error that came from a worker, of its own class again.
 * @param {{name: string, message: string}} told
 * @returns {Error}
 */
export function revived({ name, message }) {
  if (name === "AbortError") return new DOMException(message, name);
  const kind = /** @type {Record<string, typeof IcdError>} */ (KINDS)[name];
  return kind ? new kind(message) : Object.assign(new Error(message), { name });
}

/**
 * A value as an error quotes it.
 * @param {unknown} value
 */
export function shown(value) {
  const text = typeof value === "string" ? `'${value}'` : String(JSON.stringify(value) ?? value);
  return text.length > 160 ? `${text.slice(0, 157)}...` : text;
}
