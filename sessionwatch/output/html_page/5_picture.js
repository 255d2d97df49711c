/* The picture: axis, names, bars, marks, pins, arrows. One function draws the large one, and the small one of a finding. */
let drawings = 0;
function draw(host, { scene = null, sessions, links, view, scale, lit }) {
  const W = Math.max(560, host.clientWidth || 900), left = W < 800 ? 140 : W < 1000 ? 170 : 214, room = W - left - 18;
  const { lanes, folded } = laidOut(sessions, links, scene);
  const canvas = {
    scene, sessions, links, view, scale, lit, W, left, room, lanes, id: `d${(drawings += 1)}`,
    bar: scene ? SCENE_BAR : BAR, top: new Map(), ringTop: new Map(), /* y of each session, and of each mark after a close */
    lower: [], names: [], middle: [], upper: [], pins: [], pinned: [],
    X: (t) => left + ((scale.to(t) - view[0]) / (view[1] - view[0])) * room,
    visible: (a, b) => scale.to(b) >= view[0] && scale.to(a) <= view[1],
    dimmed: (indexes) => lit !== null && !indexes.some((index) => lit.has(index)),
  };
  stack(canvas);
  choose(canvas);
  drawAxis(canvas);
  drawNames(canvas);
  drawBlocks(canvas);
  drawSessions(canvas);
  drawLinks(canvas);
  if (scene) labelEvidence(canvas);
  else drawPins(canvas);
  const label = scene ? `The story of finding ${scene.id}` : `Time line of ${plural(sessions.length, "session")} in ${plural(lanes.length, "lane")}`;
  const clip = { "clip-path": `url(#${canvas.id}c)` };
  host.replaceChildren(s("svg", { viewBox: `0 0 ${W} ${canvas.H}`, height: canvas.H, role: "group", "aria-label": label },
    definitions(canvas), s("g", clip, canvas.lower), canvas.names, s("g", clip, canvas.middle, canvas.upper, canvas.pinned)));
  if (folded) host.append(h("p", { class: "fold" }, h("button", { class: "btn", type: "button", id: "lanes" }, `Show ${plural(folded, "more lane")}`)));
}

/* How high each lane and row is: rows with pins above them are higher. */
function stack(canvas) {
  const { lanes, scene, top, ringTop } = canvas, rowHeight = scene ? SCENE_ROW : ROW;
  let y = scene ? 12 : 30;
  for (const lane of lanes) {
    lane.y = y;
    y += 7;
    const shown = [...lane.place].filter(([, [item]]) => !lane.hidden.has(item)), pinned = new Set();
    for (const [session, [item, row]] of shown) if (session.f.length) pinned.add(item.row + row);
    for (const [, [item, row]] of lane.rings) pinned.add(item.row + row);
    lane.rowY = [];
    for (let row = 0; row < lane.count; row += 1) {
      if (pinned.has(row) && !scene) y += PIN_ROOM;
      lane.rowY.push(y + 15);
      y += rowHeight;
    }
    lane.lines = wrapped(lane.lane.name, Math.floor((canvas.left - 24) / 6.7));
    y = Math.max(y + (scene ? 26 : 6), lane.y + 36 + lane.lines.length * 15); /* its name has room, too */
    lane.h = y - lane.y;
    for (const [session, [item, row]] of shown) top.set(session, lane.rowY[item.row + row]);
    for (const [link, [item, row]] of lane.rings) ringTop.set(link, lane.rowY[item.row + row]);
  }
  canvas.H = y + (scene ? 0 : 4);
}

const inSeconds = (scale) => scale.last >= SECONDS;
const tickText = (t, step, scale) => (inSeconds(scale) ? (t / 1000).toFixed(step >= 1000 ? 0 : step >= 100 ? 1 : step >= 10 ? 2 : 3) : grouped(+t.toFixed(1)));

/* Ticks, breaks, and the strip that says where in the whole the view is. */
function drawAxis(canvas) {
  const { scene, view, scale, W, H, left, room, X, lower, upper } = canvas, { found, step } = ticks(scale, view, X, room);
  found.forEach(([x, t], n) => {
    if (x < left - 1 || x > W) return;
    lower.push(s("path", { class: "grid", d: `M${x.toFixed(1)} ${scene ? 4 : 22}V${H}` }));
    const unit = n === found.length - 1 ? (inSeconds(scale) ? " s" : " ms") : "";
    if (!scene) lower.push(s("text", { class: "s", x: x.toFixed(1), y: 15, "text-anchor": x > W - 34 ? "end" : "middle" }, tickText(t, step, scale) + unit));
  });
  scale.segments.slice(1).forEach((segment, n) => {
    const before = scale.segments[n], from = Math.max(left, X(before[1])), to = X(segment[0]), pause = time(segment[0] - before[1]);
    if (to < left || from > W) return;
    lower.push(s("rect", { class: "zig", x: from.toFixed(1), y: scene ? 0 : 22, width: Math.max(2, to - from).toFixed(1), height: H, "stroke-dasharray": "2 3" }, s("title", {}, `nothing happens for ${pause}`)));
    if (to - from >= 12) upper.push(s("text", { class: "s id", x: ((from + to) / 2).toFixed(1), y: H - 6, "text-anchor": "middle" }, to - from > 46 ? pause : "⋯"));
  });
  if (scene || view[1] - view[0] >= scale.length * 0.999) return;
  const part = (u) => (u / scale.length) * room;
  lower.push(s("rect", { class: "strip", x: left, y: 20, width: room, height: 4, rx: 2 }));
  lower.push(s("rect", { class: "strip on", x: left + part(view[0]), y: 20, width: Math.max(4, part(view[1] - view[0])), height: 4, rx: 2 }));
}

