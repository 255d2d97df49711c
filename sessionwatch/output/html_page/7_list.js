/* The list of causes: rows, and the story of the finding that is open. */
/* Code in a text: what stands in backticks, or else ``code`` where it stands in it. */
const codeIn = (text, code) => (!text.includes("`") && code && text.includes(code) ? text.replace(code, () => `\`${code}\``) : text).split("`").map((part, n) => (n % 2 ? h("code", {}, part) : part));
const copyButton = (label, text, link = false) => h("button", { class: "btn", type: "button", "data-copy": text, "data-link": link }, label);

function sceneOf(finding) {
  if (!P) return null;
  const links = P.links.filter((link) => link.f === finding.index);
  const named = new Set(finding.evidence.map((e) => e[6]).filter((i) => i !== null));
  links.forEach((link) => [link.s, link.s2].forEach((i) => { if (i !== null && i !== undefined) named.add(i); }));
  /* of what happened many times, the first is the story */
  const first = links.length ? links[0] : null;
  const keep = first ? links.filter((link) => link.s === first.s || link.t === first.t) : [];
  const chosen = new Set([...named].filter((i) => !first || i === first.s || i === first.s2 || finding.evidence.some((e) => e[6] === i)));
  const sessions = P.sessions.filter((one) => chosen.has(one.index)).slice(0, 12);
  if (!sessions.length) return null;
  const around = sessions.filter((one) => one.block !== null).map((one) => P.blocks[one.block]);
  const from = Math.min(...timesOf(sessions, keep, around)), to = Math.max(...timesOf(sessions, keep, around));
  const near = P.sessions.filter((one) => !chosen.has(one.index) && sessions.some((mine) => mine.lane === one.lane) && one.t[0] >= from && one.t[0] <= to);
  const within = P.sessions.filter((one) => one.block !== null && !chosen.has(one.index) && !near.includes(one) && keep.some((link) => link.block === one.block));
  keep.forEach((link) => { if (link.block !== null) around.push(P.blocks[link.block]); });
  const all = [...sessions, ...near.slice(0, 8), ...within.slice(0, 4)].sort((a, b) => a.t[0] - b.t[0]);
  return { links: keep, sessions: all, times: timesOf(all, keep, around) };
}

function drawScene(host) {
  const finding = F[+host.dataset.scene], found = sceneOf(finding);
  if (!found) return;
  const scale = axis(found.times, { least: 0.4, tail: 0.24 });
  draw(host, { scene: finding, sessions: found.sessions, links: found.links, scale, view: [-0.05 * scale.length, scale.length], lit: null });
}

function sourceOf(finding) {
  const site = R.sites[finding.site];
  if (!site) return h("p", { class: "gone" }, "The place is not known.");
  if (R.changed.includes(site[0])) return h("p", { class: "gone" }, `${site[0]} has changed since the run, so its lines are left out.`);
  const known = R.lines[site[0]], rows = [];
  for (let n = site[1] - 3; n <= site[1] + 3; n += 1) {
    if (known?.[n] === undefined) continue;
    const hit = n === site[1], first = finding.evidence.find((e) => R.sites[e[1]]?.[0] === site[0] && R.sites[e[1]]?.[1] === n);
    rows.push(h("div", { class: hit ? "hit" : null }, h("u", {}, first ? glyph(evidenceShape(first[0], first === finding.evidence[0]), 13) : null, String(n)), known[n] || " "));
  }
  while (rows.length && !rows.at(-1).lastChild.textContent.trim()) rows.pop();
  if (!rows.length) return h("p", { class: "gone" }, "The source was not there when this report was made.");
  return h("div", { class: "src m", tabindex: 0, role: "region", "aria-label": `Source of ${finding.id}` }, rows);
}

function evidenceOf(finding) {
  return h("ol", { class: "ev" }, finding.evidence.map(([label, site, who, session, t, note], n) =>
    h("li", {}, glyph(evidenceShape(label, n === 0)), h("b", {}, label),
      h("span", {}, site >= 0 ? siteIn(site) : note || "place unknown", site >= 0 && note ? h("span", { class: "m" }, note) : null, site >= 0 && lineText(site) ? h("span", { class: "m" }, lineText(site)) : null),
      h("span", { class: "t" }, [session, who].filter(Boolean).join(", "), t === null ? null : [h("br"), `at ${time(t)}`]))));
}

/* A message stands behind its rule's name elsewhere; alone it begins as a sentence does, unless with a name. */
const sentence = (text) => (/^[a-z]+ /.test(text) ? text[0].toUpperCase() + text.slice(1) : text);

