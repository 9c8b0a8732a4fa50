import { Chart, ORDER, append, clock, groupOf, headingOf, path, short, stepOf, words } from "/charts.js";

const $ = (id) => document.getElementById(id);
const make = (tag, text, cls) => { const e = document.createElement(tag); if (text !== undefined) e.textContent = text; if (cls) e.className = cls; return e; };
if (location.hash.length > 1 && !location.hash.startsWith("#/")) { sessionStorage.setItem("token", location.hash.slice(1)); history.replaceState(null, "", "#/"); }
const token = sessionStorage.getItem("token") ?? "";
const now = { runs: new Map(), charts: new Map(), shown: [], generation: 0, events: [], dirty: false };
const FORMS = [
  ["collapse", [["fraction", 0.3], ["layers", ""]]], ["surge", [["fraction", 0.2], ["layers", ""]]], ["pump", [["noise_std", 0.1]]],
  ["set-sparsity", [["sparsity", 0.9]]], ["set-thresholds", [["values", "floor=.4"]]], ["learning-rate", [["factor", 0.5]]], ["cadence", [["every", 100]]],
  ["pause-policy", []], ["resume-policy", []], ["pause", []], ["continue", []], ["checkpoint", []], ["inspect", []], ["roll-back", [["step", ""]]], ["stop", []],
];

async function api(path, options = {}) {
  const answer = await fetch("/api/" + path, { ...options, headers: { authorization: "Bearer " + token, ...(options.headers ?? {}) } });
  if (!answer.ok) throw new Error((await answer.json().catch(() => ({}))).error ?? `the server answered ${answer.status}`);
  return answer;
}
const read = async (path) => (await api(path)).json();
const sleep = (ms) => new Promise((go) => setTimeout(go, ms));
function problem(text) { $("problem").hidden = !text; $("problem").textContent = text ?? ""; }

// the list of runs

function sparkline(values) {
  const c = document.createElement("canvas"), known = values.filter((v) => v !== null);
  c.width = 160; c.height = 36; c.style.width = "80px"; c.style.height = "18px";
  const low = Math.min(...known), span = Math.max(...known) - low || 1, g = c.getContext("2d");
  g.strokeStyle = getComputedStyle(document.documentElement).getPropertyValue("--blue"); g.lineWidth = 2; g.beginPath();
  values.forEach((v, i) => { if (v !== null) g.lineTo(2 + (i * 156) / Math.max(values.length - 1, 1), 33 - (30 * (v - low)) / span); });
  g.stroke();
  return c;
}

async function list(generation) {
  while (generation === now.generation) {
    try {
      const { runs } = await read("runs");
      if (generation !== now.generation) return;
      const chosen = new Set([...document.querySelectorAll("#runs input:checked")].map((box) => box.value));
      const focused = document.activeElement?.dataset?.key;
      $("runs").replaceChildren(...runs.map((run) => {
        const row = make("tr"), box = make("input"), open = make("button", run.name, "open");
        box.type = "checkbox"; box.value = run.id; box.checked = chosen.has(run.id); box.onchange = choose; box.dataset.key = "b" + run.id;
        box.setAttribute("aria-label", "compare " + run.name); open.dataset.key = "o" + run.id;
        open.onclick = () => go([run.id]);
        const cells = [make("td"), make("td"), make("td", run.status + (run.state ? " · " + run.state : "") + (run.modified_by_user ? " · modified" : ""), "mark " + run.status), make("td")];
        if (run.why) cells[2].title = run.why;
        cells[0].append(box); cells[1].append(open); if (run.line.length) cells[3].append(sparkline(run.line));
        row.append(...cells);
        return row;
      }));
      if (focused) document.querySelector(`[data-key="${focused}"]`)?.focus();
      now.names = new Map(runs.map((run) => [run.id, run.name]));
      if (!runs.length) $("runs").append(make("tr")).append?.();
      choose(); problem(); $("link").textContent = `${runs.length} runs`;
    } catch (error) { problem(error.message); $("link").textContent = "no server"; }
    await sleep(2000);
  }
}
function choose() { $("compare").disabled = document.querySelectorAll("#runs input:checked").length < 2; }
function compare() { const ids = [...document.querySelectorAll("#runs input:checked")].map((box) => box.value); if (ids.length > 1) go(ids); }
function go(ids) { location.hash = "#/" + ids.join(","); }

