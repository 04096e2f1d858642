// Draws a network to scale, with what left shown in place, and lets people search it, zoom it and open its groups.
import { select } from "d3-selection";
import { zoom, zoomIdentity } from "d3-zoom";
import { describe } from "./details.js";
import { change, number, short } from "./dom.js";
import { grouped, visible } from "./groups.js";
import { arranged } from "./layout.js";

const HEIGHT = 30, NARROWEST = 96, WIDEST = 280, THICKEST = 22;

export class Network {
  constructor(root, { blocks, lines, streams }) {
    Object.assign(this, { root, blocks, lines, streams, groups: grouped(blocks), open: -1 });
    this.most = Math.max(1, ...blocks.map((block) => block.before));
    this.panel = root.querySelector(".details");
    this.overview = [...this.panel.childNodes];
    this.svg = select(root.querySelector("svg.network"));
    this.view = this.svg.append("g");
    // Plain wheels scroll the page; with a key held they zoom, as on maps.
    this.zooming = zoom().scaleExtent([0.02, 6]).filter((event) => (event.type === "wheel" ? event.ctrlKey || event.metaKey : !event.button))
      .on("zoom", (event) => this.view.attr("transform", event.transform));
    this.svg.call(this.zooming);
    this.draw();
    this.fit();
    this.listen();
  }

  // Widths are drawn to scale, by the square root where layers differ by more than fits on a screen.
  scale(channels) { return Math.sqrt(channels / this.most); }
  width(channels) { return channels ? Math.max(4, this.scale(channels) * WIDEST) : 0; }
  thickness(channels) { return channels ? Math.max(1, this.scale(channels) * THICKEST) : 0; }

  draw() {
    const { items, lines } = visible(this.blocks, this.lines, this.groups, this.open);
    const boxes = new Map(items.map((item) => [item.id, Math.max(NARROWEST, item.kind === "group" ? WIDEST : this.width(item.before))]));
    this.placed = arranged(items, lines, boxes, HEIGHT);
    this.view.selectAll("*").remove();
    this.shown = lines;
    this.wires(lines);
    this.drawn = new Map();
    for (const item of this.placed.order) this.drawn.set(item.id, this.block(item, boxes.get(item.id)));
    this.current = this.placed.order[0].id;
    this.drawn.get(this.current).attr("tabindex", 0);
  }

  wires(lines) {
    for (const [index, { points, far }] of this.placed.edges) {
      const line = lines[index], kind = `${far ? " far" : ""}${line.stream >= 0 ? ` stream s${line.stream}` : ""}`;
      const drawn = far ? polyline(points) : path(points), put = (name, channels) =>
        this.view.append("path").attr("class", `wire${name}${kind}`).attr("d", drawn).attr("stroke-width", far ? 1.5 : this.thickness(channels));
      if (line.after !== line.before) put("", line.before);
      if (line.after) put(" now", line.after);
    }
    for (const [index, { points, far }] of this.placed.edges) {
      const words = lines[index].passing;
      if (!words.length || far) continue;
      const middle = points.length > 2 ? points[Math.floor(points.length / 2)] : { x: (points[0].x + points[1].x) / 2, y: (points[0].y + points[1].y) / 2 };
      this.view.append("text").attr("class", "word").attr("x", middle.x).attr("y", middle.y + 4).text(short(words.join(", "), 34));
    }
  }

  block(item, box) {
    const at = this.placed.nodes.get(item.id);
    const group = this.view.append("g").attr("class", `block ${item.kind}`).attr("transform", `translate(${at.x},${at.y})`)
      .attr("tabindex", -1).attr("role", "button").attr("aria-label", spoken(item)).datum(item);
    const [was, now] = item.kind === "group" ? [box, item.weightsBefore ? (box * item.weightsAfter) / item.weightsBefore : box] : [this.width(item.before), this.width(item.after)];
    const side = item.kind === "group" ? -was / 2 : -now / 2;
    group.append("rect").attr("class", `was${was === now ? " same" : ""}`).attr("x", -was / 2).attr("y", -HEIGHT / 2).attr("width", was).attr("height", HEIGHT).attr("rx", 4);
    group.append("rect").attr("class", "now").attr("x", side).attr("y", -HEIGHT / 2 + 3).attr("width", now).attr("height", HEIGHT - 6).attr("rx", 3);
    const label = short(labelled(item), 36), fits = (room) => room > 7.6 * label.length;
    const place = fits(now) ? "wide" : fits(was) ? "over" : "narrow";
    group.append("text").attr("y", 4.5).attr("class", place).text(label);
    if (place === "narrow") group.select("text").attr("x", was / 2 + 6).attr("text-anchor", "start");
    group.on("click", () => this.choose(item)).on("keydown", (event) => this.key(event, item));
    return group;
  }

  key(event, item) {
    const steps = { ArrowDown: 1, ArrowRight: 1, ArrowUp: -1, ArrowLeft: -1 }, order = this.placed.order;
    if (event.key === "Enter" || event.key === " ") { event.preventDefault(); this.choose(item); this.focus(item.id); }
    const step = event.key === "Home" ? -Infinity : event.key === "End" ? Infinity : steps[event.key];
    if (!step) return;
    event.preventDefault();
    const at = order.findIndex((each) => each.id === item.id);
    const next = order[Math.max(0, Math.min(order.length - 1, at + step))];
    this.focus(next.id);
    this.center(next);
  }

  // One block at a time is in the order of the tabulator; arrows go from block to block.
  focus(id) {
    this.drawn.get(this.current)?.attr("tabindex", -1);
    this.current = this.drawn.has(id) ? id : this.placed.order[0].id;
    this.drawn.get(this.current).attr("tabindex", 0).node().focus({ preventScroll: true });
  }

