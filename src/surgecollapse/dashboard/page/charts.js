// One chart: an axis, a legend, lines; events stand above the lines, not across them.
import { $, css, make, short } from "/elements.js";
import { faded } from "/colors.js";
import { download } from "/download.js";
import { pooled, smooth, within } from "/series.js";
// Distances of ticks: uPlot's own end at 1e16, so that the losses of a run that diverges had no numbers.
const STEPS = Array.from({ length: 317 }, (_, e) => [1, 2, 2.5, 5].map((m) => Number(`${m}e${e - 16}`))).flat();

const COLORS = new Map(Object.entries({ collapse: "--blue", surge: "--amber", pump: "--red", freeze: "--green" }));
const ABOVE = 16;

export class Chart {
  constructor(title, board) {
    this.title = title;
    this.board = board;
    this.fine = new Map();
    this.refined = "";
    this.lines = [];
    this.plot = null;
    this.shape = "";
    this.pin = make("button", { className: "plain", textContent: "☆", title: "Pin this chart to the top", "aria-label": `pin ${title}`, onclick: () => board.pin(title) });
    const menu = make("details", { className: "menu" }, make("summary", { textContent: "⤓", title: "Download", "aria-label": `download ${title}` }),
      make("span", {}, ...["PNG", "SVG", "CSV"].map((kind) => make("button", { textContent: kind, onclick: () => { menu.open = false; if (this.plot || kind === "CSV") download(kind, this); } }))));
    this.box = make("div", { className: "chart", data: { title } }, make("div", { className: "head" }, make("h3", { textContent: title }), this.pin, menu));
  }

  setPinned(pinned) { this.pin.textContent = pinned ? "★" : "☆"; this.pin.setAttribute("aria-pressed", pinned); }

  // Columns of the plot: for each line its raw values behind the smoothed ones, or a band about a mean.
  columns(lines, view) {
    const found = [], tables = [];
    const add = (x, y, how) => { tables.push([x, y]); found.push(how); };
    for (const line of lines) {
      if (line.members) {
        const [x, mean, low, high] = pooled(line.members.map((m) => [m.x.map(view.at(m)), m.y]));
        add(x, smooth(mean, view.smooth), { line, label: `${line.label} (mean of ${line.members.length})` });
        add(x, high, { line, hidden: true, bound: true });
        add(x, low, { line, hidden: true, bound: true, band: true });
        continue;
      }
      const x = line.x.map(view.at(line));
      if (view.smooth && line.kind === "line") {
        add(x, line.y, { line, hidden: true, raw: true });
        add(x, smooth(line.y, view.smooth), { line, label: line.label });
      } else add(x, line.y, { line, label: line.label, hidden: line.quiet });
    }
    return { found, tables };
  }

  // Where each line is one point, its value says more than a dot.
  list(lines, view) {
    this.plot?.destroy();
    this.plot = null;
    this.view = view; this.found = lines.map((line) => ({ line, label: line.label }));
    this.data = [lines.map((line) => line.x[0]), ...lines.map((line, i) => lines.map((_, j) => (i === j ? line.y[0] : null)))];
    const swatch = (line) => { const dot = make("span", { className: "swatch" }); dot.style.background = line.color; return dot; };
    this.box.querySelector("dl")?.remove();
    this.box.append(make("dl", {}, ...lines.flatMap((line) => [make("dt", {}, swatch(line), line.label), make("dd", { textContent: `${line.y[0] === null ? "not finite" : short(line.y[0])} at ${line.x[0]}` })])));
  }

  draw(lines, view) {
    this.lines = lines;
    if (lines.every((line) => !line.members && (line.x.length === 1 || line.y.every((y) => y === null)))) { this.list(lines, view); return; }
    this.box.querySelector("dl")?.remove();
    lines = lines.map((line) => (line.members ? line : within(line, this.fine.get(line.run + line.id))));
    const { found, tables } = this.columns(lines, view);
    const shape = JSON.stringify([found.map((f) => [f.label, f.raw, f.bound, f.line.kind, f.line.color]), view.logx, view.logy, view.theme, view.axis, this.box.clientWidth]);
    const data = tables.length === 1 ? tables[0].slice() : uPlot.join(tables);
    if (tables.length > 1) for (let i = 1; i < data.length; i++) bridge(data[i]);
    if (view.logy) for (let i = 1; i < data.length; i++) data[i] = data[i].map((y) => (y > 0 ? y : null));
    if (view.logx && data[0][0] <= 0) data[0] = data[0].map((x) => Math.max(x, 1e-3));
    this.data = data;
    this.found = found;
    if (!this.plot || shape !== this.shape) this.make(found, data, view, shape);
    else this.plot.setData(data, false);
    const xs = data[0], all = xs.length > 1 ? { min: xs[0], max: xs[xs.length - 1] } : xs.length ? { min: xs[0] - 1, max: xs[0] + 1 } : null;
    if (all) this.plot.setScale("x", view.zoom ? { min: view.zoom[0], max: view.zoom[1] } : all);
    const last = found.filter((f) => !f.hidden).map((f) => `${f.label} ${short(lastOf(f.line.members ? f.line.members[0].y : f.line.y))}`).slice(0, 6).join(", ");
    this.plot.root.querySelector("canvas").setAttribute("aria-label", `${this.title} over ${view.axis}: ${last}`);
  }

