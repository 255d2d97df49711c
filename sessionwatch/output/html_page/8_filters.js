/* Search and filters. They hide rows of the list; in the picture what is hidden is only dimmed. */
const value = (name) => $(`#${name}`).value;
const NAMES = ["rule", "file", "model", "unit", "state"];
const filtered = () => Boolean(value("q")) || NAMES.some((name) => value(name));
const fileOf = (finding) => R.sites[finding.site]?.[0] || "";

/* Everything that a finding says, in lower case; made when it is searched for the first time. */
function wordsOf(finding) {
  finding.words ??= [finding.id, finding.rule, finding.severity, finding.subject, finding.message, finding.fix, finding.fp, finding.allowed || "", finding.units.join("\n"), finding.tests.join("\n"),
    [finding.site, ...finding.chain, ...finding.evidence.map((e) => e[1])].map(siteIn).join("\n"), finding.evidence.map((e) => `${e[0]} ${e[2] || ""} ${e[3] || ""} ${e[5] || ""}`).join("\n")].join("\n").toLowerCase();
  return finding.words;
}

function matches(finding, words) {
  const wanted = value("state");
  if (wanted ? stateOf(finding) !== wanted : finding.allowed !== null) return false;
  if (value("rule") && finding.rule !== value("rule")) return false;
  if (value("file") && fileOf(finding) !== value("file")) return false;
  if (value("model") && !finding.models.includes(value("model"))) return false;
  if (value("unit") && !finding.units.includes(value("unit"))) return false;
  return words.every((word) => wordsOf(finding).includes(word));
}

function filter() {
  const words = value("q").toLowerCase().split(/\s+/).filter(Boolean);
  state.shown = new Set(F.filter((finding) => matches(finding, words)).map((finding) => finding.index));
  NAMES.forEach((name) => $(`#${name}`).classList.toggle("on", Boolean(value(name))));
  if (state.finding !== null && !state.shown.has(state.finding)) state.finding = state.cause = null;
  state.cursor = state.from = 0;
  state.most = PAGE;
}

function options(name, values) {
  const counts = new Map();
  values.forEach((one) => { if (one) counts.set(one, (counts.get(one) || 0) + 1); });
  const most = [...counts].sort((a, b) => b[1] - a[1]).slice(0, 300).map(([one]) => one).sort();
  $(`#${name}`).append(...most.map((one) => h("option", { value: one }, one)));
  if (counts.size > most.length) $(`#${name}`).append(h("option", { disabled: true }, `and ${grouped(counts.size - most.length)} more: search`));
  $(`#${name}`).disabled = counts.size === 0;
}
