// One color for each run, everywhere and for ever: it follows from the run's id alone.
const known = new Map();
const isDark = () => document.documentElement.dataset.theme === "dark";

export function runColor(id) {
  const key = id + isDark();
  if (!known.has(key)) {
    const hue = (parseInt(id.slice(0, 4), 16) / 65536) * 360, shade = (parseInt(id[4], 16) % 3) - 1;
    known.set(key, isDark() ? oklch(0.77 + 0.06 * shade, 0.13, hue) : oklch(0.54 + 0.06 * shade, 0.14, hue));
  }
  return known.get(key);
}

// Perceived lightness is the same for all hues in this space, so that every run stands out from the paper.
export function oklch(L, C, hue) {
  const a = C * Math.cos((hue * Math.PI) / 180), b = C * Math.sin((hue * Math.PI) / 180);
  const [l, m, s] = [L + 0.3963377774 * a + 0.2158037573 * b, L - 0.1055613458 * a - 0.0638541728 * b, L - 0.0894841775 * a - 1.291485548 * b].map((v) => v ** 3);
  const rgb = [4.0767416621 * l - 3.3077115913 * m + 0.2309699292 * s, -1.2684380046 * l + 2.6097574011 * m - 0.3413193965 * s, -0.0041960863 * l - 0.7034186147 * m + 1.707614701 * s];
  return "#" + rgb.map((v) => { const c = Math.min(1, Math.max(0, v)), g = c <= 0.0031308 ? 12.92 * c : 1.055 * c ** (1 / 2.4) - 0.055; return Math.round(255 * g).toString(16).padStart(2, "0"); }).join("");
}

// Layers of one run.
export const layerColor = (i) => (isDark() ? oklch(0.78, 0.13, (235 + i * 137.5) % 360) : oklch(0.55, 0.14, (250 + i * 137.5) % 360));
export const faded = (hex, alpha) => hex + Math.round(255 * alpha).toString(16).padStart(2, "0");
