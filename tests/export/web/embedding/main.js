// The example of docs/web.md, in a page that is not the project's.
import { Engine } from "./icd/icd.js";

const [file, result, told] = ["file", "result", "told"].map((id) => /** @type {any} */ (document.getElementById(id)));
const engine = await Engine.load("icd/", { progress: ({ stage, done, total }) => (told.textContent = `${stage} ${done}/${total}`) });
told.textContent = "ready";
file.onchange = async () => {
  const inversion = await engine.invert(file.files[0], "a red circle on a white background");
  const { images } = await inversion.edit("a blue circle on a white background", { guidance_scale: 4 });
  [result.width, result.height] = [images[0].width, images[0].height];
  result.getContext("2d").putImageData(images[0], 0, 0);
  told.textContent = "done";
};
