/* Lanes, sessions, marks, pins and arrows. One function draws the large picture and the small one of a finding. */
const ROW = 37, BAR = 18, SCENE_ROW = 46, SCENE_BAR = 22, PIN_ROOM = 21, MOST_ROWS = 8, MOST_LANES = 12, MOST_BARS = 500;

const timesOf = (sessions, links, blocks) => [
  ...sessions.flatMap((one) => [one.t[0], ...(one.t[1] === null ? [] : [one.t[1]]), ...one.marks.flatMap((m) => [m[1], m[2]]), ...one.tx.flat(), ...one.held.flat()]),
  ...links.map((link) => link.t),
  ...blocks.flatMap((block) => block.t),
].filter((t) => t !== null);

/* Rows of a lane: a unit is a block with its sessions in it; what overlaps in time takes a row of its own. */
function rowsOf(lane, sessions, links, end) {
  const place = new Map(), rings = new Map(), items = new Map();
  const item = (key, from, to) => {
    const known = items.get(key) || { key, from, to, rows: [] };
    known.from = Math.min(known.from, from);
    known.to = Math.max(known.to, to);
    items.set(key, known);
    return known;
  };
  for (const session of sessions) {
    const to = session.t[1] ?? end;
    const block = session.block === null ? null : P.blocks[session.block];
    const known = item(block ? `b${session.block}` : `s${session.index}`, block ? block.t[0] : session.t[0], Math.max(to, block ? block.t[1] : to));
    known.severe = known.severe || session.f.length > 0;
    let row = known.rows.findIndex((until) => until <= session.t[0]);
    if (row < 0) row = known.rows.push(0) - 1;
    known.rows[row] = to;
    place.set(session, [known, row]);
  }
  for (const link of links) {
    if (link.lane !== lane) continue;
    const session = P.sessions[link.s], home = session && place.get(session);
    const inBlock = link.block !== null && items.get(`b${link.block}`);
    const known = inBlock || (home && home[0].key[0] === "s" && link.block === null ? home[0] : null) || item(link.block !== null ? `b${link.block}` : `l${link.index}`, link.t, link.t);
    known.from = Math.min(known.from, link.t);
    known.to = Math.max(known.to, link.t);
    known.severe = true;
    if (!known.rows.length) known.rows.push(0);
    rings.set(link, [known, home && home[0] === known ? home[1] : 0]);
  }
  const used = [], space = (end - P.span[0]) * 0.004, hidden = new Set();
  for (const one of [...items.values()].sort((a, b) => a.from - b.from)) {
    const height = Math.max(1, one.rows.length);
    let row = 0;
    while (Array.from({ length: height }, (_, k) => used[row + k] ?? -1e15).some((until) => until > one.from - space)) row += 1;
    if (row + height > MOST_ROWS && !one.severe) { hidden.add(one); continue; }
    for (let k = 0; k < height; k += 1) used[row + k] = one.to;
    one.row = row;
    one.height = height;
  }
  return { place, rings, count: Math.max(1, used.length), items: [...items.values()].filter((one) => !hidden.has(one)), hidden };
}

function laidOut(sessions, links, scene) {
  const end = P.span[1], lanes = [];
  P.lanes.forEach((lane, index) => {
    const mine = sessions.filter((one) => one.lane === index), touching = links.filter((link) => link.lane === index);
    if (!mine.length && !touching.length) return;
    lanes.push({ index, lane, sessions: mine, severe: touching.length > 0 || mine.some((one) => one.f.length), ...rowsOf(index, mine, links, end) });
  });
  if (scene || state.everyLane || lanes.length <= MOST_LANES) return { lanes, folded: 0 };
  const wanted = new Set([...lanes.filter((one) => one.severe), ...lanes.filter((one) => !one.severe)].slice(0, Math.max(MOST_LANES, lanes.filter((one) => one.severe).length)));
  return { lanes: lanes.filter((one) => wanted.has(one)), folded: lanes.length - wanted.size };
}

