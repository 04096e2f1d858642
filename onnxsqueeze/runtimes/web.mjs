// Runs a model in onnxruntime-web: a request for each line of stdin, an answer for each line of stdout.
// Arguments: the folder that holds node_modules, the model, the number of threads. Arrays come as base64.
import { readFile } from "node:fs/promises";
import { createRequire } from "node:module";
import path from "node:path";
import { createInterface } from "node:readline";
import { pathToFileURL } from "node:url";

const [folder, model, threads] = process.argv.slice(2);
const ARRAYS = {
  float32: Float32Array, float64: Float64Array, int8: Int8Array, uint8: Uint8Array, int16: Int16Array,
  uint16: Uint16Array, int32: Int32Array, uint32: Uint32Array, int64: BigInt64Array, uint64: BigUint64Array,
  bool: Uint8Array, float16: globalThis.Float16Array ?? Uint16Array,
};

function decoded(ort, { type, dims, data }) {
  const bytes = Uint8Array.from(Buffer.from(data, "base64")); // a copy, whose memory is aligned
  return new ort.Tensor(type, new ARRAYS[type](bytes.buffer), dims);
}

function encoded({ type, dims, data }) {
  return { type, dims, data: Buffer.from(data.buffer, data.byteOffset, data.byteLength).toString("base64") };
}

function answer(value) {
  process.stdout.write(JSON.stringify(value) + "\n");
}

async function main() {
  const found = createRequire(path.join(path.resolve(folder), "any.js")).resolve("onnxruntime-web");
  const { default: ort } = await import(pathToFileURL(found));
  ort.env.wasm.numThreads = Number(threads);
  ort.env.logLevel = "fatal";
  const session = await ort.InferenceSession.create(await readFile(model), { executionProviders: ["wasm"] });
  answer({});
  for await (const line of createInterface({ input: process.stdin })) {
    const { inputs, repeats } = JSON.parse(line);
    const feeds = Object.fromEntries(Object.entries(inputs).map(([name, tensor]) => [name, decoded(ort, tensor)]));
    const seconds = [];
    let outputs = {};
    for (let index = 0; index < repeats; index++) {
      const start = performance.now();
      outputs = await session.run(feeds);
      seconds.push((performance.now() - start) / 1000);
    }
    const encodedOutputs = Object.entries(outputs).map(([name, tensor]) => [name, encoded(tensor)]);
    const peak_bytes = process.resourceUsage().maxRSS * 1024;
    answer({ outputs: Object.fromEntries(encodedOutputs), seconds, peak_bytes });
  }
}

main().then(
  () => process.exit(0),
  (error) => {
    answer({ error: String(error?.message ?? error) });
    process.exit(1);
  },
);