  choose(item) {
    if (item.kind === "group") {
      this.open = item.at;
      this.draw();
      this.center(item.members[0]);
    }
    for (const group of this.drawn.values()) group.classed("chosen", false);
    this.drawn.get(item.id)?.classed("chosen", true);
    this.panel.classList.add("open");
    describe(item, this.panel).addEventListener("click", () => this.forget());
  }

  forget() {
    this.panel.classList.remove("open");
    this.panel.replaceChildren(...this.overview);
    for (const group of this.drawn.values()) group.classed("chosen", false);
  }

  box() { return this.svg.node().getBoundingClientRect(); }
  show(factor, top) {
    const box = this.box(), left = (box.width - factor * this.placed.width) / 2;
    this.svg.call(this.zooming.transform, zoomIdentity.translate(left, top).scale(factor));
  }
  fit() {
    const box = this.box(), { width, height } = this.placed, whole = Math.min(1, box.width / width, box.height / height);
    const factor = Math.max(whole, Math.min(1, box.width / width), 0.5);
    this.show(factor, factor * height > box.height ? 8 : (box.height - factor * height) / 2);
  }
  whole() {
    const box = this.box(), { width, height } = this.placed, factor = Math.min(1, box.width / width, box.height / height);
    this.show(factor, (box.height - factor * height) / 2);
  }
  center(item) {
    const box = this.box(), at = this.placed.nodes.get(item.id);
    if (at) this.svg.call(this.zooming.transform, zoomIdentity.translate(box.width / 2 - at.x, box.height / 2 - at.y));
  }

  search(text) {
    const wanted = text.trim().toLowerCase(), fits = (words) => words.toLowerCase().includes(wanted);
    const found = wanted ? this.blocks.filter((block) => fits(block.name) || fits(block.operator)) : [];
    if (found.length && !this.drawn.has(found[0].id)) this.openFor(found[0]);
    const known = new Set(found.map((block) => block.id));
    for (const [id, group] of this.drawn) {
      const item = group.datum(), hit = known.has(id) || (item.members ?? []).some((member) => known.has(member.id));
      group.classed("found", hit).classed("missed", wanted !== "" && !hit);
    }
    for (const row of this.root.querySelectorAll(".layers tbody tr")) row.hidden = wanted !== "" && !fits(row.textContent);
    this.root.querySelector(".hits").textContent = wanted ? `${number(found.length)} found` : "";
    if (found.length) this.center(found[0]);
    else if (!wanted) this.fit();
  }

  openFor(block) {
    const group = this.groups?.find((each) => each.members.includes(block));
    if (group && group.at !== this.open) { this.open = group.at; this.draw(); }
  }

  named(name) {
    const block = this.blocks.find((each) => each.name === name);
    if (!block) return false;
    this.openFor(block);
    this.choose(block);
    this.center(block);
    return true;
  }

  listen() {
    const on = (name, act) => this.root.querySelector(name)?.addEventListener("click", act);
    on(".whole", () => this.whole());
    on(".closer", () => this.svg.call(this.zooming.scaleBy, 1.4));
    on(".wider", () => this.svg.call(this.zooming.scaleBy, 1 / 1.4));
    this.root.querySelector(".search").addEventListener("input", (event) => this.search(event.target.value));
    for (const button of this.root.querySelectorAll("button[data-name]"))
      button.addEventListener("click", () => { this.named(button.dataset.name); this.svg.node().scrollIntoView({ block: "nearest" }); });
    for (const button of this.root.querySelectorAll("button[data-stream]"))
      button.addEventListener("click", () => this.stream(Number(button.dataset.stream), button));
    let kept = null;
    addEventListener("beforeprint", () => {
      kept = this.view.attr("transform");
      const { width, height } = this.placed;
      this.view.attr("transform", null);
      this.svg.attr("viewBox", `0 0 ${width} ${height}`);
    });
    addEventListener("afterprint", () => { this.svg.attr("viewBox", null); this.view.attr("transform", kept); });
  }

  stream(number, button) {
    const on = button.getAttribute("aria-pressed") !== "true";
    for (const other of this.root.querySelectorAll("button[data-stream]")) other.setAttribute("aria-pressed", String(other === button && on));
    this.view.selectAll(".stream").classed("lit", false);
    this.view.selectAll(`.s${number}`).classed("lit", on);
    const first = this.streams[number].sums[0];
    if (on) { this.openFor(this.blocks[first]); this.view.selectAll(`.s${number}`).classed("lit", true); this.center(this.blocks[first]); this.svg.node().scrollIntoView({ block: "nearest" }); }
  }
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

const polyline = (points) => `M${points.map((point) => `${point.x},${point.y}`).join("L")}`;

function labelled(item) {
  if (item.kind === "group") return `${short(item.name, 22)} ▸ ${item.operator}`;
  if (item.heads) return `${item.operator} ${change(item.heads[0], item.heads[1])} heads`;
  const counts = item.after ? change(item.before, item.after) : "gone";
  return item.operator ? `${item.operator} ${counts}` : `${short(item.name, 20)} ${counts}`;
}

function spoken(item) {
  if (item.kind === "group") return `${item.name}: ${item.operator}, ${number(item.weightsBefore)} weights, of which ${number(item.weightsAfter)} stay. Opens.`;
  const what = item.kind === "layer" ? `${item.operator} ${item.name}` : `${item.kind} ${item.name}`;
  return `${what}, ${number(item.before)} channels, of which ${number(item.after)} stay`;
}
