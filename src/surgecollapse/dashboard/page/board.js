// The charts of one or several runs: which line stands where, search, pins, one zoom for all.
import { $, make } from "/elements.js";
import { keep, parse } from "/address.js";
import { layerColor, runColor } from "/colors.js";
import { Chart } from "/charts.js";
import { clock, path, stepOf } from "/series.js";
import { problem, read } from "/server.js";

const ORDER = ["loss", "accuracy", "sparsity", "entropy", "confidence", "energy", "mask", "units", "dimension", "rank", "curvature", "grokfast", "noise", "norm"];
// Looked up by names of series, which may be "toString": hence maps.
const UNDER = new Map(Object.entries({ "sparsity": "mask", "gradient_norm": "norm", "learning_rate": "time", "orthograd/removed": "grokfast", "clip/factor": "grokfast" }));
const HEADINGS = new Map(Object.entries({ grokfast: "Grokfast and ⊥Grad", mask: "sparsity", time: "time and learning rate", system: "machine", units: "dead units" }));
const STEPS = /^(sparsity$|mask\/|noise\/scale$|budget\/cadence$)/;
// Measured at every evaluation or reading; monitors come when their budget allows.
const REGULAR = /^(loss|accuracy|gap|system|bits_per_character)\/|^(learning_rate|energy\/weights|gradient_norm|time\/step)$/;
const FEW = 25;
const DASHES = [undefined, [6, 3], [2, 3], [9, 3, 2, 3]];

export const groupOf = (name) => UNDER.get(name) ?? name.split("/")[0];
const headingOf = (group) => HEADINGS.get(group) ?? group.replace(/_/g, " ");

export class Board {
  constructor(state) {
    this.state = state;  // runs: Map of what is shown; names: id → name; events: of the one run
    this.charts = new Map();
    this.pins = new Set(JSON.parse(localStorage.getItem("pins") ?? "[]"));
    this.zoom = null;
    this.dirty = false;
    for (const id of ["axis", "logx", "logy", "smooth", "pool"]) $(id).addEventListener("input", () => { if (id === "axis") this.zoom = null; this.remember(); this.later(); });
    $("find").addEventListener("input", () => { this.remember(); this.paint(); });
    $("unzoom").onclick = () => this.zoomTo();
  }

  // What the address says about the view, or what is usual.
  restore() {
    const { given } = parse();
    $("axis").value = given.get("axis") ?? "step";
    if (!$("axis").value) $("axis").value = "step";
    $("logx").checked = given.has("logx"); $("logy").checked = given.has("logy"); $("pool").checked = given.has("pool");
    $("smooth").value = given.get("smooth") ?? 0; $("find").value = given.get("find") ?? "";
    const part = (given.get("x") ?? "").split(",").map(Number);
    this.zoom = part.length === 2 && part.every(Number.isFinite) && part[0] < part[1] ? part : null;
    this.charts.clear();
    $("charts").replaceChildren();
  }

  remember() {
    keep({ axis: $("axis").value === "step" ? "" : $("axis").value, logx: $("logx").checked ? 1 : "", logy: $("logy").checked ? 1 : "", pool: $("pool").checked ? 1 : "",
      smooth: +$("smooth").value || "", find: $("find").value, x: this.zoom ? this.zoom.map((v) => +v.toPrecision(7)).join(",") : "" });
  }

  zoomTo(low, high) {
    this.zoom = low === undefined ? null : [low, high];
    if (!this.zoom) for (const chart of this.charts.values()) chart.fine.clear();
    this.remember();
    this.later();
  }

  pin(title) {
    if (!this.pins.delete(title)) this.pins.add(title);
    localStorage.setItem("pins", JSON.stringify([...this.pins]));
    this.paint();
  }

  events() { return this.state.events.filter((e) => e.class !== "Decision" && e.class !== "Reading"); }