/* What a session did, in words: for the tooltip, the table and readers without the picture. */
function described(session) {
  const counts = {};
  for (const [kind, , , n] of session.marks) counts[SAYS[kind] || kind] = (counts[SAYS[kind] || kind] || 0) + n;
  const held = session.held.reduce((sum, [a, b]) => sum + ((b ?? P.span[1]) - a), 0);
  const did = Object.entries(counts).map(([kind, n]) => (n > 1 ? `${kind} ${n} times` : kind)).join(", ");
  const life = session.t[1] === null ? `opened at ${time(session.t[0])}, never closed` : `open ${time(session.t[0])} to ${time(session.t[1])}, ${time(session.t[1] - session.t[0])}`;
  const found = session.f.length ? `findings: ${session.f.slice(0, 6).map((i) => F[i].id).join(", ")}` : "no finding";
  return {
    title: `Session ${session.id}: ${ENDS[session.end] || session.end}`,
    body: [`${P.lanes[session.lane].name}, ${life}`, `opened at ${siteIn(session.at)}`, session.held.length ? `connection held ${time(held)}` : "held no connection", did, found].filter(Boolean),
  };
}
const ENDS = { committed: "committed", rolled_back: "rolled back", read_only: "read only", lost: "nothing was committed", leaked: "leaked", open: "never closed" };

function pinShape(finding, x, y, dim) {
  const wide = Math.max(9, finding.id.length * 3.6 + 2.4), fault = finding.severity === "fault";
  const outline = fault
    ? `M${-wide}-9H${wide}L${wide + 3}-5V4L${wide} 7H4L0 12-4 7H${-wide}L${-wide - 3} 4V-5Z`
    : `M${-wide + 3}-9H${wide - 3}A8 8 0 0 1 ${wide - 3} 7H4L0 12-4 7H${-wide + 3}A8 8 0 0 1 ${-wide + 3}-9Z`;
  return s("g", { class: `pin ${finding.severity}${dim ? " dim" : ""}`, "data-f": finding.index, transform: `translate(${x.toFixed(1)} ${y.toFixed(1)})`, role: "button", tabindex: "-1", "aria-label": `Finding ${finding.id}: ${finding.rule}, ${finding.message}` },
    s("path", { d: outline }), s("text", { y: 3.2 }, finding.id));
}

