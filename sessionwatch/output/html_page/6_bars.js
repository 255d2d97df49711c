/* What is drawn of one session, and what ties a finding to two places. */
/* The bar of one session: three thicknesses, hatching where writes were lost, marks above. */
function sessionBar(one, canvas, labelled) {
  const { X, W, bar, id, scene, upper, dimmed } = canvas, top = canvas.top.get(one), mid = top + bar / 2, dim = dimmed(one.f) ? " dim" : "";
  const leak = one.t[1] === null, lost = one.end === "lost", x0 = X(one.t[0]), x1 = leak ? W + 20 : Math.max(X(one.t[1]), x0 + 3), g = [];
  const wide = (a, b) => Math.max(1.5, (b === null ? W + 20 : X(b)) - X(a)).toFixed(1);
  if (leak) g.push(s("path", { class: "bx leak", d: `M${x1} ${top}H${x0 + 4}q-4 0-4 4v${bar - 8}q0 4 4 4H${x1}` }));
  else g.push(s("rect", { class: "bx", x: x0.toFixed(1), y: top, width: (x1 - x0).toFixed(1), height: bar, rx: Math.min(4, (x1 - x0) / 2) }));
  for (const [a, b] of one.tx) g.push(s("rect", { class: "x", x: X(a).toFixed(1), y: top + 3, width: wide(a, b), height: bar - 6, rx: 2 }));
  const write = one.marks.find((mark) => mark[0] === "flush" || mark[0] === "write");
  if (lost) { const from = X(write ? write[1] : one.t[0]); g.push(s("rect", { x: from.toFixed(1), y: top + 1, width: Math.max(3, x1 - from).toFixed(1), height: bar - 2, fill: `url(#${id}h)` })); }
  for (const [a, b] of one.held) g.push(s("rect", { class: "c", x: X(a).toFixed(1), y: mid - 2, width: wide(a, b), height: 4 }));
  g.push(...marksOf(one, canvas, top - 6.5));
  if (!leak) g.push(at("close", x1, mid, bar / 18));
  if (lost) g.push(at("lost", x1, top - 6.5, 1.05));
  if (leak) g.push(at("leak", W - 14, top - 7));
  if (labelled && (scene || one.f.length)) upper.push(s("text", { class: `s id${dim}`, x: (x0 - 5).toFixed(1), y: mid + 4, "text-anchor": "end" }, one.id));
  if (scene) sayHowItEnded(one, canvas, x0, x1, top);
  pinsOf(one, canvas, lost && write ? X(write[1]) : x0 + 14, top);
  const told = described(one);
  return s("g", { class: `sess${dim}`, "data-s": one.index, "data-f": one.f.length ? one.f[0] : null, role: one.f.length ? "button" : "img", tabindex: "-1", "aria-label": `${told.title}; ${told.body.join("; ")}` },
    g, s("rect", { class: "hit-area", x: x0.toFixed(1), y: top - 14, width: Math.max(8, x1 - x0).toFixed(1), height: bar + 16 }));
}

/* Marks side by side, a run of one kind as a comb; of a heap, how the transaction ended counts most. */
function marksOf(one, { X, scene, upper }, y) {
  const shown = [], decides = (kind) => kind === "commit" || kind === "rollback";
  for (const [kind, t, until, n] of one.marks) {
    const x = X(t), before = shown.at(-1), comb = n >= 4 && X(until) - x > 12, mark = { kind, x, to: comb ? X(until) : x, n, comb };
    if (comb || !before || x - before.to >= 9 || (decides(kind) && before.comb)) shown.push(mark);
    else if (decides(kind) && !decides(before.kind)) shown[shown.length - 1] = mark;
  }
  return shown.map(({ kind, x, to, n, comb }) => {
    if (!comb) return at(kind, x, y, scene ? 1 : 0.82);
    const teeth = Math.min(n, Math.ceil((to - x) / 4));
    const d = Array.from({ length: teeth }, (_, i) => `M${(x + ((to - x) * i) / (teeth - 1)).toFixed(1)} ${y + 1}v6`).join("");
    if (scene) upper.push(s("text", { class: "amb", x: ((x + to) / 2).toFixed(1), y: y - 4, "text-anchor": "middle" }, `${n} ${SAYS[kind] || kind}s, one by one`));
    return s("path", { class: "comb", d: `M${x.toFixed(1)} ${y + 4}H${to.toFixed(1)}${d}` });
  });
}

function sayHowItEnded(one, { X, W, bar, upper }, x0, x1, top) {
  if (one.end === "lost") upper.push(s("text", { class: "red", x: (x1 + 12).toFixed(1), y: top + bar / 2 + 4 }, "nothing committed"));
  if (one.t[1] !== null) return;
  const last = Math.max(x0, X(one.marks.at(-1)?.[2] ?? one.t[0])) + 14, held = one.held.some((interval) => interval[1] === null);
  upper.push(s("text", { class: "red", x: Math.min(last, W - 246).toFixed(1), y: top - 3 }, held ? "never closed, connection still held" : "never closed"));
}

