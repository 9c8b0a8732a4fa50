// The list of runs: a table that is sorted, searched, filtered, and grouped by configuration.
import { $, css, duration, interval, make, percent, short, svg, when, whole } from "/elements.js";
import { keep, link, parse } from "/address.js";
import { runColor } from "/colors.js";
import { openNotes } from "/run_notes.js";
import { read } from "/server.js";

const score = (row) => (row.accuracy === null || row.accuracy === undefined ? "–" : percent(row.accuracy, 2));
export const COLUMNS = [
  { key: "name", label: "run", of: (r) => r.title || r.name },
  { key: "accuracy", label: "accuracy", of: (r) => r.accuracy, show: score, number: true, about: (r) => (r.part ? `on ${r.part} data` : "") },
  { key: "loss", label: "loss", of: (r) => r.loss, show: (r) => short(r.loss), number: true, about: (r) => (r.part ? `on ${r.part} data` : "") },
  { key: "sparsity", label: "sparsity / target", of: (r) => r.sparsity, show: (r) => percent(r.sparsity) + (r.target && !["none", "no_op"].includes(r.policy) ? ` / ${percent(r.target)}` : ""), number: true },
  { key: "step", label: "step", of: (r) => r.step, show: (r) => whole(r.step) + (r.total && r.total !== r.step ? ` / ${whole(r.total)}` : ""), number: true },
  { key: "policy", label: "policy", of: (r) => r.policy ?? "" },
  { key: "seed", label: "seed", of: (r) => r.seed, show: (r) => short(r.seed), number: true },
  { key: "status", label: "status", of: (r) => r.status, show: (r) => r.status + (r.state ? " · " + r.state : "") + (r.modified_by_user ? " · modified" : ""), about: (r) => r.why ?? "" },
  { key: "started", label: "started", of: (r) => r.started, show: (r) => when(r.started) },
  { key: "duration", label: "duration", of: (r) => r.duration, show: (r) => duration(r.duration), number: true },
];
const BY = new Map(Object.entries({ "fork": "branch", "roll-back": "left by a roll-back", "twin": "twin" }));
const changed = (branch) => Object.entries(branch.changes ?? {}).map(([key, value]) => `${key} = ${value}`).join(", ");
const TEST = /^([a-z]+)(>=|<=|:|=|>|<)(.+)$/;

// "rigl digits tag:best accuracy>0.9": words are looked for in names, policies, tags and notes.
export function matches(row, text) {
  const all = [row.name, row.title, row.policy, row.task, row.status, row.text, ...(row.tags ?? [])].filter(Boolean).join(" ").toLowerCase();
  return text.toLowerCase().split(/\s+/).filter(Boolean).every((word) => {
    const found = word.match(TEST), column = found && COLUMNS.find((c) => c.key === found[1]);
    if (found && found[1] === "tag") return (row.tags ?? []).some((tag) => tag.toLowerCase().includes(found[3]));
    if (!column) return all.includes(word);
    const value = column.of(row), wanted = Number(found[3].replace(/%$/, "")) / (found[3].endsWith("%") ? 100 : 1);
    if (found[2] === ":" || (found[2] === "=" && typeof value !== "number")) return String(value ?? "").toLowerCase().includes(found[3]);
    if (typeof value !== "number") return false;
    return { ">": value > wanted, "<": value < wanted, ">=": value >= wanted, "<=": value <= wanted, "=": value === wanted }[found[2]];
  });
}

export class RunsTable {
  constructor(open) {
    this.open = open;
    this.rows = [];
    this.varying = [];
    this.chosen = new Set();
    this.unfolded = new Set();
    this.lines = new Map();
    this.waiting = new Set();
    this.watch = new IntersectionObserver((seen) => { for (const entry of seen) if (entry.isIntersecting) this.waiting.add(entry.target.dataset.run); this.askLines(); });
    $("search").addEventListener("input", () => { this.remember(); this.draw(); });
    for (const id of ["status", "group", "archived"]) $(id).addEventListener("change", () => { this.remember(); this.draw(); });
    $("heads").replaceChildren(...this.heads());
    for (const [id, act] of [["compare", () => this.compare()], ["archive", () => openNotes(this.picked(), "archive")], ["delete", () => openNotes(this.picked(), "delete")]]) $(id).onclick = act;
  }

  restore() {
    const { given } = parse();
    $("search").value = given.get("find") ?? ""; $("status").value = given.get("status") ?? ""; $("group").value = given.get("group") ?? ""; $("archived").checked = given.has("archived");
    this.sort = given.get("sort") ?? "";
  }

  remember() { keep({ find: $("search").value, status: $("status").value, group: $("group").value, archived: $("archived").checked ? 1 : "", sort: this.sort }); }