let drawings = 0;
function draw(host, options) {
  const { scene = null, sessions, links, view, scale } = options;
  const W = Math.max(560, host.clientWidth || 900), left = W < 800 ? 140 : W < 1000 ? 170 : 214, right = 18, room = W - left - right;
  const X = (t) => left + ((scale.to(t) - view[0]) / (view[1] - view[0])) * room;
  const bar = scene ? SCENE_BAR : BAR, rowHeight = scene ? SCENE_ROW : ROW, id = `d${(drawings += 1)}`;
  const dimmed = (indexes) => options.lit !== null && !indexes.some((i) => options.lit.has(i));
  const { lanes, folded } = laidOut(sessions, links, scene);
  const lower = [], middle = [], upper = [], pins = [], marksOfLanes = [];
  const top = new Map(), ringTop = new Map();
  let y = scene ? 12 : 30;
  for (const lane of lanes) {
    lane.y = y;
    y += 7;
    const pinned = new Set();
    for (const [session, [item, row]] of lane.place) if (session.f.length && !lane.hidden.has(item)) pinned.add(item.row + row);
    for (const [, [item, row]] of lane.rings) pinned.add(item.row + row);
    lane.rowY = [];
    for (let row = 0; row < lane.count; row += 1) {
      if (pinned.has(row) && !scene) y += PIN_ROOM;
      lane.rowY.push(y + 15);
      y += rowHeight;
    }
    y += scene ? 26 : 6;
    lane.h = y - lane.y;
    for (const [session, [item, row]] of lane.place) if (!lane.hidden.has(item)) top.set(session, lane.rowY[item.row + row]);
    for (const [link, [item, row]] of lane.rings) ringTop.set(link, lane.rowY[item.row + row]);
  }
  const H = y + (scene ? 0 : 4);

  /* the axis: ticks, breaks, and where in the whole the view is */
  const { found, step } = ticks(scale, view, X, room);
  found.forEach(([x, t], n) => {
    if (x < left - 1 || x > W) return;
    lower.push(s("path", { class: "grid", d: `M${x.toFixed(1)} ${scene ? 4 : 22}V${H}` }));
    const label = scale.last >= SECONDS ? (t / 1000).toFixed(step < 1000 ? (step < 100 ? (step < 10 ? 3 : 2) : 1) : 0) : grouped(+t.toFixed(1));
    if (!scene) lower.push(s("text", { class: "s", x: x.toFixed(1), y: 15, "text-anchor": x > W - 34 ? "end" : "middle" }, label + (n === found.length - 1 ? (scale.last >= SECONDS ? " s" : " ms") : "")));
  });
  scale.segments.slice(1).forEach((segment, n) => {
    const before = scale.segments[n], a = X(before[1]), b = X(segment[0]);
    if (b < left || a > W) return;
    const from = Math.max(left, a);
    lower.push(s("rect", { class: "zig", x: from.toFixed(1), y: scene ? 0 : 22, width: Math.max(2, b - from).toFixed(1), height: H, "stroke-dasharray": "2 3" }, s("title", {}, `nothing happens for ${time(segment[0] - before[1])}`)));
    if (b - a >= 12) upper.push(s("text", { class: "s id", x: ((a + b) / 2).toFixed(1), y: H - 6, "text-anchor": "middle" }, b - a > 46 ? time(segment[0] - before[1]) : "⋯"));
  });
  if (!scene && view[1] - view[0] < scale.length * 0.999) {
    lower.push(s("rect", { class: "strip", x: left, y: 20, width: room, height: 4, rx: 2 }));
    lower.push(s("rect", { class: "strip on", x: left + (view[0] / scale.length) * room, y: 20, width: Math.max(4, ((view[1] - view[0]) / scale.length) * room), height: 4, rx: 2 }));
  }

  lanes.forEach((lane, n) => {
    if (n || !scene) marksOfLanes.push(s("path", { class: "rule", d: `M0 ${lane.y}H${W}` }));
    const fits = Math.floor((left - 24) / 6.7), name = lane.lane.name, words = [];
    let rest = name;
    while (rest.length > fits && words.length < 2) {
      const cut = Math.max(rest.lastIndexOf("/", fits), rest.lastIndexOf(" ", fits), rest.lastIndexOf(".", fits));
      words.push(rest.slice(0, cut > 3 ? cut : fits));
      rest = rest.slice(cut > 3 ? cut : fits);
    }
    words.push(rest.length > fits ? `${rest.slice(0, fits - 1)}…` : rest);
    words.forEach((word, k) => marksOfLanes.push(s("text", { class: "b", x: 16, y: lane.y + 26 + k * 15 }, word, k ? null : s("title", {}, name))));
    marksOfLanes.push(s("text", { class: "s", x: 16, y: lane.y + 27 + words.length * 15 }, `${lane.lane.kind}, ${plural(lane.sessions.length, "session")}`));
  });

  const visible = (a, b) => scale.to(b) >= view[0] && scale.to(a) <= view[1];
  /* units of work: pale blocks behind their sessions */
  for (const lane of lanes) {
    for (const item of lane.items) {
      if (item.key[0] !== "b") continue;
      const block = P.blocks[+item.key.slice(1)];
      if (!visible(item.from, item.to)) continue;
      const y0 = lane.rowY[item.row] - 5, y1 = lane.rowY[item.row + item.height - 1] + bar + 5;
      middle.push(s("rect", { class: "u", x: (X(block.t[0]) - 4).toFixed(1), y: y0, width: Math.max(8, X(item.to) - X(block.t[0]) + 8).toFixed(1), height: y1 - y0, rx: 6 }, s("title", {}, `${block.name}: ${time(block.t[0])} to ${time(block.t[1])}`)));
    }
  }

  /* sessions; those that are too short to see, and without a finding, are one strip per lane */
  const order = sessions.filter((one) => top.has(one) && visible(one.t[0], one.t[1] ?? P.span[1]));
  const severe = order.filter((one) => one.f.length), rest = order.filter((one) => !one.f.length);
  const drawn = [...severe.slice(0, MOST_BARS), ...rest.filter((one) => X(one.t[1] ?? P.span[1]) - X(one.t[0]) >= 2).slice(0, Math.max(0, MOST_BARS - severe.length))];
  const shownBars = new Set(drawn), dense = new Map();
  for (const one of order) {
    if (shownBars.has(one)) continue;
    const key = `${one.lane}:${Math.round(X(one.t[0]))}`;
    if (!dense.has(key)) dense.set(key, [Math.round(X(one.t[0])), top.get(one)]);
  }
  for (const [x, yy] of [...dense.values()].slice(0, 1500)) middle.push(s("rect", { class: "dens", x, y: yy + bar - 5, width: 1.5, height: 5 }));
  drawn.sort((a, b) => a.lane - b.lane || a.t[0] - b.t[0]);
  const ends = new Map(); /* of the bar before, on each row: a label needs room */
  for (const one of drawn) {
    const row = top.get(one), room = X(one.t[0]) - (ends.get(row) ?? left - 60);
    ends.set(row, X(one.t[1] ?? P.span[1]));
    middle.push(sessionBar(one, { X, W, bar, id, scene, dim: dimmed(one.f), top: row, upper, pins, lit: options.lit, left, labelled: room > one.id.length * 6.4 + 9 }));
  }

  for (const link of links) {
    const pieces = linkShape(link, { X, W, bar, id, scene, top, ringTop, pins, left, lit: options.lit });
    if (pieces.length) upper.push(s("g", { class: `${F[link.f].severity}${dimmed([link.f]) ? " dim" : ""}` }, pieces));
  }
  if (scene) labelEvidence(scene, { X, W, bar, lanes, top, ringTop, links, upper });

  const pinned = [];
  for (const pin of spread(pins)) {
    const finding = F[pin.f];
    if (pin.x < left - 12 || pin.x > W - 4) continue;
    const wide = finding.id.length * 3.6 + 8, caption = finding.rule.length * 6.3 + 22;
    const right = (pin.next === null || pin.next - pin.x > caption + wide) && pin.x + caption + wide < W;
    const leftOf = !right && pin.next === null && pin.x - caption - wide > Math.max(left, pin.before ?? 0);
    if (!scene && (right || leftOf)) pinned.push(s("text", { class: `${finding.severity === "fault" ? "red" : "amb"}${pin.dim ? " dim" : ""}`, x: (right ? pin.x + wide + 3 : pin.x - wide - 3).toFixed(1), y: (pin.y + 3).toFixed(1), "text-anchor": right ? "start" : "end" }, finding.rule));
    if (!scene) pinned.push(pinShape(finding, pin.x, pin.y, pin.dim));
  }

  const defs = s("defs", {},
    s("clipPath", { id: `${id}c` }, s("rect", { x: left - 12, y: 0, width: W - left + 12, height: H })),
    s("pattern", { id: `${id}h`, width: 6, height: 6, patternTransform: "rotate(45)", patternUnits: "userSpaceOnUse" }, s("rect", { class: "hatch-bg", width: 6, height: 6 }), s("path", { class: "hatch", d: "M0 0V6" })),
    s("marker", { id: `${id}f`, viewBox: "0 0 10 10", refX: 8.5, refY: 5, markerWidth: 5, markerHeight: 5, orient: "auto" }, s("path", { class: "head", d: "M0 0 10 5 0 10Z" })),
  );
  const label = scene ? `The story of finding ${scene.id}` : `Time line of ${plural(sessions.length, "session")} in ${plural(lanes.length, "lane")}`;
  host.replaceChildren(s("svg", { viewBox: `0 0 ${W} ${H}`, height: H, role: "group", "aria-label": label }, defs, s("g", { "clip-path": `url(#${id}c)` }, lower), marksOfLanes, s("g", { "clip-path": `url(#${id}c)` }, middle, upper, pinned)));
  if (folded) host.append(h("p", { class: "fold" }, h("button", { class: "btn", type: "button", id: "lanes" }, `Show ${plural(folded, "more lane")} without a finding`)));
}

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

