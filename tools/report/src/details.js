// What is said of a block beside the drawing.
import { bar, change, element, number } from "./dom.js";

export function describe(block, panel) {
  const close = element("button", "×", { type: "button", class: "close", "aria-label": "Close the details" });
  panel.replaceChildren(close, element("h3", block.name));
  const list = element("dl"), entry = (term, text, ...more) => { const dd = element("dd", text); dd.append(...more); list.append(element("dt", term), dd); };
  if (block.operator) entry("operator", block.operator);
  entry("channels", change(block.before, block.after), bar(block.before, block.after, block.before));
  if (block.heads) {
    const [before, after, widthBefore, widthAfter] = block.heads;
    entry("heads", change(before, after));
    entry("width of a head", change(widthBefore, widthAfter));
  }
  if (block.kind === "group") { entry("layers", number(block.layers)); entry("weights", change(block.weightsBefore, block.weightsAfter)); }
  if (block.layer) ofLayer(block.layer, entry);
  panel.append(list);
  if (block.picture) panel.append(...pictured(block.picture));
  panel.append(...reasons(block.layer));
  return close;
}

function ofLayer(layer, entry) {
  const shape = (sizes) => (sizes.length ? sizes.join(" × ") : "gone");
  entry("weight", `${shape(layer.shape_before)} → ${shape(layer.shape_after)}`);
  entry("weights", change(layer.weights_before, layer.weights_after), bar(layer.weights_before, layer.weights_after, layer.weights_before));
  entry("MACs", layer.counted ? change(layer.macs_before, layer.macs_after) : "not known");
  entry("zeros", `${(Math.floor(1000 * layer.sparsity) / 10).toFixed(1)} %`);
  entry("dead", number(layer.dead));
  entry("constant", number(layer.constant));
}

function reasons(layer) {
  const stayed = Object.entries(layer?.stayed ?? {});
  if (!stayed.length) return [];
  const list = element("ul");
  for (const [reason, count] of stayed) {
    const nodes = layer.nodes?.[reason] ?? [], line = element("li", `${number(count)}: ${reason}`);
    if (nodes.length) line.append(element("span", `at ${nodes.slice(0, 3).join(", ")}${nodes.length > 3 ? ` and ${nodes.length - 3} more` : ""}`, { class: "at" }));
    list.append(line);
  }
  return [element("h4", "What could have gone but stays"), list];
}

const STATES = { l: "--kept", c: "--constant", d: "--dead" };

function pictured(picture) {
  const bytes = Uint8Array.from(atob(picture.cells), (letter) => letter.charCodeAt(0));
  const strip = Math.max(1, Math.round(picture.columns / 16)), columns = picture.columns + 2 * strip;
  const count = (letter) => [...picture.states].filter((state) => state === letter).length;
  const said = `The weight: ${picture.rows} rows for its outputs, of which ${count("d")} are dead and ${count("c")} constant; ${picture.columns} columns for its inputs.`;
  const canvas = element("canvas", undefined, { width: columns, height: picture.rows, role: "img", "aria-label": said });
  canvas.style.aspectRatio = `${Math.max(columns, picture.rows / 4)} / ${Math.max(picture.rows, columns / 4)}`;
  const style = getComputedStyle(document.documentElement), color = (name) => rgb(style.getPropertyValue(name).trim());
  const kept = color("--kept"), gone = color("--gone"), paper = color("--paper"), context = canvas.getContext("2d");
  const image = context.createImageData(columns, picture.rows);
  const put = (row, column, ink, share) => {
    const place = 4 * (row * columns + column);
    for (let part = 0; part < 3; part++) image.data[place + part] = paper[part] + (ink[part] - paper[part]) * share;
    image.data[place + 3] = 255;
  };
  for (let row = 0; row < picture.rows; row++) {
    for (let column = 0; column < strip; column++) { put(row, column, color(STATES[picture.states[row]] ?? "--kept"), 1); put(row, strip + column, paper, 1); }
    for (let column = 0; column < picture.columns; column++) {
      const cell = bytes[row * picture.columns + column], level = (cell & 15) / 15, least = cell & 16 ? 0.4 : 0.06;
      put(row, 2 * strip + column, cell & 16 ? gone : kept, Math.max(least, level ? 0.3 + 0.7 * level : 0));
    }
  }
  context.putImageData(image, 0, 0);
  const legend = element("p", undefined, { class: "caption" });
  const mark = (kind, text) => legend.append(element("i", undefined, { class: kind, "aria-hidden": "true" }), `${text} `);
  legend.append("Rows are outputs, columns inputs; the strip says of each output: ");
  mark("kept", "live"); mark("constant", "constant"); mark("dead", "dead.");
  mark("gone", "Removed.");
  return [canvas, legend];
}

function rgb(hex) {
  return [1, 3, 5].map((start) => parseInt(hex.slice(start, start + 2), 16));
}