/* A name in at most three lines that fit, cut where a path or a sentence may be cut. */
function wrapped(name, fits) {
  const lines = [];
  let rest = name;
  while (rest.length > fits && lines.length < 2) {
    const found = Math.max(rest.lastIndexOf("/", fits), rest.lastIndexOf(" ", fits), rest.lastIndexOf(".", fits)), cut = found > 3 ? found : fits;
    lines.push(rest.slice(0, cut));
    rest = rest.slice(cut);
  }
  return [...lines, rest.length > fits ? `${rest.slice(0, fits - 1)}…` : rest];
}

function drawNames({ lanes, scene, W, names }) {
  lanes.forEach((lane, n) => {
    if (n || !scene) names.push(s("path", { class: "rule", d: `M0 ${lane.y}H${W}` }));
    const { lines } = lane;
    lines.forEach((line, k) => names.push(s("text", { class: "b", x: 16, y: lane.y + 26 + k * 15 }, line, k ? null : s("title", {}, lane.lane.name))));
    names.push(s("text", { class: "s", x: 16, y: lane.y + 27 + lines.length * 15 }, `${lane.lane.kind}, ${plural(lane.sessions.length, "session")}`));
  });
}

/* At most so many of a list, evenly. */
const thin = (list, most) => (list.length <= most ? list : list.filter((_, n) => Math.floor((n * most) / list.length) !== Math.floor(((n - 1) * most) / list.length)));

/* Sessions with a finding are bars, and of the others those that can be seen, evenly; the rest is a strip per lane. */
function choose(canvas) {
  const { sessions, top, X, visible, lit } = canvas, end = (one) => one.t[1] ?? P.span[1];
  canvas.order = sessions.filter((one) => top.has(one) && visible(one.t[0], end(one)));
  const wanted = canvas.order.filter((one) => lit !== null && one.f.some((f) => lit.has(f))), first = new Set(wanted);
  const severe = canvas.order.filter((one) => one.f.length && !first.has(one));
  const seen = canvas.order.filter((one) => !one.f.length && X(end(one)) - X(one.t[0]) >= 2);
  const bars = [];
  for (const list of [wanted, severe, seen]) bars.push(...thin(list, MOST_BARS - bars.length));
  canvas.bars = new Set(bars.sort((a, b) => a.lane - b.lane || a.t[0] - b.t[0]));
}

/* Units of work: pale blocks behind their sessions. */
function drawBlocks({ lanes, bars, links, bar, X, visible, middle }) {
  const wanted = new Set([...bars, ...links.slice(0, MOST_BARS)].map((one) => one.block));
  for (const lane of lanes) {
    for (const item of lane.items) {
      const index = item.key[0] === "b" ? +item.key.slice(1) : null;
      if (index === null || !wanted.has(index) || !visible(item.from, item.to)) continue;
      const block = P.blocks[index], x = X(block.t[0]) - 4, y0 = lane.rowY[item.row] - 5, y1 = lane.rowY[item.row + item.height - 1] + bar + 5;
      middle.push(s("rect", { class: "u", x: x.toFixed(1), y: y0, width: Math.max(8, X(item.to) - x + 4).toFixed(1), height: y1 - y0, rx: 6 }, s("title", {}, `${block.name}: ${time(block.t[0])} to ${time(block.t[1])}`)));
    }
  }
}

function drawSessions(canvas) {
  const { order, bars, bar, top, left, X, middle } = canvas, dense = new Map();
  for (const one of order) {
    const x = Math.round(X(one.t[0]));
    if (!bars.has(one)) dense.set(`${top.get(one)}:${x}`, [x, top.get(one)]);
  }
  for (const [x, y] of thin([...dense.values()], MOST_SPECKS)) middle.push(s("rect", { class: "dens", x, y: y + bar - 5, width: 1.5, height: 5 }));
  const ends = new Map(); /* of the bar before, on each row: a label needs room */
  for (const one of bars) {
    const y = top.get(one), space = X(one.t[0]) - (ends.get(y) ?? left - 60);
    ends.set(y, X(one.t[1] ?? P.span[1]));
    middle.push(sessionBar(one, canvas, space > one.id.length * 6.4 + 9));
  }
}

function drawLinks(canvas) {
  for (const link of canvas.links.filter((one) => canvas.visible(one.t, one.t)).slice(0, MOST_BARS)) {
    const pieces = LINKS[link.kind](link, canvas);
    if (pieces.length) canvas.upper.push(s("g", { class: `${F[link.f].severity}${canvas.dimmed([link.f]) ? " dim" : ""}` }, pieces));
  }
}

