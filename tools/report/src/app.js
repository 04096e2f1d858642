// The script of the HTML report: draws the network, and shows what a block was and what it is.
import dagre from "@dagrejs/dagre";
import { select } from "d3-selection";
import { zoom, zoomIdentity } from "d3-zoom";

const data = JSON.parse(document.getElementById("data").textContent);
const { blocks, lines } = data.drawing;
const HEIGHT = 30, NARROWEST = 26, WIDEST = 280, THICKEST = 22;
const most = Math.max(1, ...blocks.map((block) => block.before));

// Widths are drawn to scale, by the square root where layers differ by more than fits on a screen.
const scale = (channels) => Math.sqrt(channels / most);
const width = (channels) => (channels ? Math.max(4, scale(channels) * WIDEST) : 0);
const thickness = (channels) => (channels ? Math.max(1, scale(channels) * THICKEST) : 0);
const number = (value) => value.toLocaleString("en");
const short = (name, length = 28) =>
  name.length <= length ? name : `${name.slice(0, length / 2 - 1)}…${name.slice(1 - length / 2)}`;

function arranged() {
  const graph = new dagre.graphlib.Graph({ multigraph: true });
  graph.setGraph({ rankdir: "TB", nodesep: 24, ranksep: 46, ranker: blocks.length > 400 ? "longest-path" : "network-simplex" });
  for (const block of blocks)
    graph.setNode(block.id, { width: Math.max(NARROWEST, width(block.before), 90), height: HEIGHT });
  lines.forEach((line, place) => graph.setEdge(line.source, line.target, {}, String(place)));
  dagre.layout(graph);
  return graph;
}

function path(points) {
  const [first, ...rest] = points;
  let drawn = `M${first.x},${first.y}`;
  for (let place = 0; place < rest.length; place++) {
    const from = place ? rest[place - 1] : first, to = rest[place], middle = (from.y + to.y) / 2;
    drawn += `C${from.x},${middle} ${to.x},${middle} ${to.x},${to.y}`;
  }
  return drawn;
}

const svg = select("#network");
const view = svg.append("g");
const graph = arranged();
const size = graph.graph();

for (const edge of graph.edges()) {
  const line = lines[Number(edge.name)], points = graph.edge(edge).points;
  view.append("path").attr("class", "wire").attr("d", path(points)).attr("stroke-width", thickness(line.before));
  if (line.after) view.append("path").attr("class", "wire now").attr("d", path(points)).attr("stroke-width", thickness(line.after));
}
for (const edge of graph.edges()) {
  const line = lines[Number(edge.name)];
  if (!line.passing.length) continue;
  const points = graph.edge(edge).points, middle = points[Math.floor(points.length / 2)];
  view.append("text").attr("class", "word").attr("x", middle.x).attr("y", middle.y).text(short(line.passing.join(", "), 34));
}

const drawn = new Map();
for (const block of blocks) {
  const at = graph.node(block.id);
  const group = view.append("g").attr("class", `block ${block.kind}`).attr("transform", `translate(${at.x},${at.y})`)
    .attr("tabindex", 0).attr("role", "button").attr("aria-label", spoken(block)).datum(block);
  const was = width(block.before), now = width(block.after);
  group.append("rect").attr("class", "was").attr("x", -was / 2).attr("y", -HEIGHT / 2).attr("width", was).attr("height", HEIGHT).attr("rx", 4);
  group.append("rect").attr("class", "now").attr("x", -now / 2).attr("y", -HEIGHT / 2 + 3).attr("width", now).attr("height", HEIGHT - 6).attr("rx", 3);
  const label = short(labelled(block), 30);
  group.append("text").attr("y", 4.5).attr("class", now > 7.5 * label.length ? "wide" : "narrow").text(label);
  group.on("click", () => choose(block)).on("keydown", (event) => {
    if (event.key === "Enter" || event.key === " ") { event.preventDefault(); choose(block); }
  });
  drawn.set(block.id, group);
}

function labelled(block) {
  const counts = block.after === block.before ? number(block.before) : `${number(block.before)} → ${number(block.after)}`;
  if (block.kind === "layer") return `${block.operator} ${block.after ? counts : "gone"}`;
  return block.kind === "join" ? `${block.operator} ${counts}` : `${block.name} ${counts}`;
}

function spoken(block) {
  const what = block.kind === "layer" ? `${block.operator} ${block.name}` : `${block.kind} ${block.name}`;
  return `${what}, ${number(block.before)} channels, of which ${number(block.after)} stay`;
}

const zooming = zoom().scaleExtent([0.02, 6]).on("zoom", (event) => view.attr("transform", event.transform));
svg.call(zooming);