// one run, or several

async function route() {
  const generation = ++now.generation, ids = location.hash.replace(/^#\/?/, "").split(",").filter((id) => /^[0-9a-f]{12}$/.test(id)).slice(0, 10);
  for (const run of now.runs.values()) run.abort?.abort();
  now.runs.clear(); now.charts.clear(); now.shown = ids; now.events = []; $("charts").replaceChildren(); $("asked").replaceChildren();
  $("list").hidden = ids.length > 0; $("plots").hidden = !ids.length; $("detail").hidden = $("more").hidden = ids.length !== 1;
  $("title").textContent = ids.length ? "" : "Runs";
  if (!ids.length) return list(generation);
  if (!now.names) now.names = new Map((await read("runs").catch((error) => { problem(error.message); return { runs: [] }; })).runs.map((run) => [run.id, run.name]));
  if (generation !== now.generation) return;
  $("title").textContent = ids.map((id) => now.names.get(id) ?? id).join("  ·  ");
  for (const id of ids) follow(id, generation);
}

async function load(id) {
  const found = await read("runs/" + id), run = now.runs.get(id);
  Object.assign(run, { state: found.state, config: found.config, arrays: found.arrays, lines: new Map() });
  await learn(run, found.series);
  if (now.shown.length === 1) { now.events = found.events; strip(run); asked(found.commands, run); table(); pictures(run); }
  paint();
}

async function learn(run, series) {
  const fresh = series.filter((s) => !run.lines.has(s.id));
  for (let i = 0; i < fresh.length; i += 100) {
    const part = fresh.slice(i, i + 100), data = await read(`runs/${run.id}/series?ids=${part.map((s) => s.id)}`);
    for (const s of part) run.lines.set(s.id, { ...s, ...data[s.id] });
  }
}

async function follow(id, generation) {
  const run = { id, lines: new Map() };
  now.runs.set(id, run);
  let wait = 300;
  while (generation === now.generation) {
    run.abort = new AbortController();
    let timer;
    const alive = () => { clearTimeout(timer); timer = setTimeout(() => run.abort.abort(), 15000); };
    try {
      alive();
      const answer = await api(`runs/${id}/stream`, { signal: run.abort.signal });
      const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
      let rest = "", loaded = false;
      for (;;) {
        const { done, value } = await reader.read();
        if (done) break;
        alive();
        const parts = (rest + value).split("\n\n");
        rest = parts.pop();
        if (!loaded) { await load(id); loaded = true; wait = 300; problem(); $("link").textContent = "connected"; }
        for (const part of parts) await take(run, JSON.parse(part.slice(6)), generation);
      }
    } catch (error) { if (generation === now.generation && error.name !== "AbortError") problem(`${error.message}: trying again`); }
    clearTimeout(timer);
    if (generation !== now.generation) return;
    $("link").textContent = "no server, trying again";
    await sleep(wait);
    wait = Math.min(wait * 1.6, 3000);
  }
}

async function take(run, message, generation) {
  if (generation !== now.generation) return;
  if (message.reset) return load(run.id);
  if (message.series) await learn(run, message.series);
  for (const [id, fresh] of Object.entries(message.points ?? {})) { const line = run.lines.get(+id); if (line) append(line, fresh); }
  if (message.state) run.state = message.state;
  if ((message.events ?? []).some((event) => event.class === "Intervention")) run.flops = undefined;
  if (now.shown.length === 1) {
    const known = new Set(now.events.map((event) => event.id));
    const fresh = (message.events ?? []).filter((event) => !known.has(event.id));
    now.events.push(...fresh);
    if (message.state) strip(run);
    if (message.commands) asked(message.commands, run);
    if (fresh.length) table();
    if (fresh.some((event) => event.kind === "inspect")) { run.arrays = (await read("runs/" + run.id)).arrays; pictures(run); if ($("array").value) picture(); }
  }
  if (message.points || message.events) later();
}

function later() { if (!now.dirty) { now.dirty = true; requestAnimationFrame(() => { now.dirty = false; paint(); }); } }

function strip(run) {
  const s = run.state, percent = (v) => (v === null ? "–" : (100 * v).toFixed(1) + "%");
  const facts = [["run", s.status + (s.modified_by_user ? ", modified" : ""), s.status], ["state", s.name, "state"], ["step", s.total ? `${s.step} / ${s.total}` : String(s.step)],
    ["phase", (s.held ? "policy paused · " : "") + (s.paused ? "paused · " : "") + (s.phase ?? "–")], ["next decision", s.next === null ? "–" : `step ${s.next}`], ["sparsity", percent(s.sparsity)], ["entropy", short(s.entropy)], ["loss", short(s.loss)],
    ["last act", s.last ? `${s.last.kind} at ${s.last.step}` : "–"]];
  if (s.skipped) facts.push(["damaged rows", `${s.skipped} left out`, "failed"]);
  if (s.alarm) facts.push(["alarm", `${s.alarm.forecast}, says ${s.alarm.detector} at ${s.alarm.step}`, s.alarm.forecast === "generalizes" ? "live" : "failed", s.alarm.reason]);
  facts.push([`why ${s.name}`, s.cause, "", "", "why"]);
  if (s.why && !s.cause.endsWith(s.why)) facts.push(["last decision", s.why, "", "", "why"]);
  $("strip").dataset.state = s.name;
  $("strip").replaceChildren(...facts.map(([name, value, cls, title, wide]) => { const d = make("div", undefined, wide); if (title) d.title = title; d.append(make("span", name), make("b", value, cls)); return d; }));
}

// charts

function view() {
  const axis = $("axis").value, clocks = new Map();
  for (const run of now.runs.values()) {
    const name = { time: "time/step", work: "sparsity" }[axis];
    if (axis === "flops") { clocks.set(run.id, operations(run)); continue; }
    clocks.set(run.id, clock(axis, [...run.lines.values()].find((l) => l.name === name && !l.layer)));
  }
  return { axis: { time: "seconds", flops: "FLOPs" }[axis] ?? axis, logx: $("logx").checked, logy: $("logy").checked, smooth: +$("smooth").value, theme: document.documentElement.dataset.theme,
    at: (line) => clocks.get(line.run), step: clocks.get(now.shown[0]) ?? ((s) => s) };
}

// Steps → operations, asked for when an axis of them is first drawn, and anew after every change of the mask.
function operations(run) {
  if (run.flops === undefined) {
    run.flops = null;
    read(`runs/${run.id}/operations`).then((found) => { run.flops = found; later(); }, (error) => problem(error.message));
  }
  return run.flops?.x.length > 1 ? path(run.flops.x, run.flops.y) : null;
}

function paint() {
  const charts = new Map(), several = now.shown.length > 1, look = view();
  const without = [...now.runs.values()].filter((run) => !look.at({ run: run.id }));
  $("without").textContent = without.some((run) => run.flops) ? `no operations recorded by ${without.map((run) => now.names.get(run.id)).join(", ")}` : "";
  for (const run of now.runs.values()) for (const line of run.lines.values()) {
    if (!line.x.length || without.includes(run)) continue;
    const limit = line.name === "curvature/threshold";
    const pooled = ["loss", "accuracy"].includes(groupOf(line.name)), title = limit ? "curvature/sharpness" : pooled && !several ? groupOf(line.name) : line.name;
    const label = [several ? now.names.get(run.id) : "", line.layer || (title === line.name ? (several ? "" : "all") : line.name.split("/").slice(1).join("/"))].filter(Boolean).join(" ");
    if (!charts.has(title)) charts.set(title, []);
    charts.get(title).push({ label: limit ? `${label === "all" || !several ? "" : label + " "}threshold` : label, limit, id: line.id, x: line.x, y: line.y, run: run.id });
  }
  const rank = (t) => { const i = ORDER.indexOf(groupOf(t)); return i < 0 ? 99 : i; };
  const titles = [...charts.keys()].sort((a, b) => rank(a) - rank(b) || groupOf(a).localeCompare(groupOf(b)) || a.localeCompare(b));
  if (titles.some((t) => !now.charts.has(t)) || now.charts.size !== titles.length) {
    $("charts").replaceChildren(); now.charts.clear();
    let group = "";
    for (const title of titles) {
      if (groupOf(title) !== group) { group = groupOf(title); if (title !== group) $("charts").append(make("h2", headingOf(group))); }
      now.charts.set(title, new Chart($("charts"), title, () => now.events.filter((e) => e.class !== "Decision" && e.class !== "Reading"), refine));
    }
  }
  const frame = (c) => { const r = c.box.getBoundingClientRect(); return r.bottom > -400 && r.top < innerHeight + 400; };
  for (const title of titles) { const chart = now.charts.get(title); if (!chart.plot || frame(chart)) chart.draw(charts.get(title), look); }
}

// What a person zoomed into comes again, in ranges as fine as the screen.
async function refine(chart, low, high) {
  const look = view(), fine = new Map();
  try {
    for (const id of now.shown) {
      const lines = chart.lines.filter((line) => line.run === id), at = look.at({ run: id });
      if (!lines.length || !at) continue;
      const last = Math.max(...lines.map((line) => line.x[line.x.length - 1])), from = Math.floor(stepOf(at, low, last)), to = Math.ceil(stepOf(at, high, last));
      const data = await read(`runs/${id}/series?ids=${lines.map((line) => line.id)}&from=${from}&to=${to}`);
      for (const line of lines) fine.set(id + line.id, data[line.id]);
    }
    chart.fine = fine;
    later();
  } catch (error) { problem(error.message); }
}

// events, commands, arrays

async function table() {
  const kinds = ["Intervention", "Request", "Alarm", ...($("decisions").checked ? ["Decision"] : []), ...($("readings").checked ? ["Reading"] : [])];
  let rows = now.events;
  if (kinds.length > 3 && now.shown.length === 1) rows = await read(`runs/${now.shown[0]}/events?kinds=${kinds}`).catch((error) => { problem(error.message); return rows; });
  const wanted = $("filter").value.toLowerCase();
  $("events").replaceChildren(...rows.filter((e) => !wanted || words(e).toLowerCase().includes(wanted)).slice(-300).reverse().map((e) => {
    const row = make("tr"), kind = e.kind ?? e.phase ?? (e.class === "Alarm" ? `alarm: ${e.detector}` : "reading");
    row.title = words(e);
    row.append(make("td", String(e.step)), make("td", kind + (e.status ? " · " + e.status : ""), "mark " + (e.status ?? "")),
      make("td", e.class === "Intervention" ? `${(100 * e.sparsity_before).toFixed(1)} → ${(100 * e.sparsity_after).toFixed(1)}%` : ""),
      make("td", e.energy_before ? `${short(e.energy_before)} → ${short(e.energy_after)}` + (e.energy_injected ? `, ${short(e.energy_injected)} injected` : "") : ""),
      make("td", e.reason ?? (e.entropy != null ? `entropy ${short(e.entropy)}, loss ${short(e.loss)}` : "")));
    return row;
  }));
}

function asked(commands, run) {
  $("asked").replaceChildren(...commands.slice(0, 12).map((c) => { const item = make("li"); item.append(make("b", c.status, c.status), ` ${c.kind} ${JSON.stringify(c.body)}${c.step === null ? "" : ` after step ${c.step}`}${c.reason ? ": " + c.reason : ""}`, make("span", ` (${c.source})`, "soft")); return item; }));
  for (const button of document.querySelectorAll("#forms button")) button.disabled = run.state.status !== "live";
}

function forms() {
  for (const [kind, inputs] of FORMS) {
    const form = make("form"), button = make("button", kind);
    form.dataset.kind = kind;
    form.append(button);
    for (const [name, value] of inputs) { const input = make("input"), label = make("label", name === "layers" ? "in " : name + " ", "soft"); input.name = name; input.value = value; input.placeholder = name === "layers" ? "all layers" : name; input.title = name; input.setAttribute("aria-label", `${kind} ${name}`); if (typeof value === "string") input.classList.toggle("wide", name !== "step"); label.append(input); form.append(label); }
    form.onsubmit = (submit) => { submit.preventDefault(); send(kind, form); };
    $("forms").append(form);
  }
}

async function send(kind, form) {
  const body = {};
  for (const { name, value } of form.querySelectorAll("input")) {
    if (name === "layers") { if (value.trim()) body.layers = value.split(",").map((v) => v.trim()).filter(Boolean); }
    else if (name === "values") body.values = Object.fromEntries(value.split(",").map((part) => { const [k, v] = part.split("="); return [k.trim(), Number(v)]; }));
    else body[name] = value.trim() === "" ? null : Number(value);
  }
  if (["stop", "roll-back"].includes(kind) && !confirm(`Really ${kind}?`)) return;
  try {
    await api(`runs/${now.shown[0]}/commands`, { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify({ kind, body, token: [...crypto.getRandomValues(new Uint8Array(16))].map((b) => b.toString(16).padStart(2, "0")).join("") }) });
    problem();
  } catch (error) { problem(error.message); }
}

function pictures(run) {
  const chosen = $("array").value;
  $("array").replaceChildren(make("option", "choose …"), ...run.arrays.map((a) => { const o = make("option", `${a.name} (step ${a.last})`); o.value = a.name; return o; }));
  if (run.arrays.some((a) => a.name === chosen)) $("array").value = chosen;
}

async function picture() {
  const found = await read(`runs/${now.shown[0]}/array?name=${encodeURIComponent($("array").value)}`).catch((error) => { problem(error.message); return {}; });
  const c = document.createElement("canvas"), g = c.getContext("2d"), soft = getComputedStyle(document.documentElement).getPropertyValue("--blue");
  c.width = 480; c.height = 240; g.fillStyle = soft;
  const [ink, paper] = ["--ink", "--card"].map((name) => getComputedStyle(document.documentElement).getPropertyValue(name));
  if (found.rows) { const most = Math.max(1e-12, ...found.rows.flat()), n = found.rows.length, m = found.rows[0].length; c.height = 480; g.fillStyle = soft; found.rows.forEach((row, i) => row.forEach((v, j) => { g.globalAlpha = Math.max(0, v / most); g.fillRect((j * 480) / m, (i * 480) / n, 480 / m - 1, 480 / n - 1);
    if (m <= 12) { g.globalAlpha = 1; g.fillStyle = v > most / 2 ? paper : ink; g.font = "14px system-ui"; g.textAlign = "center"; g.fillText(short(v), ((j + 0.5) * 480) / m, ((i + 0.5) * 480) / n + 5); g.fillStyle = soft; } })); }
  else if (found.counts) { const most = Math.max(...found.counts, 1); found.counts.forEach((v, i) => g.fillRect(i * 12, 240 - (230 * v) / most, 11, (230 * v) / most)); }
  $("picture").replaceChildren(c, make("p", found.edges ? `step ${found.step}: values from ${short(found.edges[0])} to ${short(found.edges.at(-1))}` + (found.total ? `, ${found.total} in all; not drawn: ${found.zeros} zeros${found.bad ? `, ${found.bad} that are not finite` : ""}` : "") : found.rows ? `step ${found.step}` + ($("array").value.startsWith("confusion/") ? ": rows are true classes, columns predicted" : "") : "", "soft"));
}

// theme, keys

function theme(name) { document.documentElement.dataset.theme = name; localStorage.setItem("theme", name); later(); }
document.documentElement.dataset.theme = localStorage.getItem("theme") ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", (e) => { if (!localStorage.getItem("theme")) { document.documentElement.dataset.theme = e.matches ? "dark" : "light"; later(); } });
const flip = () => theme(document.documentElement.dataset.theme === "dark" ? "light" : "dark");
$("theme").onclick = flip; $("home").onclick = () => go([]); $("compare").onclick = compare;
for (const id of ["axis", "logx", "logy", "smooth"]) $(id).addEventListener("input", later);
for (const id of ["filter", "decisions", "readings"]) $(id).addEventListener("input", table);
$("array").onchange = picture;
addEventListener("scroll", later, { passive: true }); addEventListener("resize", later); addEventListener("hashchange", route);
addEventListener("keydown", (e) => {
  if (e.target.matches("input,select") || e.ctrlKey || e.metaKey || e.altKey) { if (e.key === "Escape") e.target.blur(); return; }
  const keys = { g: () => go([]), t: flip, c: compare, i: () => { $("acts").open = !$("acts").open; }, l: () => { $("logy").checked = !$("logy").checked; later(); }, "/": () => $("filter").focus() };
  if (keys[e.key]) { e.preventDefault(); keys[e.key](); }
});
forms();
if (innerWidth < 700) $("acts").open = false;  // on a phone, charts first
if (!token) problem("The token is missing: open the address that the terminal shows.");
route();
