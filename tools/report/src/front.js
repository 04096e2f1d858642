// The front of quality against size: a point for each network, and what it takes from each layer.
import { axisBottom, axisLeft } from "d3-axis";
import { scaleLinear, scaleLog } from "d3-scale";
import { select } from "d3-selection";
import { line } from "d3-shape";
import { bar, change, element } from "./dom.js";

const MARGIN = { top: 18, right: 24, bottom: 46, left: 62 };

export class Front {
  constructor(root, data) {
    Object.assign(this, { root, data });
    this.svg = select(root.querySelector("svg.front"));
    this.panel = root.querySelector(".details");
    this.draw();
    addEventListener("resize", () => this.draw());
    this.choose(Math.max(0, data.points.findIndex((point) => point.chosen)));
  }

  scales(width, height) {
    const { points, limit, dense } = this.data, ys = [...points.map((point) => point.value), dense, ...(limit === null ? [] : [limit])].filter(Number.isFinite);
    const [low, high] = [Math.min(...ys), Math.max(...ys)], room = (high - low || Math.abs(high) || 1) * 0.08;
    const most = Math.max(1.5, ...points.map((point) => point.ratio)) * 1.15;
    const least = Math.min(1, ...points.map((point) => point.ratio));
    return [scaleLog([least * 0.94, most], [MARGIN.left, width - MARGIN.right]), scaleLinear([low - room, high + room], [height - MARGIN.bottom, MARGIN.top])];
  }

  draw() {
    const { width, height } = this.svg.node().getBoundingClientRect(), { points, limit, dense } = this.data;
    if (!width) return;
    const [x, y] = this.scales(width, height), [least, most] = x.domain(), percent = this.data.percent;
    const marks = [1, 1.5, 2, 3, 4, 5, 6, 8, 10, 15, 20, 30, 40, 60, 80, 100, 200, 500, 1000].filter((mark) => mark >= least && mark <= most);
    const room = Math.max(1, Math.ceil(marks.length / (width / 70)));
    this.svg.selectAll("*").remove();
    this.svg.append("g").attr("class", "axis").attr("transform", `translate(0,${height - MARGIN.bottom})`)
      .call(axisBottom(x).tickValues(marks.filter((_, at) => at % room === 0)).tickFormat((value) => `${value}×`));
    const ticks = y.ticks(5), digits = Math.max(0, -Math.floor(Math.log10((ticks[1] - ticks[0]) * (percent ? 100 : 1))));
    const written = (value) => (percent ? `${(100 * value).toFixed(Math.max(0, digits))} %` : value.toFixed(digits));
    this.svg.append("g").attr("class", "axis").attr("transform", `translate(${MARGIN.left},0)`)
      .call(axisLeft(y).tickValues(ticks).tickFormat(written).tickSize(-(width - MARGIN.left - MARGIN.right)));
    this.level(y, dense, "dense", "before", width);
    if (limit !== null) this.level(y, limit, "limit", "allowed", width);
    this.svg.append("text").attr("class", "title").attr("x", width - MARGIN.right).attr("y", height - 8).attr("text-anchor", "end").text(this.data.x);
    const front = points.filter((point) => point.front).sort((one, other) => one.ratio - other.ratio);
    this.svg.append("path").attr("class", "edge").attr("d", line((point) => x(point.ratio), (point) => y(point.value))(front));
    this.dots = points.map((point, at) => {
      const dot = this.svg.append("g").attr("class", `point${point.chosen ? " best" : ""}${point.within ? "" : " out"}`)
        .attr("transform", `translate(${x(point.ratio)},${y(point.value)})`).attr("tabindex", 0).attr("role", "button")
        .attr("aria-label", `${point.name}: ${point.ratio.toFixed(2)} times smaller, ${this.data.y} ${written(point.value)}`);
      dot.append("circle").attr("r", 14).attr("class", "reach");
      dot.append("circle").attr("r", point.chosen ? 8 : 6).attr("class", "dot");
      return dot.on("click", () => this.choose(at)).on("keydown", (event) => {
        if (event.key === "Enter" || event.key === " ") { event.preventDefault(); this.choose(at); }
      });
    });
    this.dots[this.at ?? 0]?.classed("chosen", true);
  }

  level(y, value, kind, text, width) {
    this.svg.append("path").attr("class", kind).attr("d", `M${MARGIN.left},${y(value)}H${width - MARGIN.right}`);
    this.svg.append("text").attr("class", "word left").attr("x", MARGIN.left + 6).attr("y", y(value) - 5).text(text);
  }

  choose(at) {
    this.at = at;
    const point = this.data.points[at];
    if (!point) return;
    this.dots?.forEach((dot, place) => dot.classed("chosen", place === at));
    this.panel.replaceChildren(element("h3", point.name));
    const list = element("dl");
    for (const [term, text] of point.facts) list.append(element("dt", term), element("dd", text));
    this.panel.append(list);
    if (!point.taken.length) return;
    const most = Math.max(...point.taken.map((each) => each.before)), rows = element("ul", undefined, { class: "taken" });
    for (const each of point.taken) {
      const row = element("li"), gone = Math.round(100 * (1 - each.after / each.before));
      row.append(element("span", each.name, { class: "name" }), element("span", `${change(each.before, each.after)} ${each.kind}${gone ? ` (−${gone} %)` : ""}`, { class: "number" }), bar(each.before, each.after, most));
      rows.append(row);
    }
    this.panel.append(element("h4", "What it takes from each layer"), rows);
  }
}
