/* Where everything stands: lanes, and in them rows. */
const ROW = 37, BAR = 18, SCENE_ROW = 46, SCENE_BAR = 22, PIN_ROOM = 21, MOST_ROWS = 8, MOST_LANES = 12, MOST_SEVERE = 24, MOST_BARS = 400, MOST_SPECKS = 1000;

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
  const used = [], space = (end - P.span[0]) * 0.0008, hidden = new Set();
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

/* The lanes that have anything; beyond twelve, those without a finding wait behind a button, and beyond twenty-four any. */
function laidOut(sessions, links, scene) {
  const end = P.span[1], lanes = [];
  P.lanes.forEach((lane, index) => {
    const mine = sessions.filter((one) => one.lane === index), touching = links.filter((link) => link.lane === index);
    if (!mine.length && !touching.length) return;
    lanes.push({ index, lane, sessions: mine, severe: touching.length > 0 || mine.some((one) => one.f.length), ...rowsOf(index, mine, links, end) });
  });
  if (scene || state.everyLane || lanes.length <= MOST_LANES) return { lanes, folded: 0 };
  const severe = lanes.filter((one) => one.severe).slice(0, MOST_SEVERE), room = Math.max(0, MOST_LANES - severe.length);
  const wanted = new Set([...severe, ...lanes.filter((one) => !one.severe).slice(0, room)]);
  return { lanes: lanes.filter((one) => wanted.has(one)), folded: lanes.length - wanted.size };
}

/* What a session did, in words: for the tooltip, the table and readers without the picture. */
function described(session) {
  const counts = {};
  for (const [kind, , , n] of session.marks) counts[SAYS[kind] || kind] = (counts[SAYS[kind] || kind] || 0) + n;
  const held = session.held.reduce((sum, [a, b]) => sum + ((b ?? P.span[1]) - a), 0);
  const did = Object.entries(counts).map(([kind, n]) => (n > 1 ? `${kind} ${n} times` : kind)).join(", ") + (session.more ? `, and ${grouped(session.more)} more` : "");
  const life = session.t[1] === null ? `opened at ${time(session.t[0])}, never closed` : `open ${time(session.t[0])} to ${time(session.t[1])}, ${time(session.t[1] - session.t[0])}`;
  const found = session.f.length ? `findings: ${session.f.slice(0, 6).map((i) => F[i].id).join(", ")}` : "no finding";
  return {
    title: `Session ${session.id}: ${ENDS[session.end] || session.end}`,
    body: [`${P.lanes[session.lane].name}, ${life}`, `opened at ${siteIn(session.at)}`, session.held.length ? `connection held ${time(held)}` : "held no connection", did, found].filter(Boolean),
  };
}
const ENDS = { committed: "committed", rolled_back: "rolled back", read_only: "read only", lost: "nothing was committed", leaked: "leaked", open: "never closed" };
