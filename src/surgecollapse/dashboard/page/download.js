// A chart as a picture or a table, made in the browser.
import { css, short } from "/elements.js";

export function download(kind, chart) {
  const name = chart.title.replace(/[^A-Za-z0-9]+/g, "-");
  if (kind === "CSV") save(new Blob([table(chart)], { type: "text/csv" }), name + ".csv");
  else if (kind === "SVG") save(new Blob([drawing(chart)], { type: "image/svg+xml" }), name + ".svg");
  else picture(chart).toBlob((blob) => save(blob, name + ".png"));
}

function save(blob, name) {
  const link = document.createElement("a"), address = URL.createObjectURL(blob);
  link.href = address; link.download = name;
  document.body.append(link); link.click(); link.remove();
  setTimeout(() => URL.revokeObjectURL(address), 10000);
}

const quote = (text) => (/[",\n]/.test(text) || /^[=+@-]/.test(text) ? `"${text.replace(/"/g, '""')}"` : text);
const named = (f) => (f.raw ? `${f.line.label} (raw)` : f.bound ? `${f.line.label} (${f.band ? "least" : "greatest"})` : f.label);

export function table(chart) {
  const heads = [chart.view.axis, ...chart.found.map(named)];
  const rows = chart.data[0].map((x, i) => [x, ...chart.data.slice(1).map((column) => column[i] ?? "")].join(","));
  return heads.map(quote).join(",") + "\n" + rows.join("\n") + "\n";
}

// The canvas with its title above and its legend below.
function picture(chart) {
  const from = chart.plot.ctx.canvas, ratio = devicePixelRatio || 1, found = chart.found.filter((f) => !f.hidden), to = document.createElement("canvas");
  to.width = from.width; to.height = from.height + (34 + 18 * found.length) * ratio;
  const g = to.getContext("2d");
  g.fillStyle = css("--card"); g.fillRect(0, 0, to.width, to.height);
  g.drawImage(from, 0, 24 * ratio);
  g.scale(ratio, ratio);
  g.fillStyle = css("--ink"); g.font = "600 13px system-ui"; g.fillText(chart.title, 8, 17);
  found.forEach((f, i) => { const y = from.height / ratio + 38 + 18 * i; g.fillStyle = f.line.color; g.fillRect(10, y - 8, 12, 8); g.fillStyle = css("--ink"); g.font = "12px system-ui"; g.fillText(f.label, 28, y); });
  return to;
}

const escaped = (text) => String(text).replace(/[&<>"]/g, (c) => ({ "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;" })[c]);

export function drawing(chart) {
  const width = 640, height = 320, left = 60, top = 30, bottom = 40, { plot, data, found } = chart;
  const { min: x0, max: x1 } = plot.scales.x, { min: y0, max: y1 } = plot.scales.y;
  const at = (v, a, b, log) => (log ? Math.log(v / a) / Math.log(b / a) : (v - a) / (b - a || 1));
  const px = (x) => left + at(x, x0, x1, chart.view.logx) * (width - left - 12), py = (y) => top + (1 - at(y, y0, y1, chart.view.logy)) * (height - top - bottom);
  const ink = css("--ink"), soft = css("--soft"), shown = found.map((f, i) => [f, data[i + 1]]).filter(([f]) => !f.bound);
  const lines = shown.map(([f, ys]) => {
    const points = data[0].map((x, j) => [x, ys[j]]).filter(([x, y]) => y !== null && y !== undefined && x >= x0 && x <= x1).map(([x, y]) => [px(x).toFixed(1), py(y).toFixed(1)]);
    if (f.line.kind === "points") return points.map(([x, y]) => `<circle cx="${x}" cy="${y}" r="2.5" fill="${f.line.color}"/>`).join("");
    const way = f.line.kind === "steps" ? points.map(([x, y], i) => (i ? `H${x}V${y}` : `M${x} ${y}`)).join("") : points.map(([x, y], i) => `${i ? "L" : "M"}${x} ${y}`).join("");
    return `<path d="${way}" fill="none" stroke="${f.line.color}" stroke-width="1.5" opacity="${f.raw ? 0.3 : 1}"/>`;
  });
  const ticks = [0, 0.25, 0.5, 0.75, 1].map((t) => {
    const x = chart.view.logx ? x0 * (x1 / x0) ** t : x0 + t * (x1 - x0), y = chart.view.logy ? y0 * (y1 / y0) ** t : y0 + t * (y1 - y0);
    return `<text x="${px(x).toFixed(1)}" y="${height - bottom + 16}" text-anchor="middle">${escaped(short(x))}</text><text x="${left - 6}" y="${(py(y) + 4).toFixed(1)}" text-anchor="end">${escaped(short(y))}</text><path d="M${left} ${py(y).toFixed(1)}H${width - 12}" stroke="${soft}" opacity=".25"/>`;
  });
  const legend = shown.filter(([f]) => !f.raw).map(([f], i) => `<rect x="${left}" y="${height + 4 + 16 * i}" width="10" height="8" fill="${f.line.color}"/><text x="${left + 16}" y="${height + 12 + 16 * i}">${escaped(f.label)}</text>`);
  return `<svg xmlns="http://www.w3.org/2000/svg" width="${width}" height="${height + 16 * legend.length + 10}" font-family="sans-serif" font-size="11" fill="${ink}"><rect width="100%" height="100%" fill="${css("--card")}"/><text x="${left}" y="18" font-size="13" font-weight="600">${escaped(chart.title)}</text>${ticks.join("")}${lines.join("")}<text x="${(width + left) / 2}" y="${height - 8}" text-anchor="middle">${escaped(chart.view.axis)}</text>${legend.join("")}</svg>`;
}
