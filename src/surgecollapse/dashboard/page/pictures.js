// Arrays of a run: matrices as pictures, histograms as bars, and over time as ridges.
import { $, css, make, short } from "/elements.js";
import { problem, read } from "/server.js";

export function offerArrays(arrays) {
  const chosen = $("array").value, option = (value, text) => make("option", { value, textContent: text });
  $("array").replaceChildren(option("", "choose …"), ...arrays.map((a) => option(a.name, `${a.name} (${a.count > 1 ? `${a.count} times, to ` : ""}step ${a.last})`)));
  if (arrays.some((a) => a.name === chosen)) $("array").value = chosen;
}

export async function showArray(run, arrays) {
  const name = $("array").value, about = arrays.find((a) => a.name === name);
  if (!about) { $("picture").replaceChildren(); return; }
  try {
    const part = encodeURIComponent(name);
    if (name.startsWith("histogram/") && about.count > 1) { $("picture").replaceChildren(...ridges(await read(`runs/${run}/ridges?name=${part}`))); return; }
    const found = await read(`runs/${run}/array?name=${part}`);
    $("picture").replaceChildren(found.table ? samples(found) : found.rows ? matrix(found.rows) : bars(found.counts ?? []), make("p", { textContent: caption(name, found), className: "soft" }));
  } catch (error) { problem(error.message); }
}

function caption(name, found) {
  const at = `step ${found.step}`;
  if (found.edges) return `${at}: values from ${short(found.edges[0])} to ${short(found.edges.at(-1))}` + (found.total ? `, ${found.total} in all; not drawn: ${found.zeros} zeros${found.bad ? `, ${found.bad} that are not finite` : ""}` : "");
  if (found.table) return `${at}: the samples with the greatest loss; drop-samples, weigh-samples and relabel-samples take their numbers`;
  return found.rows ? at + (name.startsWith("confusion/") ? ": rows are true classes, columns predicted" : "") : "";
}

function canvas(width, height, label) {
  const c = make("canvas", { width, height, role: "img", "aria-label": label });
  return [c, c.getContext("2d")];
}

function samples({ columns, table }) {
  const line = (cells, kind, how) => make("tr", {}, ...cells.map((v) => make(kind, { ...how, textContent: Number.isInteger(v) ? v : short(v) })));
  return make("div", { className: "scroll", tabIndex: 0, role: "region", "aria-label": "samples" }, make("table", {}, make("thead", {}, line(columns, "th", { scope: "col" })), make("tbody", {}, ...table.map((row) => line(row, "td", {})))));
}

function matrix(rows) {
  const most = Math.max(1e-12, ...rows.flat()), n = rows.length, m = rows[0].length, [c, g] = canvas(480, 480, "matrix"), blue = css("--blue");
  rows.forEach((row, i) => row.forEach((v, j) => {
    g.fillStyle = blue; g.globalAlpha = Math.max(0, v / most);
    g.fillRect((j * 480) / m, (i * 480) / n, 480 / m - 1, 480 / n - 1);
    if (m > 12) return;
    g.globalAlpha = 1; g.fillStyle = v > most / 2 ? css("--card") : css("--ink"); g.font = "14px system-ui"; g.textAlign = "center";
    g.fillText(short(v), ((j + 0.5) * 480) / m, ((i + 0.5) * 480) / n + 5);
  }));
  return c;
}

function bars(counts) {
  const most = Math.max(...counts, 1), [c, g] = canvas(480, 240, "histogram");
  g.fillStyle = css("--blue");
  counts.forEach((v, i) => g.fillRect((i * 480) / counts.length, 240 - (230 * v) / most, 480 / counts.length - 1, (230 * v) / most));
  return c;
}

// The oldest stands at the back, at the top; all have one scale.
export function ridges({ steps, edges, rows }) {
  if (!steps.length) return [make("p", { textContent: "No histogram was recorded.", className: "soft" })];
  const width = 640, gap = Math.min(26, 420 / steps.length), rise = 70, height = rise + gap * steps.length + 30, left = 70;
  const [c, g] = canvas(width, height, `histograms at ${steps.length} steps`), most = Math.max(...rows.flat(), 1e-12);
  const x = (i) => left + (i * (width - left - 10)) / (rows[0].length - 1);
  rows.forEach((row, r) => {
    const base = rise + gap * r;
    g.beginPath(); g.moveTo(x(0), base);
    row.forEach((v, i) => g.lineTo(x(i), base - (rise - 8) * Math.sqrt(v / most)));
    g.lineTo(x(row.length - 1), base); g.closePath();
    g.fillStyle = css("--card"); g.globalAlpha = 0.85; g.fill();
    g.fillStyle = css("--blue"); g.globalAlpha = 0.12 + (0.3 * r) / rows.length; g.fill();
    g.globalAlpha = 1; g.strokeStyle = css("--blue"); g.stroke();
    if (gap > 11 || r % Math.ceil(12 / gap) === 0) { g.fillStyle = css("--soft"); g.font = "11px system-ui"; g.textAlign = "right"; g.fillText(String(steps[r]), left - 8, base + 3); }
  });
  g.fillStyle = css("--soft"); g.font = "11px system-ui"; g.textAlign = "center";
  for (const t of [0, 0.5, 1]) g.fillText(short(edges[0] + t * (edges.at(-1) - edges[0])), left + t * (width - left - 10) - (t === 1 ? 14 : 0), height - 10);
  return [c, make("p", { textContent: `${steps.length} recordings, the newest (step ${steps.at(-1)}) in front; heights are square roots of densities, zeros are left out.`, className: "soft" })];
}
