// Small things that every module needs: elements, words for numbers. Text is only ever set as text.
export const $ = (id) => document.getElementById(id);

export function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === undefined || value === null) continue;
    if (name.includes("-") || ["role", "scope", "for"].includes(name)) element.setAttribute(name, value);
    else if (name === "data") Object.assign(element.dataset, value);
    else element[name] = value;
  }
  element.append(...children.filter((child) => child !== undefined && child !== null && child !== false));
  return element;
}

export function svg(tag, attributes = {}, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

export const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
export const sleep = (ms) => new Promise((go) => setTimeout(go, ms));

export function short(v) {
  if (v === null || v === undefined) return "–";
  if (typeof v !== "number") return String(v);
  const size = Math.abs(v);
  if (size >= 1e6 || (size && size < 1e-3)) return v.toExponential(1);
  return String(+v.toPrecision(4));
}

export const percent = (v, digits = 1) => (typeof v !== "number" ? "–" : (100 * v).toFixed(digits) + "%");
export const whole = (v) => (typeof v !== "number" ? "–" : v.toLocaleString("en"));

export function duration(s) {
  if (typeof s !== "number") return "–";
  if (s < 60) return s.toFixed(s < 10 ? 1 : 0) + " s";
  const minutes = Math.round(s / 60);
  if (minutes < 60) return minutes + " min";
  if (minutes < 60 * 48) return Math.floor(minutes / 60) + " h " + (minutes % 60 ? (minutes % 60) + " min" : "");
  return Math.round(minutes / 1440) + " days";
}

export function when(seconds) {
  if (typeof seconds !== "number") return "–";
  const day = new Date(seconds * 1000), pad = (n) => String(n).padStart(2, "0");
  return `${day.getFullYear()}-${pad(day.getMonth() + 1)}-${pad(day.getDate())} ${pad(day.getHours())}:${pad(day.getMinutes())}`;
}

// 97.5% quantiles of Student's t by degrees of freedom; beyond the table z + (z³ + z)/4ν.
const T = [12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.16, 2.145, 2.131, 2.12, 2.11, 2.101, 2.093, 2.086];
export function interval(values) {
  const n = values.length, mean = values.reduce((sum, v) => sum + v, 0) / n;
  if (n < 2) return { mean, half: null, n };
  const spread = Math.sqrt(values.reduce((sum, v) => sum + (v - mean) ** 2, 0) / (n - 1));
  return { mean, half: ((T[n - 2] ?? 1.96 + 2.372 / (n - 1)) * spread) / Math.sqrt(n), n };
}
