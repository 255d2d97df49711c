/* One shape, one meaning; colour only repeats it. The same in the picture, the evidence and the source. */
const SHAPES = {
  load: [["path", "M-5-4H5L0 5Z", "g hollow"]],
  write: [["path", "M0-6 6 0 0 6-6 0Z", "g full"]],
  commit: [["circle", 6.5, "g ok"], ["path", "M-3 0-1 2.6 3.2-2.6", "g tick"]],
  rollback: [["circle", 6.5, "g hollow"], ["path", "M3.4 0H-3M-.4-2.8-3.2 0-.4 2.8", "g"]],
  close: [["path", "M0-8V8", "g thick"]],
  open: [["path", "M-2-7V7M-2 0H5", "g"]],
  lost: [["circle", 7, "g bad hollow dash"], ["path", "M-3-3 3 3M3-3-3 3", "g bad"]],
  touch: [["circle", 6.5, "g bad hollow"], ["circle", 2.2, "g bad full"]],
  both: [["path", "M-7-5V5M7-5V5M-7 0H7", "g bad"]],
  leak: [["path", "M-6-5-1 0-6 5M1-5 6 0 1 5", "g bad"]],
  note: [["circle", 2.5, "g full"]],
};
const SAYS = { load: "load", flush: "flush", write: "write", commit: "commit", rollback: "rollback" };
const shapeOf = (kind) => SHAPES[kind === "flush" ? "write" : kind] || SHAPES.note;
const parts = (kind) =>
  shapeOf(kind).map(([tag, geometry, names]) => s(tag, tag === "circle" ? { r: geometry, class: names } : { d: geometry, class: names }));
const glyph = (kind, size = 18) =>
  s("svg", { width: size, height: size, viewBox: "-9 -9 18 18", "aria-hidden": "true" }, parts(kind));
const at = (kind, x, y, zoom = 1) =>
  s("g", { transform: `translate(${x.toFixed(1)} ${y.toFixed(1)})${zoom === 1 ? "" : ` scale(${zoom})`}` }, parts(kind));
/* The shape of a piece of evidence: by what its label says happened. The first one is the finding's own place. */
const evidenceShape = (label, first) => {
  if (/clos|detach|expung|ended/.test(label)) return "close";
  if (/writ|add|chang|delet|flush/.test(label)) return first ? "touch" : "write";
  if (/commit/.test(label)) return "commit";
  if (/roll/.test(label)) return "rollback";
  if (/load|execut|fetch|quer/.test(label)) return first ? "touch" : "load";
  if (/open|made|obtain|began/.test(label)) return "open";
  if (/^first|^second|overlap/.test(label)) return "both";
  return first ? "touch" : "note";
};
