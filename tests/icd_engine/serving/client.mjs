// OpenAI's client for Node, unchanged, against the service: node client.mjs URL PICTURE SOURCE TARGET
import assert from "node:assert/strict";
import fs from "node:fs";
import OpenAI from "openai";

const [url, picture, source, target] = process.argv.slice(2);
const client = new OpenAI({ baseURL: url, apiKey: "any", maxRetries: 0 });
const more = { source_prompt: source, seed: 5 };
const asked = () => ({ model: "any", image: fs.createReadStream(picture), prompt: target, ...more });

async function edited(given = {}) {
    const answer = await client.images.edit({ ...asked(), ...given });
    return answer.data[0].b64_json;
}

async function refused(given, message) {
    await assert.rejects(client.images.edit({ ...asked(), ...given }), (error) => {
        assert.equal(error.status, 400);
        assert.match(error.message, message);
        return true;
    });
}

const plain = await edited();
for (const given of [
    { image: [fs.createReadStream(picture)] },
    { background: "auto" },
    { output_format: "png" },
    { output_compression: 100 },
    { input_fidelity: "high" },
    { quality: "high" },
    { partial_images: 0, stream: false },
    { size: "auto", n: 1, response_format: "b64_json", user: "someone" },
]) {
    assert.equal(await edited(given), plain, JSON.stringify(Object.keys(given)));
    console.log("the plain edit with", Object.keys(given).join(", "));
}

const kinds = [];
let last;
for await (const event of await client.images.edit({ ...asked(), stream: true, partial_images: 2 })) {
    kinds.push(event.type);
    last = event;
}
assert.deepEqual(kinds, [
    "image_edit.partial_image",
    "image_edit.partial_image",
    "image_edit.completed",
]);
assert.equal(last.b64_json, plain);
console.log("a stream of", kinds.join(", "));

const without = await client.images.edit({
    model: "any",
    image: fs.createReadStream(picture),
    prompt: target,
});
assert.match(without.warnings[0], /source_prompt/);
console.log("without a source prompt:", without.warnings[0]);

const { data } = await client.models.list();
assert.equal((await client.models.retrieve(data[0].id)).id, data[0].id);
console.log("models:", data.map((model) => model.id).join(", "));

const two = [fs.createReadStream(picture), fs.createReadStream(picture)];
await refused({ image: two }, /2 pictures are given/);
await refused({ background: "transparent" }, /'transparent'/);
await refused({ prompt: " " }, /the target prompt is empty/);
console.log("refusals are errors of status 400");

fs.writeFileSync(picture + ".edited", plain);
