// Configuration and environment of a run, and in what several runs differ.
import { $, make, short } from "/elements.js";

const shown = (value) => (value === null || value === undefined ? "–" : typeof value === "object" ? JSON.stringify(value) : typeof value === "number" ? (Number.isInteger(value) ? String(value) : short(value)) : String(value));

// Sections of a table of tables as rows of name and value.
export function flat(table) {
  return Object.entries(table ?? {}).flatMap(([section, value]) =>
    value && typeof value === "object" && !Array.isArray(value) ? Object.entries(value).map(([name, v]) => [`${section}.${name}`, v]) : [[section, value]]);
}

const cells = (rows) => make("table", {}, make("tbody", {}, ...rows.map(([name, value]) => make("tr", {}, make("th", { textContent: name, scope: "row" }), make("td", { textContent: shown(value) })))));

export function showFacts(run) {
  const parts = [["Result", run.summary], ["Configuration", run.config], ["Environment", run.environment], ["Data", run.data]];
  $("tables").replaceChildren(make("p", { className: "soft", textContent: run.directory }), ...parts.filter(([, table]) => Object.keys(table ?? {}).length).map(([title, table]) => make("div", {}, make("h2", { textContent: title }), cells(flat(table)))));
}

export function differences(runs, names) {
  const tables = runs.map((run) => new Map(flat(run.config))), keys = [...new Set(tables.flatMap((t) => [...t.keys()]))];
  const different = keys.filter((key) => new Set(tables.map((t) => shown(t.get(key)))).size > 1);
  if (!different.length) return make("p", { className: "soft", textContent: "The configurations are the same." });
  return make("div", { className: "scroll" }, make("table", {},
    make("thead", {}, make("tr", {}, make("th", { textContent: "setting", scope: "col" }), ...runs.map((run) => make("th", { textContent: names.get(run.id) ?? run.id, scope: "col" })))),
    make("tbody", {}, ...different.map((key) => make("tr", {}, make("th", { textContent: key, scope: "row" }), ...tables.map((t) => make("td", { textContent: shown(t.get(key)) })))))));
}

export function showDifferences(runs, names) { $("differences").replaceChildren(differences(runs, names)); }

// Where the written documents of a run are, or how to write them.
export function showDocuments(run) {
  const found = run.documents ?? [], there = new Set(found.map((d) => d.kind));
  const links = found.map((d) => make("a", { href: d.address, textContent: d.kind + (d.scope === "beside" ? " of all runs beside it" : "") }));
  const missing = [["report", "report"], ["analysis", "analyze"]].filter(([kind]) => !there.has(kind));
  const hints = missing.map(([kind, command]) => make("span", { className: "soft" }, `no ${kind} yet: `, make("code", { textContent: `surgecollapse ${command} ${run.directory}` })));
  $("documents").replaceChildren(...[...links, ...hints].flatMap((part, i) => (i ? [" · ", part] : [part])));
}
