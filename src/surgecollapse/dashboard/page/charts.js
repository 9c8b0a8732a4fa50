// Charts of one or several runs on one axis; the names of runs and layers are only ever set as text.
const PALETTE = ["#3b82c4", "#d1762b", "#3a9a5d", "#c0504d", "#8a6cc0", "#8c6d52", "#d070a8", "#7f8790", "#a3a52f", "#2fa5b5"];
const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const MOST = 4000;

export const ORDER = ["loss", "accuracy", "entropy", "mask", "energy", "dimension", "rank", "curvature", "grokfast", "noise", "norm"];
// Looked up by names of series, which may be "toString": hence maps.
const UNDER = new Map(Object.entries({ sparsity: "mask", gradient_norm: "norm", learning_rate: "time", "orthograd/removed": "grokfast", "clip/factor": "grokfast" }));
const HEADINGS = new Map(Object.entries({ grokfast: "Grokfast and ⊥Grad", mask: "sparsity", time: "time and learning rate" }));
const COLORS = new Map(Object.entries({ collapse: "--blue", surge: "--amber", pump: "--red", freeze: "--green" }));

export function groupOf(name) { return UNDER.get(name) ?? name.split("/")[0]; }
export function headingOf(group) { return HEADINGS.get(group) ?? group.replace(/_/g, " "); }

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
function within(line, fine) {
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

// An axis, a legend and lines; `lines` is a list of {label, x, y} with x ascending.
export class Chart {
  constructor(parent, title, markers, refine) {
    this.box = document.createElement("div");
    this.box.className = "chart";
    const head = document.createElement("h3");
    head.textContent = title;
    this.box.append(head);
    parent.append(this.box);
    this.markers = markers;
    this.refine = refine;
    this.fine = new Map();
    this.lines = [];
    this.plot = null;
    this.shape = "";
  }

  // New data under the same axes; a part that a person zoomed into stays.
  renew(data) {
    const plot = this.plot, seen = plot.data[0], { min, max } = plot.scales.x;
    const zoomed = seen.length > 1 && (min > seen[0] || max < seen[seen.length - 1]);
    plot.batch(() => {
      plot.setData(data);
      if (zoomed) plot.setScale("x", { min, max });
    });
  }

  draw(lines, view) {
    this.lines = lines;
    lines = lines.map((line) => within(line, this.fine.get(line.run + line.id)));
    const shape = JSON.stringify([lines.map((line) => line.label), view.logx, view.logy, view.theme, view.axis, this.box.clientWidth]);
    const tables = lines.map((line) => [line.x.map(view.at(line)), smooth(line.y, view.smooth)]);
    const data = tables.length === 1 ? tables[0] : uPlot.join(tables);
    if (tables.length > 1) for (let i = 1; i < data.length; i++) bridge(data[i]);
    if (view.logy) for (let i = 1; i < data.length; i++) data[i] = data[i].map((y) => (y > 0 ? y : null));
    if (view.logx && data[0][0] <= 0) data[0] = data[0].map((x) => Math.max(x, 1e-3));
    if (this.plot && shape === this.shape) { this.renew(data); return; }
    if (this.plot) this.plot.destroy();
    this.fine.clear();
    this.shape = shape;
    const ink = css("--soft"), line = css("--line");
    const axes = { stroke: ink, grid: { stroke: line, width: 1 }, ticks: { stroke: line } };
    this.plot = new uPlot({
      width: Math.max(this.box.clientWidth - 14, 200), height: 190,
      scales: { x: { time: false, distr: view.logx ? 3 : 1 }, y: { distr: view.logy ? 3 : 1 } },
      axes: [{ ...axes, values: (_, ticks) => ticks.map(tick) }, { ...axes, size: 58, values: (_, ticks) => ticks.map((v) => (v === null ? "" : short(v))) }],
      cursor: { drag: { x: true, y: false } },
      series: [{ label: view.axis, value: (_, v) => (v === null ? "" : short(v)) },
        ...lines.map((l, i) => ({ label: l.label, stroke: l.limit ? css("--red") : PALETTE[i % PALETTE.length], width: 1.5, spanGaps: true, dash: l.limit || i >= PALETTE.length ? [4, 3] : undefined,
          points: { show: l.x.length < 2 }, value: (_, v) => (v === null ? "" : short(v)) }))],
      hooks: { draw: [(u) => this.mark(u, view)], setCursor: [(u) => this.hover(u, view)],
        setSelect: [(u) => { if (u.select.width > 0) this.refine(this, u.posToVal(u.select.left, "x"), u.posToVal(u.select.left + u.select.width, "x")); }] },
    }, data, this.box);
    this.plot.over.addEventListener("dblclick", () => this.fine.clear());
    this.plot.over.addEventListener("mouseleave", () => { document.getElementById("tip").hidden = true; });
  }

  mark(u, view) {
    const context = u.ctx;
    context.save();
    context.globalAlpha = 0.55;
    for (const event of this.markers()) {
      const x = u.valToPos(view.step(event.step), "x", true);
      if (x < u.bbox.left || x > u.bbox.left + u.bbox.width) continue;
      context.fillStyle = css(color(event));
      context.fillRect(x - 0.5, u.bbox.top, event.class === "Request" ? 2 : 1, u.bbox.height);
    }
    context.restore();
  }

  hover(u, view) {
    const tip = document.getElementById("tip");
    const near = u.cursor.left < 0 ? [] : this.markers().filter((event) => Math.abs(u.valToPos(view.step(event.step), "x") - u.cursor.left) < 4).slice(-4);
    tip.hidden = !near.length;
    if (!near.length) return;
    tip.textContent = near.map(words).join("\n");
    const place = u.over.getBoundingClientRect();
    tip.style.left = Math.max(4, Math.min(place.left + u.cursor.left + 12, innerWidth - 340)) + "px";
    tip.style.top = Math.min(place.top + u.cursor.top + 14, innerHeight - 90) + "px";
  }
}

function bridge(ys) { for (let i = 0; i < ys.length; i++) if (ys[i] === undefined) ys[i] = null; }
export function color(event) { return event.class === "Alarm" ? "--red" : COLORS.get(event.kind) ?? "--soft"; }
export function words(event) {
  const numbers = Object.entries(event.details ?? {}).filter(([, v]) => typeof v === "number").map(([k, v]) => `${k} ${short(v)}`);
  if (event.pruned) numbers.unshift(`closed ${event.pruned}`);
  if (event.grown) numbers.unshift(`opened ${event.grown}`);
  return `${event.step} · ${event.kind ?? event.phase ?? event.detector ?? event.class}${event.status ? " " + event.status : ""}${event.forecast ? " " + event.forecast : ""}: ${event.reason ?? ""}${numbers.length ? " (" + numbers.join(", ") + ")" : ""}`;
}
function tick(v) { return v === null ? "" : Math.abs(v) < 1e7 ? v.toLocaleString("en") : (+v.toPrecision(6)).toExponential().replace("e+", "e"); }
export function short(v) {
  if (v === null || v === undefined) return "–";
  const size = Math.abs(v);
  if (size >= 1e6 || (size && size < 1e-3)) return v.toExponential(1);
  return String(+v.toPrecision(4));
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