function sessionBar(one, { X, W, bar, id, scene, dim, top, upper, pins, lit, left, labelled }) {
  const leak = one.t[1] === null, x0 = X(one.t[0]), x1 = leak ? W + 20 : Math.max(X(one.t[1]), x0 + 3), mid = top + bar / 2, g = [];
  const wide = (a, b) => Math.max(1.5, (b === null ? W + 20 : X(b)) - X(a)).toFixed(1);
  if (leak) g.push(s("path", { class: "bx leak", d: `M${x1} ${top}H${x0 + 4}q-4 0-4 4v${bar - 8}q0 4 4 4H${x1}` }));
  else g.push(s("rect", { class: "bx", x: x0.toFixed(1), y: top, width: (x1 - x0).toFixed(1), height: bar, rx: Math.min(4, (x1 - x0) / 2) }));
  for (const [a, b] of one.tx) g.push(s("rect", { class: "x", x: X(a).toFixed(1), y: top + 3, width: wide(a, b), height: bar - 6, rx: 2 }));
  const writes = one.marks.filter((mark) => mark[0] === "flush" || mark[0] === "write"), lost = one.end === "lost";
  if (lost) { const from = writes.length ? writes[0][1] : one.t[0]; g.push(s("rect", { x: X(from).toFixed(1), y: top + 1, width: Math.max(3, x1 - X(from)).toFixed(1), height: bar - 2, fill: `url(#${id}h)` })); }
  for (const [a, b] of one.held) g.push(s("rect", { class: "c", x: X(a).toFixed(1), y: mid - 2, width: wide(a, b), height: 4 }));
  const my = top - 6.5;
  const shown = []; /* marks side by side; in a heap, how the transaction ended counts most */
  const decides = (kind) => kind === "commit" || kind === "rollback";
  for (const [kind, t, until, n] of one.marks) {
    const x = X(t), before = shown.at(-1);
    const comb = n >= 4 && X(until) - x > 12;
    if (comb || !before || x - before.to >= 9) shown.push({ kind, x, to: comb ? X(until) : x, n, comb });
    else if (decides(kind) && !decides(before.kind) && !before.comb) shown[shown.length - 1] = { kind, x, to: x, n, comb };
    else if (decides(kind) && before.comb) shown.push({ kind, x, to: x, n, comb });
  }
  for (const { kind, x, to, n, comb } of shown) {
    if (!comb) { g.push(at(kind, x, my, scene ? 1 : 0.82)); continue; }
    const teeth = Math.min(n, Math.ceil((to - x) / 4));
    const d = Array.from({ length: teeth }, (_, i) => `M${(x + ((to - x) * i) / (teeth - 1)).toFixed(1)} ${my + 1}v6`).join("");
    g.push(s("path", { class: "comb", d: `M${x.toFixed(1)} ${my + 4}H${to.toFixed(1)}${d}` }));
    if (scene) upper.push(s("text", { class: "amb", x: ((x + to) / 2).toFixed(1), y: my - 4, "text-anchor": "middle" }, `${n} ${SAYS[kind] || kind}s, one by one`));
  }
  if (!leak) g.push(at("close", x1, mid, bar / 18));
  if (lost) g.push(at("lost", x1, my, 1.05));
  if (leak) g.push(at("leak", W - 14, top - 7));
  if (labelled && (scene || one.f.length)) upper.push(s("text", { class: `s id${dim ? " dim" : ""}`, x: (x0 - 5).toFixed(1), y: mid + 4, "text-anchor": "end" }, one.id));
  if (scene && lost) upper.push(s("text", { class: "red", x: (x1 + 12).toFixed(1), y: mid + 4 }, "nothing committed"));
  if (scene && leak) upper.push(s("text", { class: "red", x: Math.min(Math.max(x0, X(one.marks.at(-1)?.[2] ?? one.t[0])) + 14, W - 246).toFixed(1), y: top - 3 }, one.held.some((held) => held[1] === null) ? "never closed, connection still held" : "never closed"));
  const linked = tied.get(one.index) || new Set();
  const anchor = lost && writes.length ? X(writes[0][1]) : x0 + 14;
  const shownPins = one.f.filter((f) => state.shown.has(f) && !linked.has(f)).slice(0, 4);
  shownPins.forEach((f, n) => pins.push({ f, x: Math.max(anchor, left + 14) + n * 27, y: top - 28, dim: lit !== null && !lit.has(f) }));
  const d = described(one);
  return s("g", { class: `sess${dim ? " dim" : ""}`, "data-s": one.index, "data-f": one.f.length ? one.f[0] : null, role: one.f.length ? "button" : "img", tabindex: "-1", "aria-label": `${d.title}; ${d.body.join("; ")}` },
    g, s("rect", { class: "hit-area", x: x0.toFixed(1), y: top - 14, width: Math.max(8, x1 - x0).toFixed(1), height: bar + 16 }));
}

