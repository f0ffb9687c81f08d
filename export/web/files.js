/** The site's files: fetched once, kept in Cache Storage, and checked by their SHA-256. */

import { BundleError } from "./errors.js";

/** @typedef {{file: string, bytes: number, sha256: string}} Entry */

const PREFIX = "icd_engine:";

/**
 * A folder of the site, whose files are fetched by their entries in icd.json.
 */
export class Files {
  /**
   * @param {URL} base
   * @param {(bytes: number) => void} arrived hears of every file's bytes
   */
  constructor(base, arrived) {
    this.base = base;
    this.arrived = arrived;
    this.cache = globalThis.caches?.open(PREFIX + base.href).catch(() => null) ?? null;
  }

  /**
   * icd.json, always asked for anew; without a network, the one that was seen last.
   * @returns {Promise<any>}
   */
  async manifest() {
    const url = new URL("icd.json", this.base).href;
    const cache = await this.cache;
    const answer = await fetch(url, { cache: "no-cache" }).catch(() => null);
    if (answer?.ok) {
      await cache?.put(url, answer.clone());
      return answer.json();
    }
    const kept = await cache?.match(url);
    if (!kept) throw new BundleError(`${url} cannot be read${answer ? ` (HTTP ${answer.status})` : ""}`);
    return kept.json();
  }

  /**
   * @param {Entry} entry
   * @returns {Promise<Uint8Array<ArrayBuffer>>}
   */
  async read({ file, bytes, sha256 }) {
    const url = new URL(file, this.base);
    url.searchParams.set("sha256", sha256.slice(0, 16));
    const cache = await this.cache;
    let answer = await cache?.match(url.href);
    const kept = answer !== undefined;
    answer ??= await fetch(url.href).catch((error) => {
      throw new BundleError(`${file} cannot be fetched: ${error.message}`);
    });
    if (!answer.ok) throw new BundleError(`${file} cannot be fetched (HTTP ${answer.status})`);
    const data = new Uint8Array(await answer.arrayBuffer());
    if (data.length !== bytes || ((await digest(data)) ?? sha256) !== sha256) {
      await cache?.delete(url.href);
      throw new BundleError(`${file} was changed or damaged (SHA-256 differs from icd.json)`);
    }
    // A full disk, or a private window: the file is fetched again next time
    if (!kept) await cache?.put(url.href, new Response(data)).catch(() => undefined);
    this.arrived(bytes);
    return data;
  }

  /**
   * Forgets files of an earlier version of the site.
   * @param {Entry[]} entries
   */
  async prune(entries) {
    const cache = await this.cache;
    const current = new Set(entries.map((one) => one.sha256.slice(0, 16)));
    for (const request of (await cache?.keys()) ?? []) {
      const sha = new URL(request.url).searchParams.get("sha256");
      if (sha !== null && !current.has(sha)) await cache?.delete(request);
    }
  }
}

/**
 * @param {Uint8Array<ArrayBuffer>} data
 */
async function digest(data) {
  // Pages of plain HTTP have no hashes: the length has to do
  if (!globalThis.crypto?.subtle) return null;
  const found = new Uint8Array(await crypto.subtle.digest("SHA-256", data));
  return [...found].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}
