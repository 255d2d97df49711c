/* The axis of time. A pause in which nothing happens is folded to a break that names its length. */
const BREAK = 0.016; /* how wide one is, of all that is not folded */
const PAUSE = 50; /* ms; in a short run, a tenth of it */
/* ``least``: the part of the whole that a pause must take to be folded; ``tail``: room behind the last moment. */
function axis(times, { least = 0, tail = 0 } = {}) {
  const points = uniq(times).sort((a, b) => a - b), first = points[0], all = points.at(-1) - first, long = (gap) => gap[1] - gap[0];
  const pause = Math.max(Math.min(PAUSE, all / 10), all * least);
  const pauses = points.slice(1).map((point, i) => [points[i], point]).filter((gap) => long(gap) >= pause).sort((a, b) => long(b) - long(a)).slice(0, 60);
  const left = (gaps) => gaps.reduce((sum, gap) => sum - long(gap), all);
  const folded = pauses.filter((gap) => long(gap) >= 4 * BREAK * left(pauses)); /* else a break is hardly shorter */
  let busy = left(folded);
  if (busy < all * 0.002) busy = all * 0.002 || 0.001;
  const last = points.at(-1) + busy * tail;
  folded.sort((a, b) => a[0] - b[0]);
  const pad = Math.min(busy * 0.012, pause / 3), wide = busy * BREAK;
  const segments = [];
  let from = first - pad, u = 0;
  for (const gap of folded) {
    segments.push([from, gap[0] + pad, u]);
    u += gap[0] + pad - from + wide;
    from = gap[1] - pad;
  }
  segments.push([from, last + pad, u]);
  const length = u + last + pad - from;
  /* from ms to the folded scale, on which the picture is drawn and zoomed */
  const to = (t) => {
    let low = 0, high = segments.length - 1;
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if (segments[middle][0] <= t) low = middle;
      else high = middle - 1;
    }
    const [a, b, base] = segments[low];
    if (t <= b || low === segments.length - 1) return base + t - a;
    const next = segments[low + 1];
    return base + (b - a) + ((t - b) / (next[0] - b)) * wide; /* inside of a break */
  };
  return { segments, wide, length, to, first, last };
}

const STEPS = [0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 30000, 60000, 300000, 3600000];
function ticks(scale, view, X, room) {
  const shown = view[1] - view[0], step = STEPS.find((size) => (size / shown) * room >= 76) || STEPS.at(-1);
  const found = [];
  for (const [a, b, base] of scale.segments) {
    const start = Math.max(a, a + view[0] - base), end = Math.min(b, a + view[1] - base);
    for (let n = Math.ceil(start / step); n * step <= end; n += 1) found.push([X(n * step), n * step]);
  }
  return { found: found.filter(([x], i) => i === 0 || x - found[i - 1][0] > 40), step };
}