  later() { if (!this.dirty) { this.dirty = true; requestAnimationFrame(() => { this.dirty = false; this.paint(); }); } }

  view() {
    const axis = $("axis").value, clocks = new Map(), runs = this.state.runs;
    for (const run of runs.values()) {
      if (axis === "flops") { clocks.set(run.id, this.operations(run)); continue; }
      const name = { time: "time/step", work: "sparsity" }[axis];
      clocks.set(run.id, clock(axis, [...run.lines.values()].find((l) => l.name === name && !l.layer)));
    }
    return { axis: { time: "seconds", flops: "FLOPs" }[axis] ?? axis, logx: $("logx").checked, logy: $("logy").checked, smooth: +$("smooth").value, pool: $("pool").checked,
      zoom: this.zoom, theme: document.documentElement.dataset.theme, at: (line) => clocks.get(line.run), step: clocks.get(this.state.shown[0]) ?? ((s) => s) };
  }

  // Steps → operations, asked for when an axis of them is first drawn, and anew after every change of the mask.
  operations(run) {
    if (run.flops === undefined) {
      run.flops = null;
      read(`runs/${run.id}/operations`).then((found) => { run.flops = found; this.later(); }, (error) => problem(error.message));
    }
    return run.flops?.x.length > 1 ? path(run.flops.x, run.flops.y) : null;
  }

  // Every line of every run, under the title of its chart.
  collect(look, without) {
    const charts = new Map(), several = this.state.shown.length > 1;
    for (const run of this.state.runs.values()) {
      if (without.includes(run)) continue;
      const readings = run.readings ?? [], exact = new Set(readings.filter((l) => l.kind === "steps").map((l) => l.name)), read = new Set(readings.map((l) => l.name));
      for (const line of [...readings, ...[...run.lines.values()].filter((l) => !exact.has(l.name))]) {
        if (!line.x.length) continue;
        const limit = line.name === "curvature/threshold", group = groupOf(line.name);
        const title = limit ? "curvature/sharpness" : ["loss", "accuracy"].includes(group) && !several ? group : line.name;
        const own = line.layer || (limit || title === line.name ? (several ? "" : "all") : line.name.split("/").slice(1).join("/"));
        const monitor = !line.kind && read.has(line.name) ? " (monitor)" : "";
        const part = limit ? [own === "all" ? "" : own, "threshold"].filter(Boolean).join(" ") : own + monitor;
        if (!charts.has(title)) charts.set(title, []);
        charts.get(title).push({ part, layer: own, limit, quiet: Boolean(monitor), id: line.id, run: run.id, ...this.points(line, run, monitor) });
      }
    }
    for (const [title, lines] of charts) charts.set(title, this.dress(lines, several, look));
    return charts;
  }

  // Few points are drawn as points: lines between them would claim more than was measured.
  points(line, run, monitor) {
    let { x, y } = line, kind = STEPS.test(line.name) ? "steps" : "line";
    if (line.kind === "steps" && x.length && run.state?.step > x[x.length - 1]) { x = [...x, run.state.step]; y = [...y, y[y.length - 1]]; }
    if (!line.kind && (monitor || (x.length < FEW && !REGULAR.test(line.name)))) kind = "points";
    return { x, y, kind };
  }

  dress(lines, several, look) {
    const layers = [...new Set(lines.map((line) => line.layer))];
    for (const line of lines) {
      const i = layers.indexOf(line.layer);
      line.color = several || layers.length === 1 ? runColor(line.run) : layerColor(i);
      line.dash = several && layers.length > 1 ? DASHES[i % DASHES.length] : undefined;
      line.label = several ? [this.state.names.get(line.run) ?? line.run, line.part].filter(Boolean).join(" ") : line.part;
    }
    return several && look.pool ? this.pool(lines) : lines;
  }

