// Networks of thousands of blocks are shown as groups of neighbours, each of which opens on a click.
const SHOWN = 400; // blocks that are drawn one by one at most
const GROUPS = 90;

export function grouped(blocks) {
  if (blocks.length <= SHOWN) return null;
  const length = Math.ceil(blocks.length / GROUPS), groups = [];
  const inner = blocks.filter((block) => block.kind !== "input" && block.kind !== "output");
  for (let start = 0; start < inner.length; ) {
    let end = Math.min(inner.length, start + length);
    while (end < inner.length && end - start < 1.5 * length && inner[end - 1].kind !== "join") end++;
    groups.push(made(inner.slice(start, end), groups.length));
    start = end;
  }
  return groups;
}

function made(members, at) {
  const layers = members.filter((block) => block.layer), sum = (name) => layers.reduce((total, block) => total + block.layer[name], 0);
  const last = members[members.length - 1];
  return {
    id: members[0].id, kind: "group", at, members, name: shared(members) || `${members[0].name} to ${last.name}`, operator: `${members.length} blocks`,
    before: Math.max(...members.map((block) => block.before)), after: Math.max(...members.map((block) => block.after)),
    weightsBefore: sum("weights_before"), weightsAfter: sum("weights_after"), layers: layers.length,
  };
}

function shared(members) {
  let prefix = members[0].name;
  for (const { name } of members) while (!name.startsWith(prefix)) prefix = prefix.slice(0, -1);
  const cut = Math.max(prefix.lastIndexOf("/"), prefix.lastIndexOf("."));
  return cut > 0 ? prefix.slice(0, cut) : "";
}

// Return what is drawn: groups, the members of the open one, and the lines between them.
export function visible(blocks, lines, groups, open) {
  if (!groups) return { items: blocks, lines };
  const owner = new Map();
  for (const group of groups) for (const member of group.members) owner.set(member.id, group.at === open ? member : group);
  const drawn = (id) => owner.get(id) ?? blocks[id];
  const items = [...new Set(blocks.map((block) => drawn(block.id)))], joined = new Map();
  for (const line of lines) {
    const source = drawn(line.source), target = drawn(line.target);
    if (source === target) continue;
    const key = `${source.id}:${target.id}`, plain = source.kind !== "group" && target.kind !== "group";
    const merged = { ...line, source: source.id, target: target.id, passing: plain ? line.passing : [] };
    const known = joined.get(key);
    if (!known || known.before < line.before) joined.set(key, merged);
  }
  return { items, lines: [...joined.values()] };
}
