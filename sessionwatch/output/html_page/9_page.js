/* The page: verdict, legend, table, keys, links. */
const NUMBERS = ["no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"];
const inWords = (number) => NUMBERS[number] || grouped(number);

function verdict() {
  const open = F.filter((finding) => finding.allowed === null), causes = C.filter((cause) => cause.findings.some((i) => F[i].allowed === null));
  const faults = causes.filter((cause) => cause.severity === "fault").length, advice = causes.length - faults;
  const parts = [];
  if (faults) parts.push(h("span", { class: "fault" }, plural(faults, "fault")));
  if (faults && advice) parts.push(" and ");
  if (advice) parts.push(h("span", { class: "advice" }, advice === 1 ? "1 piece of advice" : `${grouped(advice)} pieces of advice`));
  if (!causes.length) parts.push(R.run.incomplete ? h("span", { class: "fault" }, "Incomplete") : h("span", { class: "ok" }, "No findings"));
  else {
    const edits = causes.length === 1 ? "one edit ends" : `${inWords(causes.length)} edits end`;
    parts.push(`: ${edits} ${open.length === 1 ? "the finding" : open.length === 2 ? "both findings" : `all ${inWords(open.length)} findings`}`);
  }
  $("#verdict").replaceChildren(...parts);
  const count = (number, noun) => [h("b", {}, grouped(number)), ` ${noun}${number === 1 ? "" : "s"}`];
  const fresh = open.filter((finding) => !finding.known).length, allowed = F.length - open.length;
  const places = uniq(open.map((finding) => siteText(finding.site))).length, units = uniq(open.flatMap((finding) => finding.units)).length, tests = uniq(open.flatMap((finding) => finding.tests)).length;
  const totals = [[h("b", {}, `${grouped(fresh)} new`), `, ${grouped(open.length - fresh)} known`, allowed ? `, ${grouped(allowed)} allowed` : ""], count(places, "place")];
  if (units) totals.push(count(units, "unit"));
  if (tests) totals.push(count(tests, "test"));
  totals.push(["seen ", ...count(open.reduce((sum, finding) => sum + finding.count, 0), "time")], ...R.run.facts.map((fact) => [fact]));
  $("#totals").replaceChildren(...totals.flatMap((part, n) => (n ? [" · ", ...part] : part)));
  $("#about").replaceChildren(...R.run.about.map(([text, code]) => (code ? h("code", {}, text) : h("span", {}, text))));
}

function legend() {
  const bar = (names, y, height, rx) => s("svg", { width: 30, height: 18, "aria-hidden": "true" }, s("rect", { class: names, x: 0.5, y, width: 29, height, rx }));
  const rows = [[bar("bx", 0.5, 17, 4), "session"], [bar("x", 3, 12, 2), "transaction"], [bar("c", 7, 4, 0), "connection held"], [bar("u", 0, 18, 5), "request, task or job"],
    [glyph("load"), "load"], [glyph("write"), "flush or write"], [glyph("commit"), "commit"], [glyph("rollback"), "rollback"], [glyph("close"), "close"],
    [glyph("lost"), "ended, nothing committed"], [glyph("touch"), "used after the close"], [glyph("both"), "two at once"], [glyph("leak"), "never closed"]];
  $("#legend").replaceChildren(...rows.map((row) => h("span", {}, ...row)));
}

let whole = null;
function picture() {
  if (!P) return;
  whole ??= axis(timesOf(P.sessions, P.links, P.blocks), { tail: 0.03 });
  state.view ??= [0, whole.length];
  const lit = state.finding !== null ? new Set([state.finding]) : filtered() ? state.shown : null;
  const links = P.links.filter((link) => state.shown.has(link.f));
  draw($("#stage"), { sessions: P.sessions, links, scale: whole, view: state.view, lit });
  const zoomed = state.view[1] - state.view[0] < whole.length * 0.999;
  $("#zoomed").textContent = zoomed ? `Zoomed to ${Math.max(1, Math.round(((state.view[1] - state.view[0]) / whole.length) * 100))} % of the time. ${P.note}` : P.note;
  const first = $("#stage .sess, #stage .pin");
  if (first) first.setAttribute("tabindex", "0");
}

function zoom(factor, middle = (state.view[0] + state.view[1]) / 2) {
  const wide = clamp((state.view[1] - state.view[0]) * factor, whole.length / 2000, whole.length);
  const from = clamp(middle - wide / 2, 0, whole.length - wide);
  state.view = [from, from + wide];
  picture();
}

function showInTimeLine(index) {
  const found = sceneOf(F[index]);
  if (!found) return;
  const times = timesOf(found.sessions, found.links, []), a = whole.to(Math.min(...times)), b = whole.to(Math.max(...times)), room = Math.max((b - a) * 0.6, whole.length / 400);
  state.view = [Math.max(0, a - room), Math.min(whole.length, b + room * 1.6)];
  picture();
  $("#pic").scrollIntoView({ block: "start" });
}

