// Bundles the report's script with what it needs into the Python package, licence notices beside it.
import { build } from "esbuild";
import { readFileSync, writeFileSync } from "node:fs";

const page = new URL("../../onnxsqueeze/reporting/page/", import.meta.url).pathname;
const result = await build({
  entryPoints: ["src/app.js"], bundle: true, minify: true, format: "iife", target: "es2020",
  outfile: `${page}app.js`, legalComments: "none", metafile: true,
});
const packages = new Set();
for (const file of Object.keys(result.metafile.inputs)) {
  const found = file.match(/^node_modules\/((?:@[^/]+\/)?[^/]+)/);
  if (found) packages.add(found[1]);
}
const notices = [...packages].sort().map((name) => {
  const { version, license } = JSON.parse(readFileSync(`node_modules/${name}/package.json`));
  const text = readFileSync(`node_modules/${name}/LICENSE`, "utf8").trim();
  return `${name} ${version} (${license})\n\n${text}\n`;
});
writeFileSync(`${page}NOTICES.txt`, `app.js contains these packages.\n\n${notices.join("\n----\n\n")}`);
