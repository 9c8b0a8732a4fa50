// Arithmetic on lines of steps and values.
const MOST = 4000;

// Steps → time or work, from what the run recorded: seconds per step, and sparsity.
export function clock(axis, helper) {
  if (axis === "step" || !helper || !helper.x.length) return (step) => step;
  const xs = [0], ys = [0];
  for (let i = 0; i < helper.x.length; i++) {
    const rate = helper.y[i] ?? 0, span = helper.x[i] - xs[xs.length - 1];
    if (span <= 0) continue;
    xs.push(helper.x[i]);
    ys.push(ys[ys.length - 1] + span * (axis === "time" ? rate : 1 - rate));
  }
  return path(xs, ys);
}

// The broken line through points, going on as it ends.
export function path(xs, ys) {
  return (step) => {
    let low = 0, high = xs.length - 1;
    while (high - low > 1) { const mid = (low + high) >> 1; if (xs[mid] <= step) low = mid; else high = mid; }
    if (high === 0) return step;
    const slope = (ys[high] - ys[low]) / (xs[high] - xs[low]);
    return ys[low] + (step - xs[low]) * slope;
  };
}

// The step at which a clock shows x.
export function stepOf(at, x, last) {
  let low = 0, high = 2 * last + 1;
  for (let i = 0; i < 60; i++) { const mid = (low + high) / 2; if (at(mid) < x) low = mid; else high = mid; }
  return high;
}

// A line with the part that a zoom asked for in its place.
export function within(line, fine) {
  if (!fine?.x.length) return line;
  const first = fine.x[0], last = fine.x[fine.x.length - 1], before = line.x.findIndex((x) => x >= first), found = line.x.findIndex((x) => x > last);
  const start = before < 0 ? line.x.length : before, end = found < 0 ? line.x.length : found;
  return { ...line, x: [...line.x.slice(0, start), ...fine.x, ...line.x.slice(end)], y: [...line.y.slice(0, start), ...fine.y, ...line.y.slice(end)] };
}

export function smooth(ys, weight) {
  if (!weight) return ys;
  let mean = null;
  return ys.map((y) => (y === null ? null : (mean = mean === null ? y : weight * mean + (1 - weight) * y)));
}

// Mean, least and greatest of several lines, where all of them have a value; between points they are straight.
export function pooled(tables) {
  const full = tables.filter(([x]) => x.length);
  if (!full.length) return [[], [], [], []];
  const from = Math.max(...full.map(([x]) => x[0])), to = Math.min(...full.map(([x]) => x[x.length - 1]));
  const grid = [...new Set(full.flatMap(([x]) => x))].filter((x) => x >= from && x <= to).sort((a, b) => a - b);
  const columns = full.map(([x, y]) => {
    let i = 0;
    return grid.map((g) => {
      while (i < x.length - 1 && x[i + 1] <= g) i++;
      if (x[i] === g || i === x.length - 1) return y[i];
      return y[i] === null || y[i + 1] === null ? null : y[i] + ((y[i + 1] - y[i]) * (g - x[i])) / (x[i + 1] - x[i]);
    });
  });
  const over = (take) => grid.map((_, i) => { const values = columns.map((c) => c[i]); return values.includes(null) ? null : take(values); });
  return [grid, over((v) => v.reduce((a, b) => a + b, 0) / v.length), over((v) => Math.min(...v)), over((v) => Math.max(...v))];
}

// Keep the newest points whole and the older ones thinned, so that a page may stay open for days.
export function append(line, fresh) {
  const from = line.x.length ? line.x[line.x.length - 1] : -1;
  for (let i = 0; i < fresh.x.length; i++) if (fresh.x[i] > from) { line.x.push(fresh.x[i]); line.y.push(fresh.y[i]); }
  if (line.x.length <= MOST) return;
  const x = [], y = [], half = line.x.length >> 1;
  for (let i = 0; i < half; i += 4) {
    let least = i, most = i;
    for (let j = i; j < Math.min(i + 4, half); j++) { if (line.y[j] < line.y[least]) least = j; if (line.y[j] > line.y[most]) most = j; }
    for (const j of least === most ? [least] : [Math.min(least, most), Math.max(least, most)]) { x.push(line.x[j]); y.push(line.y[j]); }
  }
  line.x = x.concat(line.x.slice(half));
  line.y = y.concat(line.y.slice(half));
}