function fixOf(finding, cause) {
  const diff = cause.diff;
  return [
    h("h4", {}, "The fix"),
    h("div", { class: "fix" },
      h("div", { class: "dh" }, h("span", { class: "m" }, siteText(cause.place)), finding.paste || diff ? copyButton("Copy fix", diff ? diff.filter((l) => l[0] === "+").map((l) => l[1]).join("\n") : finding.paste) : null),
      !diff && cause.place !== finding.site && lineText(cause.place) ? h("pre", { class: "now" }, h("div", {}, lineText(cause.place))) : null,
      h("p", {}, codeIn(finding.fix || "There is no ready fix for this one.", finding.paste)),
      diff ? h("pre", { tabindex: 0, role: "region", "aria-label": `Edit for ${finding.id}` }, diff.map(([sign, text]) => h("div", { class: sign === "+" ? "a" : sign === "-" ? "d" : null }, h("span", { class: "vh" }, sign === "+" ? "add " : sign === "-" ? "remove " : ""), `${sign} ${text}`))) : null),
    diff ? h("p", { class: "w" }, "This edit is certain: ", h("code", {}, "sessionwatch report FINDINGS.jsonl --format patch")) : null,
  ];
}

function listed(title, items, total) {
  if (!items.length) return null;
  const more = total - items.length;
  return h("div", { class: "block" }, h("h4", {}, title), h("ul", { class: "chain" }, items.map((text) => h("li", {}, text)), more > 0 ? h("li", { class: "more" }, `and ${grouped(more)} more`) : null));
}

function story(finding, cause) {
  const allow = `# sessionwatch: allow ${finding.rule} -- reason`, line = R.sites[finding.site]?.[1];
  const where = { new: "new: not in the baseline", known: "known: in the baseline", allowed: `allowed: ${finding.allowed}` }[stateOf(finding)];
  const told = finding.unit ? ` in ${finding.unit}` : "";
  const here = finding.chain.indexOf(finding.site), chain = finding.chain.slice(here + 1);
  return h("article", { class: `find ${finding.severity}`, id: `f-${finding.id}`, "aria-labelledby": `h-${finding.id}` },
    h("h3", { id: `h-${finding.id}` }, sentence(finding.message)),
    h("p", { class: "w" }, h("code", {}, finding.rule), ` ${finding.subject}${told}, seen ${plural(finding.count, "time")}, ${where}`, P && sceneOf(finding) ? h("button", { class: "btn", type: "button", "data-show": finding.index }, "Show in the time line") : null),
    P && sceneOf(finding) ? h("div", { class: "scene", "data-scene": finding.index }) : null,
    h("div", { class: "two" },
      h("div", {}, h("h4", {}, siteIn(finding.site)), sourceOf(finding), h("div", { class: "block" }, h("h4", {}, "Evidence, newest first"), evidenceOf(finding))),
      h("div", {}, fixOf(finding, cause),
        here > 0 ? listed("Through, innermost first", finding.chain.slice(0, here).map(siteIn), here) : null,
        h("div", { class: "block" }, h("h4", {}, "Called from"),
          h("ol", { class: "chain" }, chain.map((site) => h("li", {}, siteIn(site))), h("li", { class: "end" }, finding.unit || (chain.length ? "no unit of work" : "not known: no caller in another file, no unit of work")))),
        listed("Units", finding.units.filter((unit) => unit !== finding.unit), finding.unitsTotal - (finding.unit ? 1 : 0)),
        listed("Tests", finding.tests, finding.testsTotal),
        h("dl", { class: "kv" },
          line ? [h("dt", {}, "allow"), h("dd", {}, h("span", {}, h("code", {}, allow), h("br"), `at the end of line ${line}, if it is meant`), copyButton("Copy comment", allow))] : null,
          h("dt", {}, "more"), h("dd", {}, h("code", {}, `sessionwatch explain ${finding.rule}`)),
          h("dt", {}, "fingerprint"), h("dd", {}, h("code", {}, finding.fp), copyButton("Copy link", `#${finding.anchor}`, true))))));
}

const TABS = 8;
function tabs(cause, findings) {
  if (findings.length < 2) return null;
  const now = Math.max(0, findings.findIndex((finding) => finding.index === state.finding)), from = clamp(Math.floor(now / TABS) * TABS, 0, findings.length - 1);
  const shown = findings.slice(from, from + TABS), paged = findings.length > TABS;
  const step = (to, text, label) => h("button", { class: "btn", type: "button", "data-tab": findings[clamp(to, 0, findings.length - 1)].index, disabled: to < 0 || to >= findings.length, "aria-label": label }, text);
  return h("div", { class: "tabs", role: "group", "aria-label": `Findings of cause ${cause.id}` },
    paged ? step(from - TABS, "‹", "Earlier findings") : null,
    shown.map((finding) => h("button", { class: "t", type: "button", "data-tab": finding.index, "aria-pressed": String(finding.index === state.finding) }, `${finding.id} ${finding.subject}${finding.unit ? `, ${finding.unit}` : R.sites[finding.site] ? `, ${R.sites[finding.site][2] || siteText(finding.site)}` : ""}`)),
    paged ? [step(from + TABS, "›", "Later findings"), `${grouped(from + 1)} to ${grouped(from + shown.length)} of ${grouped(findings.length)}`] : null);
}