function fit() {
  const box = svg.node().getBoundingClientRect();
  const factor = Math.min(1, box.width / (size.width + 40), box.height / (size.height + 40));
  const readable = Math.max(factor, Math.min(1, box.width / (size.width + 40)), 0.6);
  const top = readable * size.height > box.height ? 16 : (box.height - readable * size.height) / 2;
  svg.call(zooming.transform, zoomIdentity.translate((box.width - readable * size.width) / 2, top).scale(readable));
}
function whole() {
  const box = svg.node().getBoundingClientRect();
  const factor = Math.min(1, box.width / (size.width + 40), box.height / (size.height + 40));
  svg.call(zooming.transform, zoomIdentity.translate((box.width - factor * size.width) / 2, (box.height - factor * size.height) / 2).scale(factor));
}
fit();
document.getElementById("whole").addEventListener("click", whole);
document.getElementById("closer").addEventListener("click", () => svg.call(zooming.scaleBy, 1.4));
document.getElementById("wider").addEventListener("click", () => svg.call(zooming.scaleBy, 1 / 1.4));

const details = document.getElementById("details");
function element(tag, text, attributes = {}) {
  const made = document.createElement(tag);
  if (text !== undefined) made.textContent = text;
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  return made;
}

function choose(block) {
  for (const group of drawn.values()) group.classed("chosen", false);
  drawn.get(block.id).classed("chosen", true);
  details.replaceChildren(element("h2", block.name));
  const list = element("dl"), entry = (term, text) => list.append(element("dt", term), element("dd", text));
  if (block.operator) entry("operator", block.operator);
  entry("channels", `${number(block.before)} → ${number(block.after)}`);
  if (block.layer) {
    const layer = block.layer, shape = (sizes) => (sizes.length ? sizes.join(" × ") : "gone");
    entry("weight", `${shape(layer.shape_before)} → ${shape(layer.shape_after)}`);
    entry("weights", `${number(layer.weights_before)} → ${number(layer.weights_after)}`);
    entry("MACs", `${number(layer.macs_before)} → ${number(layer.macs_after)}`);
    entry("zeros", `${(100 * layer.sparsity).toFixed(1)} %`);
    entry("dead", number(layer.dead));
    entry("constant", number(layer.constant));
  }
  details.append(list);
  if (block.picture) details.append(...pictured(block.picture));
  const stayed = Object.entries(block.layer?.stayed ?? {});
  if (stayed.length) {
    details.append(element("h3", "What could have gone but stays"));
    const reasons = element("ul");
    for (const [reason, count] of stayed) reasons.append(element("li", `${number(count)}: ${reason}`));
    details.append(reasons);
  }
}

function pictured(picture) {
  const bytes = Uint8Array.from(atob(picture.cells), (letter) => letter.charCodeAt(0));
  const canvas = element("canvas", undefined, { width: picture.columns, height: picture.rows, role: "img",
    "aria-label": "The weight: rows are outputs, columns inputs; what was removed is shaded" });
  canvas.style.aspectRatio = `${Math.max(picture.columns, picture.rows / 4)} / ${Math.max(picture.rows, picture.columns / 4)}`;
  const style = getComputedStyle(document.documentElement), color = (name) => rgb(style.getPropertyValue(name).trim());
  const kept = color("--kept"), gone = color("--gone"), paper = color("--paper"), context = canvas.getContext("2d");
  const image = context.createImageData(picture.columns, picture.rows);
  bytes.forEach((cell, place) => {
    const level = (cell & 15) / 15, ink = cell & 16 ? gone : kept, least = cell & 16 ? 0.45 : 0;
    const share = Math.max(least, level ? 0.25 + 0.75 * level : 0);
    for (let part = 0; part < 3; part++) image.data[4 * place + part] = paper[part] + (ink[part] - paper[part]) * share;
    image.data[4 * place + 3] = 255;
  });
  context.putImageData(image, 0, 0);
  return [canvas, element("p", "Rows are outputs, columns inputs. Blue is not zero and stays; amber was removed.", { class: "caption" })];
}

function rgb(hex) {
  return [1, 3, 5].map((start) => parseInt(hex.slice(start, start + 2), 16));
}

const rows = [...document.querySelectorAll("#layers tbody tr")];
document.getElementById("search").addEventListener("input", (event) => {
  const wanted = event.target.value.trim().toLowerCase(), fits = (text) => text.toLowerCase().includes(wanted);
  let first = null;
  for (const [id, group] of drawn) {
    const block = blocks[id], found = wanted !== "" && (fits(block.name) || fits(block.operator));
    group.classed("found", found).classed("missed", wanted !== "" && !found);
    first ??= found ? block : null;
  }
  for (const row of rows) row.hidden = wanted !== "" && !fits(row.textContent);
  if (first) center(first);
  else if (wanted === "") fit();
});
function center(block) {
  const box = svg.node().getBoundingClientRect(), at = graph.node(block.id);
  svg.call(zooming.transform, zoomIdentity.translate(box.width / 2 - at.x, box.height / 2 - at.y));
}

// A layer can be linked to: report.html#name
function linked() {
  const name = decodeURIComponent(location.hash.slice(1)), found = blocks.find((block) => block.name === name);
  if (found) { choose(found); center(found); }
}
addEventListener("hashchange", linked);
const byName = new Map(blocks.filter((block) => block.layer).map((block) => [block.name, block]));
for (const row of rows) row.addEventListener("click", () => byName.has(row.dataset.name) && choose(byName.get(row.dataset.name)));
linked();
