/* What the file holds, and the small tools that all parts use. Text gets into the page as text nodes only. */
const R = JSON.parse(document.getElementById("data").textContent);
const $ = (query, root = document) => root.querySelector(query);
const $$ = (query, root = document) => [...root.querySelectorAll(query)];
const uniq = (list) => [...new Set(list)];
const grouped = (number) => number.toLocaleString("en");
const plural = (number, noun) => `${grouped(number)} ${noun}${number === 1 ? "" : "s"}`;
const clamp = (value, low, high) => Math.max(low, Math.min(high, value));
const SVG = "http://www.w3.org/2000/svg";

function filled(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value === true) element.setAttribute(name, "");
    else if (value !== null && value !== undefined && value !== false) element.setAttribute(name, value);
  }
  for (const child of children.flat(2)) if (child !== null && child !== undefined && child !== "") element.append(child);
  return element;
}
/* An element of HTML, and one of SVG: attributes, then children (elements or strings). */
const h = (tag, attributes, ...children) => filled(document.createElement(tag), attributes, children);
const s = (tag, attributes, ...children) => filled(document.createElementNS(SVG, tag), attributes, children);

const F = R.findings, C = R.causes, P = R.picture;
F.forEach((finding, index) => { finding.index = index; });
const siteText = (index) => {
  const site = R.sites[index];
  return site ? `${site[0]}:${site[1]}` : "place unknown";
};
const siteIn = (index) => {
  const site = R.sites[index];
  return site ? `${site[0]}:${site[1]}${site[2] ? ` in ${site[2]}()` : ""}` : "place unknown";
};
const lineText = (index) => {
  const site = R.sites[index];
  return (site && R.lines[site[0]]?.[site[1]])?.trim() || "";
};
const byAnchor = new Map();
F.forEach((finding) => byAnchor.set(finding.anchor, finding));
const ofCause = (cause) => cause.findings.map((index) => F[index]);
const SECONDS = 2000; /* ms, from which on times are told in seconds */
const time = (ms) => {
  if (Math.abs(ms) >= SECONDS) return `${(ms / 1000).toFixed(2)} s`;
  return `${Math.abs(ms) < 10 ? +ms.toFixed(1) : grouped(Math.round(ms))} ms`;
};
/* Of each session, the findings that an arrow or a bracket ties to it: they have their pin there. */
const tied = new Map();
P?.links.forEach((link) => [link.s, link.s2].forEach((one) => tied.set(one, (tied.get(one) || new Set()).add(link.f))));
const stateOf = (finding) => (finding.allowed !== null ? "allowed" : finding.known ? "known" : "new");

/* What is shown, opened and looked at. */
const state = { shown: new Set(), finding: null, cause: null, cursor: 0, from: 0, most: 100, view: null, everyLane: false };
