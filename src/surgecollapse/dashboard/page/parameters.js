// Settings against results over all runs: parallel coordinates and a scatter plot.
import { $, make, percent, short, svg } from "/elements.js";
import { keep, link, parse } from "/address.js";
import { runColor } from "/colors.js";
import { read } from "/server.js";

const RESULTS = { accuracy: "accuracy", loss: "loss", sparsity: "sparsity reached", duration: "duration (s)", step: "steps" };
const MOST = 7;

export class Parameters {
  constructor(table, open) {
    this.table = table;
    this.open = open;
    for (const id of ["px", "py", "pcolor"]) $(id).addEventListener("change", () => { keep({ [id]: $(id).value }); this.draw(); });
  }

  async show() {
    this.settings = await read("settings");
    const { given } = parse(), names = [...this.settings.varying, ...Object.keys(RESULTS)];
    for (const [id, usual] of [["px", this.settings.varying.find((name) => name === "method.sparsity") ?? this.settings.varying[0] ?? "step"], ["py", "accuracy"], ["pcolor", "accuracy"]]) {
      $(id).replaceChildren(...names.map((name) => make("option", { value: name, textContent: RESULTS[name] ?? name })));
      $(id).value = given.get(id) ?? usual;
      if (!$(id).value) $(id).value = usual;
    }
    this.draw();
  }

  value(row, name) {
    if (name in RESULTS) return row[name] ?? null;
    return this.settings.runs[row.id]?.[this.settings.varying.indexOf(name)] ?? null;
  }

  // Numbers in their order on a line, or on a logarithmic one where they span decades; words one after another.
  scale(rows, name) {
    const values = rows.map((row) => this.value(row, name)).filter((v) => v !== null);
    if (values.length && values.every((v) => typeof v === "number")) {
      const low = Math.min(...values), high = Math.max(...values), log = low > 0 && high / low >= 50 && !(name in RESULTS && name !== "loss"), f = log ? Math.log : (v) => v;
      const at = (v) => (typeof v !== "number" ? null : high === low ? 0.5 : (f(v) - f(low)) / (f(high) - f(low)));
      const distinct = [...new Set(values)].sort((a, b) => a - b);
      const shown = ["accuracy", "sparsity"].includes(name) ? (v) => percent(v) : short;
      return { at, ticks: distinct.length < 7 ? distinct.map((v) => [at(v), shown(v)]) : [0, 0.5, 1].map((t) => [t, shown(log ? Math.exp(f(low) + t * (f(high) - f(low))) : low + t * (high - low))]) };
    }
    const words = [...new Set(values.map(String))].sort((a, b) => a.localeCompare(b, "en", { numeric: true }));
    const place = (i) => (words.length < 2 ? 0.5 : i / (words.length - 1));
    return { at: (v) => (v === null ? null : place(words.indexOf(String(v)))), ticks: words.slice(0, 12).map((word, i) => [place(i), word]) };
  }

  draw() {
    if (!this.settings) return;
    const rows = this.table.shown().filter((row) => this.settings.runs[row.id]);
    $("parallel").replaceChildren(rows.length ? this.parallel(rows) : make("p", { className: "soft", textContent: "No run with a configuration is shown." }));
    $("scatter").replaceChildren(rows.length ? this.scatter(rows) : "");
    $("same").textContent = this.settings.varying.length ? `${rows.length} runs, ${this.settings.varying.length} settings in which they differ` + (this.settings.varying.length > MOST ? ` (the first ${MOST} are drawn)` : "") : "All runs have the same configuration, seeds aside.";
  }

  shade(rows) {
    const scale = this.scale(rows, $("pcolor").value);
    return (row) => { const t = scale.at(this.value(row, $("pcolor").value)); return t === null ? "var(--line)" : `color-mix(in oklab, var(--high) ${(100 * t).toFixed(0)}%, var(--low))`; };
  }

  parallel(rows) {
    const names = [...this.settings.varying.slice(0, MOST), $("pcolor").value].filter((name, i, all) => all.indexOf(name) === i), width = Math.max(640, 150 * names.length), height = 320, top = 40, bottom = 20;
    const scales = names.map((name) => this.scale(rows, name)), x = (i) => 110 + (i * (width - 200)) / Math.max(names.length - 1, 1), y = (t) => top + (1 - t) * (height - top - bottom), shade = this.shade(rows);
    const picture = svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `parallel coordinates of ${rows.length} runs over ${names.join(", ")}` });
    for (const row of rows) {
      const points = names.map((name, i) => [x(i), scales[i].at(this.value(row, name))]).filter(([, t]) => t !== null).map(([px, t]) => `${px.toFixed(1)},${y(t).toFixed(1)}`);
      const line = svg("polyline", { points: points.join(" "), class: "run" }, svg("title", {}, row.title || row.name));
      line.style.stroke = shade(row);
      line.addEventListener("click", () => this.open([row.id]));
      picture.append(line);
    }
    names.forEach((name, i) => {
      picture.append(svg("line", { x1: x(i), x2: x(i), y1: top, y2: height - bottom, class: "axis" }), svg("text", { x: x(i), y: 16, "text-anchor": "middle", class: "title" }, (RESULTS[name] ?? name).split(".").pop()));
      for (const [t, word] of scales[i].ticks) picture.append(svg("text", { x: x(i) + (i ? 5 : -5), y: y(t) + 4, "text-anchor": i ? "start" : "end" }, String(word).slice(0, 16)));
    });
    return picture;
  }

  scatter(rows) {
    const [nx, ny] = [$("px").value, $("py").value], sx = this.scale(rows, nx), sy = this.scale(rows, ny), width = 640, height = 340, left = 80, bottom = 46;
    const x = (t) => left + 10 + t * (width - left - 50), y = (t) => 30 + (1 - t) * (height - 30 - bottom);
    const picture = svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "group", "aria-label": `${RESULTS[ny] ?? ny} against ${RESULTS[nx] ?? nx} of ${rows.length} runs` });
    picture.append(svg("line", { x1: left, x2: left, y1: 10, y2: height - bottom, class: "axis" }), svg("line", { x1: left, x2: width - 20, y1: height - bottom, y2: height - bottom, class: "axis" }),
      svg("text", { x: (width + left) / 2, y: height - 6, "text-anchor": "middle", class: "title" }, RESULTS[nx] ?? nx), svg("text", { x: 12, y: 12, class: "title" }, RESULTS[ny] ?? ny));
    for (const [t, word] of sx.ticks) picture.append(svg("text", { x: x(t), y: height - bottom + 16, "text-anchor": "middle" }, String(word).slice(0, 14)));
    for (const [t, word] of sy.ticks) picture.append(svg("text", { x: left - 6, y: y(t) + 4, "text-anchor": "end" }, String(word).slice(0, 12)));
    for (const row of rows) {
      const tx = sx.at(this.value(row, nx)), ty = sy.at(this.value(row, ny));
      if (tx === null || ty === null) continue;
      const dot = svg("circle", { cx: x(tx).toFixed(1), cy: y(ty).toFixed(1), r: 4.5, class: "run" }, svg("title", {}, `${row.title || row.name}: ${short(this.value(row, nx))}, ${short(this.value(row, ny))}`));
      dot.style.fill = runColor(row.id);
      const way = svg("a", { href: link([row.id]), "aria-label": row.title || row.name }, dot);
      picture.append(way);
    }
    return picture;
  }
}