  // Runs of one configuration as their mean.
  pool(lines) {
    const groups = new Map();
    for (const line of lines) {
      const key = (this.state.groups.get(line.run) ?? line.run) + "/" + line.part;
      if (!groups.has(key)) groups.set(key, []);
      groups.get(key).push(line);
    }
    return [...groups.values()].map((members) => members.length < 2 ? members[0] : { ...members[0], kind: "line", members, label: [(this.state.names.get(members[0].run) ?? members[0].run).replace(/[-_]?s(eed)?[-_]?\d+$/, ""), members[0].part].filter(Boolean).join(" ") });
  }

  order(charts) {
    const wanted = $("find").value.toLowerCase().split(/\s+/).filter(Boolean);
    const rank = (t) => { const i = ORDER.indexOf(groupOf(t)); return this.pins.has(t) ? -1 : i < 0 ? 99 : i; };
    return [...charts.keys()].filter((t) => wanted.every((word) => t.toLowerCase().includes(word) || headingOf(groupOf(t)).includes(word)))
      .sort((a, b) => rank(a) - rank(b) || (this.pins.has(a) ? 0 : groupOf(a).localeCompare(groupOf(b))) || a.localeCompare(b));
  }

  paint() {
    if (!this.state.shown.length) return;
    const look = (this.look = this.view());
    const without = [...this.state.runs.values()].filter((run) => !look.at({ run: run.id }));
    $("without").textContent = without.some((run) => run.flops) ? `no operations recorded by ${without.map((run) => this.state.names.get(run.id)).join(", ")}` : "";
    $("unzoom").hidden = !this.zoom;
    const charts = this.collect(look, without), titles = this.order(charts), key = titles.join("\n") + [...this.pins].join("\n");
    if (key !== this.key || $("charts").childElementCount === 0) this.arrange(titles, key);
    $("nothing").hidden = titles.length > 0 || !charts.size;
    const frame = (c) => { const r = c.box.getBoundingClientRect(); return r.bottom > -400 && r.top < innerHeight + 400; };
    for (const title of titles) {
      const chart = this.charts.get(title);
      if (chart.plot && !frame(chart)) continue;
      chart.draw(charts.get(title), look);
      const part = JSON.stringify([this.zoom, look.axis]);
      if (this.zoom && chart.refined !== part && frame(chart)) { chart.refined = part; this.refine(chart, ...this.zoom); }
    }
  }

  arrange(titles, key) {
    this.key = key;
    const rows = [];
    let group = "";
    for (const title of titles) {
      const pinned = this.pins.has(title), under = pinned ? "pinned" : groupOf(title);
      if (under !== group) { group = under; if (title !== group) rows.push(make("h2", { textContent: pinned ? "pinned" : headingOf(group) })); }
      if (!this.charts.has(title)) this.charts.set(title, new Chart(title, this));
      this.charts.get(title).setPinned(pinned);
      rows.push(this.charts.get(title).box);
    }
    for (const [title, chart] of this.charts) if (!titles.includes(title)) { chart.plot?.destroy(); this.charts.delete(title); }
    $("charts").replaceChildren(...rows);
  }

  // What a person zoomed into comes again, in ranges as fine as the screen.
  async refine(chart, low, high) {
    const fine = new Map();
    try {
      for (const id of this.state.shown) {
        const lines = chart.lines.flatMap((line) => line.members ?? [line]).filter((line) => line.run === id && typeof line.id === "number"), at = this.look.at({ run: id });
        if (!lines.length || !at) continue;
        const last = Math.max(...lines.map((line) => line.x[line.x.length - 1])), from = Math.floor(stepOf(at, low, last)), to = Math.ceil(stepOf(at, high, last));
        const data = await read(`runs/${id}/series?ids=${lines.map((line) => line.id)}&from=${from}&to=${to}`);
        for (const line of lines) fine.set(id + line.id, data[line.id]);
      }
      chart.fine = fine;
      this.later();
    } catch (error) { problem(error.message); }
  }
}