  heads() {
    const box = make("input", { type: "checkbox", id: "all", "aria-label": "choose all runs shown", onchange: () => { for (const row of this.shown()) this.chosen[box.checked ? "add" : "delete"](row.id); this.draw(); } });
    const columns = COLUMNS.map((c) => make("th", { scope: "col", className: c.number ? "number" : "", data: { key: c.key } }, make("button", { className: "plain", textContent: c.label, onclick: () => this.sortBy(c.key) })));
    return [make("th", { scope: "col" }, box), ...columns, make("th", { scope: "col", textContent: "training loss" }), make("th", { scope: "col", textContent: "tags" }), make("th", { scope: "col" }, make("span", { className: "unseen", textContent: "notes" }))];
  }

  // Once descends numbers, twice ascends, thrice as it was: the newest first.
  sortBy(key) {
    const numeric = COLUMNS.find((c) => c.key === key).number || key === "started", order = numeric ? ["-" + key, key, ""] : [key, "-" + key, ""];
    this.sort = order[(order.indexOf(this.sort) + 1) % 3];
    this.remember();
    this.draw();
  }

  take({ runs, varying }) { this.rows = runs; this.varying = varying; this.draw(); }

  shown() {
    const wanted = $("status").value;
    const rows = this.rows.filter((r) => ($("archived").checked || !r.archived) && (!wanted || r.status === wanted) && matches(r, $("search").value));
    const key = this.sort.replace("-", ""), column = COLUMNS.find((c) => c.key === key), down = this.sort.startsWith("-") ? -1 : 1;
    if (!column) return rows;
    const value = (r) => column.of(r) ?? null;
    return rows.sort((a, b) => { const x = value(a), y = value(b); if (x === null || y === null) return (x === null) - (y === null); return down * (typeof x === "string" ? x.localeCompare(String(y), "en", { numeric: true }) : x - y); });
  }

  picked() { return this.rows.filter((row) => this.chosen.has(row.id)); }
  compare() { const ids = this.picked().map((row) => row.id); if (ids.length > 1) this.open(ids); }

  draw() {
    const rows = this.shown(), focused = document.activeElement?.dataset?.key;
    const there = new Set(this.rows.map((row) => row.id));
    for (const id of this.chosen) if (!there.has(id)) this.chosen.delete(id);
    const mode = $("group").value;
    this.watch.disconnect();
    $("runs").replaceChildren(...(mode === "seeds" ? this.grouped(rows) : mode === "branches" ? this.branches(rows) : rows.map((row) => this.row(row))));
    for (const cell of document.querySelectorAll("#runs [data-run]")) this.watch.observe(cell);
    for (const head of document.querySelectorAll("#heads [data-key]")) head.setAttribute("aria-sort", this.sort === head.dataset.key ? "ascending" : this.sort === "-" + head.dataset.key ? "descending" : "none");
    $("empty").hidden = this.rows.length > 0;
    $("table").hidden = !this.rows.length;
    const hidden = this.rows.length - rows.length;
    $("count").textContent = this.rows.length ? `${rows.length} of ${this.rows.length} runs${hidden && this.rows.some((r) => r.archived) && !$("archived").checked ? " (archived ones are hidden)" : ""}` : "";
    if (focused) document.querySelector(`[data-key="${CSS.escape(focused)}"]`)?.focus();
    this.count();
  }

  count() {
    const n = this.chosen.size;
    $("compare").disabled = n < 2; $("archive").disabled = $("delete").disabled = n < 1;
    $("chosen").textContent = n ? `${n} chosen` : "";
  }

  row(row, depth = 0) {
    const box = make("input", { type: "checkbox", value: row.id, checked: this.chosen.has(row.id), "aria-label": "compare " + row.name, data: { key: "b" + row.id }, onchange: () => { this.chosen[box.checked ? "add" : "delete"](row.id); this.count(); } });
    const swatch = make("span", { className: "swatch", "aria-hidden": "true" });
    swatch.style.background = runColor(row.id);
    const name = make("a", { className: "open", href: link([row.id]), textContent: row.title || row.name, title: row.title ? row.name : "", data: { key: "o" + row.id } });
    const first = make("td", { className: "name" }, swatch, name, row.archived ? make("span", { className: "soft", textContent: " archived" }) : "", row.branch ? make("span", { className: "soft fork", title: changed(row.branch), textContent: ` ↳ ${BY.get(row.branch.by) ?? row.branch.by} of ${row.branch.name} at ${whole(row.branch.at)}` }) : "");
    if (depth) first.style.paddingLeft = 0.6 + 1.4 * depth + "rem";
    const cells = COLUMNS.slice(1).map((c) => make("td", { textContent: c.show ? c.show(row) : c.of(row) ?? "–", title: c.about?.(row) ?? "", className: (c.number ? "number " : "") + (c.key === "status" ? "mark " + row.status : "") }));
    const spark = make("td", { data: { run: row.id } });
    if (this.lines.has(row.id)) spark.append(...sparkline(this.lines.get(row.id).values, row.id));
    const notes = make("button", { className: "plain", textContent: row.text ? "✎ …" : "✎", title: row.text || "Notes, tags, title", "aria-label": "notes of " + row.name, data: { key: "n" + row.id }, onclick: () => openNotes([row]) });
    return make("tr", { className: row.archived ? "archived" : "" }, make("td", {}, box), first, ...cells, spark, make("td", {}, ...(row.tags ?? []).map((tag) => make("span", { className: "tag", textContent: tag }))), make("td", {}, notes));
  }