/* What ties a finding to two places: used after the close, used by two at once, two sessions in one unit. */
function linkShape(link, { X, W, bar, id, scene, top, ringTop, pins, left, lit }) {
  const session = P.sessions[link.s], finding = F[link.f], dim = lit !== null && !lit.has(link.f), x1 = X(link.t);
  const home = session && top.get(session), ring = ringTop.get(link), out = [];
  if (link.kind === "touch" && ring !== undefined) {
    const y1 = ring + bar / 2;
    if (home !== undefined && session.t[1] !== null) {
      const x0 = X(session.t[1]), y0 = home + bar / 2, far = Math.abs(y1 - y0) > 20;
      const bend = Math.max(24, Math.min(60, Math.abs(x1 - x0) / 2));
      const d = far ? `M${x0 + 3} ${y0}C${x0 + bend} ${y0} ${x1 - bend} ${y1} ${x1 - 9} ${y1}` : `M${x0 + 3} ${y0}H${Math.max(x0 + 4, x1 - 9)}`;
      if (far || x1 - x0 > 16) out.push(s("path", { class: "way halo", d }), s("path", { class: `way${far ? "" : " short"}`, d, "marker-end": `url(#${id}f)` }));
      if (scene) out.push(s("text", { class: finding.severity === "fault" ? "red" : "amb", x: (far ? (x0 + x1) / 2 + 16 : Math.min(x1 + 13, W - 150)).toFixed(1), y: far ? (y0 + y1) / 2 - 7 : y1 + 4 }, `${time(link.t - session.t[1])} after the close`));
    }
    out.push(at("touch", x1, y1, 1.1));
    if (!scene) pins.push({ f: link.f, x: Math.max(x1, left + 14), y: ring - 28, dim });
  }
  if (link.kind === "both" && home !== undefined) {
    const y0 = home + bar / 2;
    if (ring !== undefined && Math.abs(ring - home) > 6) {
      const y1 = ring + bar / 2, a = Math.min(home, ring), b = Math.max(home, ring);
      out.push(s("rect", { class: "band", x: (x1 - 5).toFixed(1), y: a, width: 10, height: b - a + bar }), s("path", { class: "bandline", d: `M${x1 - 5} ${a - 4}V${b + bar + 4}M${x1 + 5} ${a - 4}V${b + bar + 4}` }));
      out.push(s("rect", { class: "u borrowed", x: (x1 - 46).toFixed(1), y: ring, width: 92, height: bar, rx: 4 }), s("text", { class: "s id", x: (x1 - 42).toFixed(1), y: y1 + 4 }, session.id), at("both", x1, y1, 1.1));
    }
    out.push(at("both", x1, y0, 1.1));
    if (scene) out.push(s("text", { class: "red", x: (x1 + 14).toFixed(1), y: home - 8 }, "two at once"));
    else pins.push({ f: link.f, x: Math.max(x1 + 2, left + 14), y: (ring ?? home) - 28, dim });
  }
  if (link.kind === "pair") {
    const other = P.sessions[link.s2], y2 = other && top.get(other);
    if (home === undefined || y2 === undefined) return out;
    const end = (one) => { const done = one.marks.filter((m) => m[0] === "commit").at(-1); return done ? done[2] : one.t[1] ?? one.t[0]; };
    const a = X(end(session)), b = X(end(other)), ya = home - 13, yb = y2 - 13;
    out.push(s("path", { class: "both", d: `M${a} ${ya}V${Math.min(ya, yb) - 8}H${b}V${yb}` }));
    if (scene) out.push(s("text", { class: "amb", x: (Math.max(a, b) + 12).toFixed(1), y: Math.min(ya, yb) - 4 }, `${session.id} and ${other.id}`));
    else pins.push({ f: link.f, x: Math.max((a + b) / 2, left + 14), y: Math.min(ya, yb) - 14, dim });
  }
  return out;
}

