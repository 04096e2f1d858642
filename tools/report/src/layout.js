// Where blocks stand. A network is cut wherever all of its data passes through a single block, and each part is laid
// out by itself: the cost grows with the length of a network, not with its square.
import dagre from "@dagrejs/dagre";

const LONG = 60; // blocks that a line passes: such a line runs beside the network
const GAP = 46, LANE = 14;

// Return the order to draw in: an input stands before the first block that reads it.
function ordered(items, lines) {
  const first = new Map();
  for (const line of lines) first.set(line.source, Math.min(first.get(line.source) ?? Infinity, line.target));
  const place = (item) => (item.kind === "input" ? (first.get(item.id) ?? item.id) - 0.5 : item.id);
  return [...items].sort((one, other) => place(one) - place(other));
}

export function arranged(items, lines, boxes, height) {
  const order = ordered(items, lines), place = new Map(order.map((item, at) => [item.id, at]));
  const spans = lines.map((line, index) => ({ index, line, from: place.get(line.source), to: place.get(line.target) }));
  const near = spans.filter((span) => span.to - span.from <= LONG), far = spans.filter((span) => span.to - span.from > LONG);
  const covered = new Int32Array(order.length + 1);
  for (const { from, to } of near) if (to - from > 1) { covered[from + 1]++; covered[to]--; }
  const cuts = [];
  for (let at = 0, open = 0; at < order.length; at++) { open += covered[at]; if (!open) cuts.push(at); }
  if (cuts[0] !== 0) cuts.unshift(0);
  if (cuts[cuts.length - 1] !== order.length - 1) cuts.push(order.length - 1);
  const nodes = new Map(), edges = new Map(), starting = new Map();
  for (const span of near) starting.set(span.from, [...(starting.get(span.from) ?? []), span]);
  let y = height / 2 + 10, left = 0, right = 0;
  nodes.set(order[0].id, { x: 0, y });
  for (let part = 0; part + 1 < cuts.length; part++) {
    const [first, last] = [cuts[part], cuts[part + 1]];
    y = laidOut(order, first, last, starting, boxes, height, y, nodes, edges);
  }
  for (const [id, at] of nodes) { left = Math.min(left, at.x - boxes.get(id) / 2); right = Math.max(right, at.x + boxes.get(id) / 2); }
  const lanes = new Map();
  for (const { index, line } of far) {
    if (!lanes.has(line.source)) lanes.set(line.source, right + 24 + LANE * lanes.size);
    const from = nodes.get(line.source), to = nodes.get(line.target), lane = lanes.get(line.source);
    edges.set(index, { far: true, points: [{ x: from.x + boxes.get(line.source) / 2, y: from.y }, { x: lane, y: from.y }, { x: lane, y: to.y }, { x: to.x + boxes.get(line.target) / 2, y: to.y }] });
  }
  const shift = 20 - left, width = (lanes.size ? Math.max(...lanes.values()) + 10 : right) - left + 40;
  for (const at of nodes.values()) at.x += shift;
  for (const edge of edges.values()) for (const point of edge.points) point.x += shift;
  return { nodes, edges, order, width, height: y + height / 2 + 20 };
}

function laidOut(order, first, last, starting, boxes, height, top, nodes, edges) {
  const inside = [];
  for (let at = first; at < last; at++) for (const span of starting.get(at) ?? []) if (span.to <= last) inside.push(span);
  if (last - first === 1) {
    const bottom = top + height + GAP - 10;
    nodes.set(order[last].id, { x: 0, y: bottom });
    inside.forEach((span, at) => edges.set(span.index, { points: straight(at, inside.length, top, bottom) }));
    return bottom;
  }
  const graph = new dagre.graphlib.Graph({ multigraph: true });
  graph.setGraph({ rankdir: "TB", nodesep: 26, ranksep: GAP, ranker: last - first > 150 ? "longest-path" : "network-simplex" });
  for (let at = first; at <= last; at++) graph.setNode(order[at].id, { width: boxes.get(order[at].id), height });
  for (const span of inside) graph.setEdge(span.line.source, span.line.target, { width: span.line.passing.length ? 8 + 6 * Math.min(34, span.line.passing.join(", ").length) : 0, height: 2, labelpos: "c" }, String(span.index));
  dagre.layout(graph);
  const head = graph.node(order[first].id), tail = graph.node(order[last].id);
  let least = Infinity;
  for (let at = first; at <= last; at++) least = Math.min(least, graph.node(order[at].id).y);
  let bottom = top;
  const dx = -(head.x + tail.x) / 2, dy = top - least;
  for (let at = first; at <= last; at++) {
    const { x, y } = graph.node(order[at].id), pinned = at === first || at === last;
    nodes.set(order[at].id, { x: pinned ? 0 : x + dx, y: y + dy });
    bottom = Math.max(bottom, y + dy);
  }
  for (const span of inside) {
    const points = graph.edge({ v: String(span.line.source), w: String(span.line.target), name: String(span.index) }).points
      .map((point) => ({ x: point.x + dx, y: point.y + dy }));
    fasten(points, nodes.get(span.line.source), nodes.get(span.line.target), boxes.get(span.line.source), boxes.get(span.line.target), height);
    edges.set(span.index, { points });
  }
  return bottom;
}

// Lines leave a block below and come into one above, wherever the block was moved to.
function fasten(points, from, to, fromWidth, toWidth, height) {
  const inner = points.slice(1, -1), near = (block, width, x) => block.x + Math.max(-width / 4, Math.min(width / 4, x - block.x));
  const first = inner[0] ?? to, last = inner[inner.length - 1] ?? from;
  points[0] = { x: near(from, fromWidth, first.x), y: from.y + height / 2 - 3 };
  points[points.length - 1] = { x: near(to, toWidth, last.x), y: to.y - height / 2 + 3 };
}

function straight(at, count, top, bottom) {
  const x = 18 * (at - (count - 1) / 2);
  return [{ x, y: top }, { x, y: bottom }];
}