function table() {
  if (!P || $("#rows").childElementCount) return;
  const most = 500;
  $("#rows").replaceChildren(...P.sessions.slice(0, most).map((one) => h("tr", {}, h("th", { scope: "row" }, one.id), h("td", {}, P.lanes[one.lane].name), h("td", {}, time(one.t[0])), h("td", {}, one.t[1] === null ? "never closed" : time(one.t[1])), h("td", {}, ENDS[one.end] || one.end), h("td", {}, siteIn(one.at)), h("td", {}, one.f.slice(0, 6).map((i) => F[i].id).join(", ") || "none"))));
  $("#cut").textContent = P.sessions.length > most ? `The first ${grouped(most)} of ${grouped(P.sessions.length)} sessions.` : "";
}

function reveal(finding) {
  const causes = shownCauses();
  state.cursor = Math.max(0, causes.findIndex((cause) => cause.index === finding.c));
}

function open(index, link = true) {
  const finding = index === null ? null : F[index], before = state.cause;
  state.finding = index;
  state.cause = finding ? finding.c : null;
  if (finding) reveal(finding);
  if (link) {
    try { history.replaceState(null, "", finding ? `#${finding.anchor}` : "#"); } catch { /* not everywhere for files */ }
  }
  paint(link ? (finding ? finding.c : before) : null);
}

function step(by) {
  const causes = shownCauses();
  if (!causes.length) return;
  state.cursor = clamp(state.cursor + by, 0, causes.length - 1);
  if (state.cursor < state.from || state.cursor >= state.from + state.most) paint();
  const rows = $$(".cause"), now = state.cursor - state.from;
  rows.forEach((row, n) => row.classList.toggle("cur", n === now));
  const button = $(".row", rows[now]);
  button.focus({ preventScroll: true });
  button.scrollIntoView({ block: "nearest" });
}

function neighbour(by) {
  const order = shownCauses().flatMap((cause) => cause.findings.filter((index) => state.shown.has(index))), next = order[order.indexOf(state.finding) + by];
  if (next === undefined) return;
  open(next);
  $(`#f-${F[next].id}`)?.scrollIntoView({ block: "nearest" });
}

async function copy(button) {
  const text = button.hasAttribute("data-link") ? location.href.split("#")[0] + button.dataset.copy : button.dataset.copy, label = button.textContent;
  try { await navigator.clipboard.writeText(text); } catch {
    const area = h("textarea", { class: "vh", "aria-hidden": "true" });
    area.value = text;
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
    button.focus({ preventScroll: true });
  }
  button.textContent = $("#say").textContent = "Copied";
  setTimeout(() => { button.textContent = label; $("#say").textContent = ""; }, 1400);
}

const ACTIONS = {
  theme: () => { const root = document.documentElement; root.dataset.theme = root.dataset.theme === "dark" ? "light" : "dark"; },
  earlier: () => { const more = Math.min(PAGE, state.from); state.from -= more; state.most += more; paint(); $(".row", $$(".cause")[more])?.focus(); },
  more: () => { state.most += PAGE; const next = $$(".cause").length; paint(); $(".row", $$(".cause")[next])?.focus(); },
  clear: () => { ["q", ...NAMES].forEach((name) => { $(`#${name}`).value = ""; }); filter(); paint(); $("#q").focus(); },
  lanes: () => { state.everyLane = true; picture(); },
};

function clicked(event) {
  const button = event.target.closest?.("button");
  if (!button) return;
  if (ACTIONS[button.id]) ACTIONS[button.id]();
  if (button.classList.contains("row")) {
    const cause = C[+button.parentElement.dataset.c];
    open(state.cause === cause.index ? null : cause.findings.find((index) => state.shown.has(index)));
  }
  if (button.dataset.tab !== undefined) { open(+button.dataset.tab); $(`[data-tab="${state.finding}"]`)?.focus({ preventScroll: true }); }
  if (button.dataset.show !== undefined) showInTimeLine(+button.dataset.show);
  if (button.dataset.zoom === "all") { state.view = [0, whole.length]; picture(); } else if (button.dataset.zoom) zoom(button.dataset.zoom === "in" ? 0.6 : 1 / 0.6);
  if (button.dataset.copy !== undefined) copy(button);
}

const KEYS = {
  j: () => step(1), k: () => step(-1),
  n: () => state.finding !== null && neighbour(1), p: () => state.finding !== null && neighbour(-1),
  z: () => P && state.finding !== null && showInTimeLine(state.finding),
  "/": () => $("#q").focus(),
  "+": () => P && zoom(0.6), "=": () => P && zoom(0.6), "-": () => P && zoom(1 / 0.6),
  0: () => { if (P) { state.view = [0, whole.length]; picture(); } },
};

function pressed(event) {
  if (event.metaKey || event.ctrlKey || event.altKey) return;
  const typing = /INPUT|SELECT|TEXTAREA/.test(event.target.tagName);
  if (event.key === "Escape") {
    if (typing) event.target.blur();
    else if (state.finding !== null) open(null);
    return;
  }
  if (typing) return;
  if (event.key === "Enter" && document.activeElement === document.body) { $(".row", $$(".cause")[state.cursor - state.from])?.click(); return; }
  if (Object.hasOwn(KEYS, event.key)) { event.preventDefault(); KEYS[event.key](); }
}