/* Pins of a session, but of findings that an arrow or a bracket ties to it: those have theirs there. */
function pinsOf(one, { pins, left, lit }, x, top) {
  const elsewhere = tied.get(one.index) || new Set();
  const mine = one.f.filter((f) => state.shown.has(f) && !elsewhere.has(f)).slice(0, 4);
  mine.forEach((f, n) => pins.push({ f, x: Math.max(x, left + 14) + n * 27, y: top - 28, dim: lit !== null && !lit.has(f) }));
}

/* What ties a finding to two places. */
const LINKS = {
  /* used after the close: an arrow from the close to the mark */
  touch(link, { X, W, bar, id, scene, top, ringTop, pins, left, dimmed }) {
    const session = P.sessions[link.s], home = top.get(session), ring = ringTop.get(link), x1 = X(link.t), out = [];
    if (ring === undefined) return out;
    const y1 = ring + bar / 2;
    if (home !== undefined && session.t[1] !== null) {
      const x0 = X(session.t[1]), y0 = home + bar / 2, far = Math.abs(y1 - y0) > 20, bend = clamp(Math.abs(x1 - x0) / 2, 24, 60);
      const d = far ? `M${x0 + 3} ${y0}C${x0 + bend} ${y0} ${x1 - bend} ${y1} ${x1 - 9} ${y1}` : `M${x0 + 3} ${y0}H${Math.max(x0 + 4, x1 - 9)}`;
      if (far || x1 - x0 > 16) out.push(s("path", { class: "way halo", d }), s("path", { class: `way${far ? "" : " short"}`, d, "marker-end": `url(#${id}f)` }));
      const label = far ? [(x0 + x1) / 2 + 16, (y0 + y1) / 2 - 7] : [Math.min(x1 + 13, W - 150), y1 + 4];
      if (scene) out.push(s("text", { class: F[link.f].severity === "fault" ? "red" : "amb", x: label[0].toFixed(1), y: label[1] }, `${time(link.t - session.t[1])} after the close`));
    }
    out.push(at("touch", x1, y1, 1.1));
    if (!scene) pins.push({ f: link.f, x: Math.max(x1, left + 14), y: ring - 28, dim: dimmed([link.f]) });
    return out;
  },
  /* two at once: a band between the session and the one that had borrowed it */
  both(link, { X, bar, scene, top, ringTop, pins, left, dimmed }) {
    const session = P.sessions[link.s], home = top.get(session), ring = ringTop.get(link), x = X(link.t), out = [];
    if (home === undefined) return out;
    if (ring !== undefined && Math.abs(ring - home) > 6) {
      const a = Math.min(home, ring), b = Math.max(home, ring) + bar;
      out.push(s("rect", { class: "band", x: (x - 5).toFixed(1), y: a, width: 10, height: b - a }), s("path", { class: "bandline", d: `M${x - 5} ${a - 4}V${b + 4}M${x + 5} ${a - 4}V${b + 4}` }));
      out.push(s("rect", { class: "u borrowed", x: (x - 46).toFixed(1), y: ring, width: 92, height: bar, rx: 4 }), s("text", { class: "s id", x: (x - 42).toFixed(1), y: ring + bar / 2 + 4 }, session.id), at("both", x, ring + bar / 2, 1.1));
    }
    out.push(at("both", x, home + bar / 2, 1.1));
    if (scene) out.push(s("text", { class: "red", x: (x + 14).toFixed(1), y: home - 8 }, "two at once"));
    else pins.push({ f: link.f, x: Math.max(x + 2, left + 14), y: (ring ?? home) - 28, dim: dimmed([link.f]) });
    return out;
  },
  /* two sessions that belong together: a bracket between their commits, or ends */
  pair(link, { X, scene, top, pins, left, dimmed }) {
    const session = P.sessions[link.s], other = P.sessions[link.s2], home = top.get(session), second = top.get(other);
    if (home === undefined || second === undefined) return [];
    const end = (one) => one.marks.filter((mark) => mark[0] === "commit").at(-1)?.[2] ?? one.t[1] ?? one.t[0];
    const a = X(end(session)), b = X(end(other)), high = Math.min(home, second) - 13;
    if (!scene) pins.push({ f: link.f, x: Math.max((a + b) / 2, left + 14), y: high - 14, dim: dimmed([link.f]) });
    return [s("path", { class: "both", d: `M${a} ${home - 13}V${high - 8}H${b}V${second - 13}` }), scene ? s("text", { class: "amb", x: (Math.max(a, b) + 12).toFixed(1), y: high - 4 }, `${session.id} and ${other.id}`) : null];
  },
};