/* In the small picture each piece of evidence stands under its mark. */
function labelEvidence(finding, { X, W, bar, lanes, top, ringTop, links, upper }) {
  const used = [];
  for (const [label, , , sessionId, t, , sessionIndex] of [...finding.evidence].reverse()) {
    if (t === null) continue;
    const session = sessionIndex === null ? null : P.sessions[sessionIndex];
    const link = links.find((one) => one.t === t && ringTop.has(one));
    const above = link ? ringTop.get(link) : session && top.has(session) ? top.get(session) : null;
    if (above === null) continue;
    const lane = lanes.find((one) => above >= one.y && above < one.y + one.h), y = lane.y + lane.h - 9, x = X(t), wide = label.length * 6.4 + 10;
    let at = clamp(x, 150, W - wide / 2 - 4);
    for (const one of used.filter((u) => u.y === y)) if (at - wide / 2 < one.to) at = one.to + wide / 2;
    if (at + wide / 2 > W - 4 || used.some((u) => u.y === y && u.label === label && Math.abs(u.x - x) < 3)) continue;
    used.push({ y, to: at + wide / 2, label, x });
    upper.push(s("path", { class: "lead", d: `M${x.toFixed(1)} ${above + bar + 3}V${y - 17}L${at.toFixed(1)} ${y - 12}` }), s("text", { class: "s", x: at.toFixed(1), y, "text-anchor": "middle" }, label));
  }
}