function stageEvents() {
  const stage = $("#stage"), tip = $("#tip");
  const show = (element) => {
    const frame = $("#frame").getBoundingClientRect(), box = element.getBoundingClientRect();
    const told = element.dataset.s !== undefined ? described(P.sessions[+element.dataset.s]) : { title: `${F[+element.dataset.f].id} ${F[+element.dataset.f].rule}`, body: [F[+element.dataset.f].message, "Enter or a click opens it"] };
    tip.replaceChildren(h("b", {}, told.title), ...told.body.map((line) => h("span", {}, line)));
    tip.hidden = false;
    tip.style.left = `${clamp(Math.max(box.left, frame.left + 120) - frame.left, 8, Math.max(8, frame.width - tip.offsetWidth - 8))}px`;
    const below = box.bottom - frame.top + 6;
    tip.style.top = `${below + tip.offsetHeight > frame.height ? Math.max(0, box.top - frame.top - tip.offsetHeight - 6) : below}px`;
  };
  const hide = () => { tip.hidden = true; };
  ["mouseover", "focusin"].forEach((name) => stage.addEventListener(name, (event) => { const target = event.target.closest("[data-s],[data-f]"); if (target) show(target); else hide(); }));
  ["mouseleave", "focusout"].forEach((name) => stage.addEventListener(name, hide));
  const choose = (target) => {
    if (target?.dataset.f === undefined) return;
    const index = +target.dataset.f;
    if (!state.shown.has(index)) ACTIONS.clear();
    open(index);
    $(`#f-${F[index].id}`)?.scrollIntoView({ block: "center" });
  };
  let drag = null, moved = false;
  stage.addEventListener("click", (event) => { if (!moved) choose(event.target.closest("[data-f]")); });
  stage.addEventListener("keydown", (event) => {
    const all = $$(".sess,.pin", stage), now = all.indexOf(document.activeElement), by = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (now < 0) return;
    if (by && all[now + by]) {
      all[now].setAttribute("tabindex", "-1");
      all[now + by].setAttribute("tabindex", "0");
      all[now + by].focus();
      event.preventDefault();
    }
    if (event.key === "Enter" || event.key === " ") { event.preventDefault(); choose(all[now]); }
  });
  stage.addEventListener("pointerdown", (event) => { drag = whole && [event.clientX, [...state.view]]; moved = false; });
  addEventListener("pointermove", (event) => {
    if (!drag) return;
    const wide = drag[1][1] - drag[1][0], by = ((event.clientX - drag[0]) / stage.clientWidth) * wide;
    if (Math.abs(event.clientX - drag[0]) < 5 || wide >= whole.length * 0.999) return;
    moved = true;
    hide();
    const from = clamp(drag[1][0] - by, 0, whole.length - wide);
    state.view = [from, from + wide];
    picture();
  });
  addEventListener("pointerup", () => { drag = null; });
}

function followLink() {
  const name = decodeURIComponent(location.hash.slice(1)), finding = byAnchor.get(name) || F.find((one) => one.id === name || one.fp === name);
  if (!finding) { paint(); return; }
  if (!state.shown.has(finding.index)) { $("#state").value = stateOf(finding); filter(); }
  open(finding.index, false);
  $(`#f-${finding.id}`)?.scrollIntoView({ block: "center" });
}

function begin() {
  C.forEach((cause, index) => { cause.index = index; });
  if (P) { P.sessions.forEach((one, index) => { one.index = index; }); P.links.forEach((one, index) => { one.index = index; }); }
  const dark = matchMedia("(prefers-color-scheme:dark)"), theme = () => { document.documentElement.dataset.theme = dark.matches ? "dark" : "light"; };
  theme();
  dark.addEventListener("change", theme);
  options("rule", F.map((finding) => finding.rule));
  options("file", F.map(fileOf));
  options("model", F.flatMap((finding) => finding.models));
  options("unit", F.flatMap((finding) => finding.units));
  if (F.some((finding) => finding.allowed !== null)) $("#state").append(h("option", { value: "allowed" }, "allowed only"));
  verdict();
  if (P) { legend(); stageEvents(); } else {
    $("#zooms").hidden = $("#frame").hidden = $("#tab").hidden = true;
    $("#zoomed").textContent = R.run.unrecorded;
  }
  filter();
  followLink();
  let waiting = 0;
  $("#q").addEventListener("input", () => { clearTimeout(waiting); waiting = setTimeout(() => { filter(); paint(); }, F.length > 500 ? 120 : 0); });
  NAMES.forEach((name) => $(`#${name}`).addEventListener("change", () => { filter(); paint(); }));
  $("#bar").addEventListener("submit", (event) => event.preventDefault());
  $("#tab").addEventListener("toggle", table);
  document.addEventListener("click", clicked);
  document.addEventListener("keydown", pressed);
  addEventListener("hashchange", followLink);
  let width = innerWidth;
  addEventListener("resize", () => { if (innerWidth !== width) { width = innerWidth; paint(); } });
}
begin();