/* A pin's caption is its rule, where the next pin leaves room for it. */
function drawPins({ pins, pinned, left, W }) {
  for (const pin of spread(pins)) {
    const finding = F[pin.f];
    if (pin.x < left - 12 || pin.x > W - 4) continue;
    const half = finding.id.length * 3.6 + 8, caption = finding.rule.length * 6.3 + 22 + half;
    const right = (pin.next === null || pin.next - pin.x > caption) && pin.x + caption < W;
    const before = !right && pin.next === null && pin.x - caption > Math.max(left, pin.before ?? 0);
    const names = `${finding.severity === "fault" ? "red" : "amb"}${pin.dim ? " dim" : ""}`;
    if (right || before) pinned.push(s("text", { class: names, x: (pin.x + (right ? half + 3 : -half - 3)).toFixed(1), y: (pin.y + 3).toFixed(1), "text-anchor": right ? "start" : "end" }, finding.rule));
    pinned.push(pinShape(finding, pin.x, pin.y, pin.dim));
  }
}

const definitions = ({ id, left, W, H }) => s("defs", {},
  s("clipPath", { id: `${id}c` }, s("rect", { x: left - 12, y: 0, width: W - left + 12, height: H })),
  s("pattern", { id: `${id}h`, width: 6, height: 6, patternTransform: "rotate(45)", patternUnits: "userSpaceOnUse" }, s("rect", { class: "hatch-bg", width: 6, height: 6 }), s("path", { class: "hatch", d: "M0 0V6" })),
  s("marker", { id: `${id}f`, viewBox: "0 0 10 10", refX: 8.5, refY: 5, markerWidth: 5, markerHeight: 5, orient: "auto" }, s("path", { class: "head", d: "M0 0 10 5 0 10Z" })));

/* Pins of one row keep their distance, first come first served. */
function spread(pins) {
  const rows = new Map();
  for (const pin of pins) rows.set(Math.round(pin.y), [...(rows.get(Math.round(pin.y)) || []), pin]);
  for (const row of rows.values()) {
    row.sort((a, b) => a.x - b.x);
    row.forEach((pin, i) => { if (i) pin.x = Math.max(pin.x, row[i - 1].x + 14 + (F[pin.f].id.length + F[row[i - 1].f].id.length) * 3.6); });
    row.forEach((pin, i) => { pin.next = i + 1 < row.length ? row[i + 1].x : null; pin.before = i ? row[i - 1].x + 120 : null; });
  }
  return [...rows.values()].flat();
}

function pinShape(finding, x, y, dim) {
  const wide = Math.max(9, finding.id.length * 3.6 + 2.4), fault = finding.severity === "fault";
  const outline = fault
    ? `M${-wide}-9H${wide}L${wide + 3}-5V4L${wide} 7H4L0 12-4 7H${-wide}L${-wide - 3} 4V-5Z`
    : `M${-wide + 3}-9H${wide - 3}A8 8 0 0 1 ${wide - 3} 7H4L0 12-4 7H${-wide + 3}A8 8 0 0 1 ${-wide + 3}-9Z`;
  return s("g", { class: `pin ${finding.severity}${dim ? " dim" : ""}`, "data-f": finding.index, transform: `translate(${x.toFixed(1)} ${y.toFixed(1)})`, role: "button", tabindex: "-1", "aria-label": `Finding ${finding.id}: ${finding.rule}, ${finding.message}` },
    s("path", { d: outline }), s("text", { y: 3.2 }, finding.id));
}

/* In the small picture each piece of evidence stands under its mark. */
function labelEvidence({ scene, X, W, bar, lanes, top, ringTop, links, upper }) {
  const used = [];
  for (const [label, , , , t, , sessionIndex] of [...scene.evidence].reverse()) {
    if (t === null) continue;
    const session = sessionIndex === null ? null : P.sessions[sessionIndex];
    const link = links.find((one) => one.t === t && ringTop.has(one));
    const above = link ? ringTop.get(link) : session && top.has(session) ? top.get(session) : null;
    if (above === null) continue;
    const lane = lanes.find((one) => above >= one.y && above < one.y + one.h), y = lane.y + lane.h - 9, x = X(t), wide = label.length * 6.4 + 10;
    let place = clamp(x, 150, W - wide / 2 - 4);
    for (const one of used.filter((u) => u.y === y)) if (place - wide / 2 < one.to) place = one.to + wide / 2;
    if (place + wide / 2 > W - 4 || used.some((u) => u.y === y && u.label === label && Math.abs(u.x - x) < 3)) continue;
    used.push({ y, to: place + wide / 2, label, x });
    upper.push(s("path", { class: "lead", d: `M${x.toFixed(1)} ${above + bar + 3}V${y - 17}L${place.toFixed(1)} ${y - 12}` }), s("text", { class: "s", x: place.toFixed(1), y, "text-anchor": "middle" }, label));
  }
}