  // One row for each configuration: the mean over its seeds with Student's 95% interval.
  grouped(rows) {
    const groups = new Map();
    for (const row of rows) { const key = row.group ?? row.id; if (!groups.has(key)) groups.set(key, []); groups.get(key).push(row); }
    return [...groups].flatMap(([key, members]) => {
      if (members.length < 2) return members.map((row) => this.row(row));
      const open = this.unfolded.has(key), ids = members.map((row) => row.id), first = members[0];
      const values = (of) => members.map(of).filter((v) => typeof v === "number");
      const band = (of, show) => { const found = values(of); if (!found.length) return "–"; const { mean, half } = interval(found); return half === null ? show(mean) : `${show(mean)} ± ${show(half)}`; };
      const fold = make("button", { className: "plain", textContent: open ? "▾" : "▸", "aria-expanded": open, "aria-label": `runs of ${first.name}`, data: { key: "f" + key }, onclick: () => { this.unfolded[open ? "delete" : "add"](key); this.draw(); } });
      const settings = Object.entries(first.settings ?? {}).filter(([name]) => !["method.policy", "method.sparsity"].includes(name)).slice(0, 3).map(([name, value]) => `${name.split(".").pop()} ${value}`);
      const label = make("a", { className: "open", href: link(ids.slice(0, 30), { pool: 1 }), textContent: [first.task, first.policy, ...settings].filter(Boolean).join(" · "), title: "Show the mean over seeds" });
      const states = [...new Set(members.map((row) => row.status))].join(", ");
      const cell = (text, number, title) => make("td", { textContent: text, className: number ? "number" : "", title: title ?? "" });
      const head = make("tr", { className: "group" }, make("td", {}, fold), make("td", { className: "name" }, label), cell(band((r) => r.accuracy, (v) => percent(v, 2)), true, "mean and 95% interval over seeds"), cell(band((r) => r.loss, short), true), cell(band((r) => r.sparsity, percent), true),
        cell(whole(values((r) => r.step).sort((x, y) => y - x)[0]), true), cell(first.policy ?? "–"), cell(`${members.length} seeds`, true), cell(states), cell(when(values((r) => r.started).sort((x, y) => x - y)[0])), cell(band((r) => r.duration, duration), true), cell(""), cell(""), cell(""));
      return open ? [head, ...members.map((row) => this.row(row, 1))] : [head];
    });
  }

  // Branches stand under the run that they were taken from.
  branches(rows) {
    const named = (row) => rows.find((other) => other.id === row.branch?.parent);
    const below = new Map(), tops = [];
    for (const row of rows) { const parent = named(row); if (parent) { if (!below.has(parent.id)) below.set(parent.id, []); below.get(parent.id).push(row); } else tops.push(row); }
    const out = [], seen = new Set();
    const put = (row, depth) => { if (seen.has(row.id)) return; seen.add(row.id); out.push(this.row(row, depth)); for (const child of (below.get(row.id) ?? []).sort((a, b) => a.branch.at - b.branch.at)) put(child, depth + 1); };
    for (const row of tops) put(row, 0);
    for (const row of rows) put(row, 0);
    return out;
  }

  // Small pictures of the loss come for the rows that are seen.
  async askLines() {
    if (this.asking) return;
    this.asking = true;
    const changed = new Map(this.rows.map((row) => [row.id, row.changed]));
    const wanted = [...this.waiting].filter((id) => changed.has(id) && this.lines.get(id)?.changed !== changed.get(id)).slice(0, 50);
    this.waiting.clear();
    try {
      if (!wanted.length) return;
      const found = await read("lines?runs=" + wanted);
      for (const [id, values] of Object.entries(found)) {
        this.lines.set(id, { changed: changed.get(id), values });
        document.querySelector(`#runs [data-run="${id}"]`)?.replaceChildren(...sparkline(values, id));
      }
    } catch { /* the list itself says that the server is away */ } finally { this.asking = false; }
  }
}

function sparkline(values, id) {
  const known = values.filter((v) => v !== null);
  if (known.length < 2) return [];
  const low = Math.min(...known), span = Math.max(...known) - low || 1, points = values.map((v, i) => (v === null ? "" : `${(1 + (i * 78) / (values.length - 1)).toFixed(1)},${(17 - (15 * (v - low)) / span).toFixed(1)}`)).filter(Boolean);
  return [svg("svg", { width: 80, height: 18, "aria-hidden": "true" }, svg("polyline", { points: points.join(" "), fill: "none", stroke: runColor(id), "stroke-width": 1.3 }))];
}