function badge(findings) {
  const count = { new: 0, known: 0, allowed: 0 };
  findings.forEach((finding) => { count[stateOf(finding)] += 1; });
  if (count.new === findings.length) return ["new", `${grouped(count.new)} new`];
  if (count.new) return ["mix", `${grouped(count.new)} of ${grouped(findings.length)} new`];
  return count.known ? ["known", "known"] : ["allowed", "allowed"];
}

function causeRow(cause, number) {
  const findings = ofCause(cause).filter((finding) => state.shown.has(finding.index)), [kind, words] = badge(findings), open = state.cause === cause.index;
  const total = (list, most) => Math.max(uniq(findings.flatMap(list)).length, ...findings.map(most));
  const places = uniq(findings.map((finding) => siteText(finding.site))).length, seen = findings.reduce((sum, finding) => sum + finding.count, 0);
  const units = total((f) => f.units, (f) => f.unitsTotal), tests = total((f) => f.tests, (f) => f.testsTotal);
  const subjects = uniq(findings.flatMap((finding) => finding.subjects)), told = subjects.slice(0, 8).join(", ") + (subjects.length > 8 ? ` and ${grouped(subjects.length - 8)} more` : "");
  return h("li", { class: `cause ${cause.severity}${number === state.cursor ? " cur" : ""}`, "data-c": cause.index },
    h("button", { class: "row", type: "button", "aria-expanded": String(open) },
      h("span", { class: `bdg ${cause.severity}${cause.id.length > 2 ? " long" : ""}` }, h("span", {}, cause.id)),
      h("span", {}, h("span", { class: "vh" }, `${cause.severity}: `), h("span", { class: "h" }, sentence(cause.title)), h("span", { class: "sub" }, cause.severity === "fault" ? "" : `${cause.severity}, `, h("b", { class: "m" }, cause.rule), ` ${told}`)),
      h("span", { class: "fx" }, h("span", {}, `${siteText(cause.place)}: ${cause.fix}`), cause.code ? h("span", { class: "m" }, cause.code) : null),
      [places, units, tests, seen].map((n) => h("span", { class: n ? "r" : "r zero", "aria-hidden": "true" }, grouped(n))),
      h("span", { class: "num" }, `${plural(places, "place")}, ${plural(units, "unit")}, ${plural(tests, "test")}, seen ${plural(seen, "time")}`),
      h("span", { class: "stc" }, h("span", { class: `st ${kind}` }, words))),
    open ? h("div", { class: "open" }, tabs(cause, findings), findings.filter((finding) => finding.index === state.finding).map((finding) => story(finding, cause))) : null);
}

const PAGE = 100;
const shownCauses = () => C.filter((cause) => cause.findings.some((index) => state.shown.has(index)));

/* Only a part of a long list is made: ``most`` rows after the first ``from``, with the one under the cursor in it. */
function paint(keep = null) {
  const causes = shownCauses();
  if (state.cursor < state.from || state.cursor >= state.from + state.most) {
    state.from = Math.max(0, state.cursor - 20);
    state.most = PAGE;
  }
  const made = causes.slice(state.from, state.from + state.most);
  $("#causes").replaceChildren(...made.map((cause, n) => causeRow(cause, n + state.from)));
  const before = state.from, left = Math.max(0, causes.length - before - made.length);
  const earlier = h("button", { class: "btn", type: "button", id: "earlier" }, `Show ${grouped(Math.min(PAGE, before))} more before these`);
  $("#before").replaceChildren(...(before ? [earlier] : []));
  const empty = h("p", {}, F.length ? "Nothing matches. " : "There is nothing to change. ", F.length ? h("button", { class: "btn", type: "button", id: "clear" }, "Clear the filters") : null);
  $("#rest").replaceChildren(...(left ? [h("button", { class: "btn", type: "button", id: "more" }, `Show ${grouped(Math.min(PAGE, left))} more of ${grouped(left)} causes`)] : causes.length ? [] : [empty]));
  const all = F.filter((finding) => finding.allowed === null).length;
  $("#n").textContent = state.shown.size === all && !filtered() ? plural(all, "finding") : `${grouped(state.shown.size)} of ${plural(F.length, "finding")}`;
  $$(".scene").forEach(drawScene);
  picture();
  if (keep !== null) $(`[data-c="${keep}"] .row`)?.focus({ preventScroll: true });
}
