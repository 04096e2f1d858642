// The script of the HTML report: draws what the page has data for.
import { Front } from "./front.js";
import { Network } from "./network.js";

const data = JSON.parse(document.getElementById("data").textContent);
const articles = [...document.querySelectorAll("article.file")], networks = new Map();

// Of several files one is shown at a time, and drawn when it is shown first.
function show(at) {
  articles.forEach((article, place) => { article.hidden = place !== at; });
  for (const button of document.querySelectorAll("button[data-file]")) button.setAttribute("aria-pressed", String(Number(button.dataset.file) === at));
  if (!networks.has(at)) networks.set(at, new Network(articles[at], data.networks[at]));
  return networks.get(at);
}

// A layer can be linked to: report.html#name
function linked() {
  const name = decodeURIComponent(location.hash.slice(1));
  if (!name) return;
  const at = data.networks.findIndex((network) => network.blocks.some((block) => block.name === name));
  if (at >= 0) show(at).named(name);
}

if (data.front) new Front(document.querySelector("section.chart"), data.front);
if (articles.length) {
  show(0);
  for (const button of document.querySelectorAll("button[data-file]"))
    button.addEventListener("click", () => { show(Number(button.dataset.file)); articles[Number(button.dataset.file)].scrollIntoView(); });
  addEventListener("hashchange", linked);
  linked();
}