  make(found, data, view, shape) {
    this.plot?.destroy();
    this.shape = shape;
    this.view = view;
    const axes = { stroke: css("--soft"), grid: { stroke: css("--line"), width: 1, filter: decades }, ticks: { stroke: css("--line"), filter: decades } };
    const shown = (_, v) => (v === null || v === undefined ? "" : short(v));
    const bands = found.flatMap((f, i) => (f.band ? [{ series: [i, i + 1], fill: faded(f.line.color, 0.18) }] : []));
    this.plot = new uPlot({
      width: Math.max(this.box.clientWidth - 14, 200), height: 200, padding: [ABOVE, 18, 0, 0], bands,
      scales: { x: { time: false, auto: false, distr: view.logx ? 3 : 1 }, y: { distr: view.logy ? 3 : 1, ...(view.logy ? {} : { range }) } },
      axes: [{ ...axes, size: 32, values: (_, ticks) => ticks.map(tick) }, { ...axes, size: 58, incrs: STEPS, values: (_, ticks) => ticks.map((v) => (v === null ? "" : short(v).replace("e+", "e"))) }],
      cursor: { drag: { x: true, y: false, setScale: false } },
      series: [{ label: view.axis, value: shown }, ...found.map((f) => this.series(f, shown))],
      hooks: {
        draw: [(u) => this.mark(u)], setCursor: [(u) => this.hover(u)],
        setSelect: [(u) => { if (u.select.width > 2) this.board.zoomTo(u.posToVal(u.select.left, "x"), u.posToVal(u.select.left + u.select.width, "x")); u.setSelect({ left: 0, width: 0, top: 0, height: 0 }, false); }],
      },
    }, data, this.box);
    const legend = this.plot.root.querySelector(".u-legend"), rows = legend.querySelectorAll(".u-series");
    found.forEach((f, i) => { if (f.hidden) rows[i + 1].hidden = true; });
    if (legend.scrollHeight > legend.clientHeight) legend.tabIndex = 0;
    this.plot.root.querySelector("canvas").setAttribute("role", "img");
    this.plot.over.addEventListener("dblclick", () => this.board.zoomTo());
    this.plot.over.addEventListener("mouseleave", () => { $("tip").hidden = true; });
  }

  series(f, shown) {
    const { line } = f, few = line.kind === "points";
    return {
      label: f.label ?? "", value: shown, spanGaps: true, width: f.bound ? 0 : 1.5, dash: line.limit ? [4, 3] : line.dash,
      stroke: f.raw ? faded(line.color, 0.28) : line.color,
      points: { show: few || (line.y ?? [0, 1]).filter((y) => y !== null).length < 2, size: 5, fill: line.color, stroke: line.color },
      ...(few ? { paths: () => null } : line.kind === "steps" ? { paths: uPlot.paths.stepped({ align: 1 }) } : {}),
    };
  }

  // Ticks over the plot, faint lines through it only where there are few.
  mark(u) {
    const { ctx: g } = u, ratio = devicePixelRatio || 1, events = this.board.events();
    g.save();
    for (const event of events) {
      const x = u.valToPos(this.board.look.step(event.step), "x", true);
      if (!(x >= u.bbox.left && x <= u.bbox.left + u.bbox.width)) continue;
      g.fillStyle = css(color(event));
      g.fillRect(x - ratio, u.bbox.top - 11 * ratio, 2 * ratio, 9 * ratio);
      if (events.length <= 12) { g.globalAlpha = 0.25; g.fillRect(x - ratio / 2, u.bbox.top, ratio, u.bbox.height); g.globalAlpha = 1; }
    }
    g.restore();
  }

  hover(u) {
    const tip = $("tip"), at = this.board.look;
    const near = u.cursor.left < 0 ? [] : this.board.events().filter((event) => Math.abs(u.valToPos(at.step(event.step), "x") - u.cursor.left) < 4).slice(-4);
    tip.hidden = !near.length;
    if (!near.length) return;
    tip.textContent = near.map(words).join("\n");
    const place = u.over.getBoundingClientRect();
    tip.style.left = Math.max(4, Math.min(place.left + u.cursor.left + 12, innerWidth - 340)) + "px";
    tip.style.top = Math.min(place.top + u.cursor.top + 14, innerHeight - 90) + "px";
  }
}

// Logarithmic lines over many decades: only the powers of ten, or they run together.
const decades = (u, at, axis) => (u.scales[u.axes[axis].scale].distr === 3 && at[at.length - 1] > 500 * at[0] ? at.map((v) => (Math.log10(v).toFixed(6) % 1 ? null : v)) : at);
// Where all is zero, the usual range ends at 100.
const range = (_, low, high) => (low === null || low === undefined ? [0, 1] : low === 0 && high === 0 ? [0, 1] : uPlot.rangeNum(low, high, 0.1, true));
function bridge(ys) { for (let i = 0; i < ys.length; i++) if (ys[i] === undefined) ys[i] = null; }
function lastOf(ys) { for (let i = ys.length - 1; i >= 0; i--) if (ys[i] !== null) return ys[i]; return null; }
function tick(v) { return v === null ? "" : Math.abs(v) < 1e7 ? v.toLocaleString("en") : (+v.toPrecision(6)).toExponential().replace("e+", "e"); }
export function color(event) { return event.class === "Alarm" ? "--red" : event.class === "Request" ? "--violet" : COLORS.get(event.kind) ?? "--soft"; }
export function words(event) {
  const numbers = Object.entries(event.details ?? {}).filter(([, v]) => typeof v === "number").map(([k, v]) => `${k} ${short(v)}`);
  if (event.pruned) numbers.unshift(`closed ${event.pruned}`);
  if (event.grown) numbers.unshift(`opened ${event.grown}`);
  return `${event.step} · ${event.kind ?? event.phase ?? event.detector ?? event.class}${event.status ? " " + event.status : ""}${event.forecast ? " " + event.forecast : ""}: ${event.reason ?? ""}${numbers.length ? " (" + numbers.join(", ") + ")" : ""}`;
}
