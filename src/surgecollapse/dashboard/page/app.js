// Where the page is: a list of runs, their settings, or the charts of some runs; what it hears, and its keys.
import { $, make, percent, short, sleep } from "/elements.js";
import { keep, link, parse } from "/address.js";
import { Board } from "/board.js";
import { words } from "/charts.js";
import { runColor } from "/colors.js";
import { branchForms, showTwins } from "/branches.js";
import { makeForms, showAsked } from "/commands.js";
import { showDifferences, showDocuments, showFacts } from "/facts.js";
import { notice, noticeButton, wantsNotices } from "/notices.js";
import { Parameters } from "/parameters.js";
import { offerArrays, showArray } from "/pictures.js";
import { onNoted, openNotes } from "/run_notes.js";
import { RunsTable } from "/runs_table.js";
import { append } from "/series.js";
import { Refused, api, askForToken, giveToken, gotToken, problem, read, takeToken } from "/server.js";

const now = { runs: new Map(), shown: [], names: new Map(), groups: new Map(), generation: 0, events: [] };
const board = new Board(now);
const table = new RunsTable((ids) => go(ids));
const parameters = new Parameters(table, (ids) => go(ids));
const go = (ids, given) => { location.hash = link(ids, given); };
const only = () => now.runs.get(now.shown[0]);

// the list of runs

let listed = { mark: "", runs: [], varying: [] };
async function look() {
  const found = await read("runs" + (listed.mark ? `?mark=${listed.mark}` : ""));
  if (found.same) return false;
  listed = found;
  now.names = new Map(found.runs.map((run) => [run.id, run.title || run.name]));
  now.groups = new Map(found.runs.map((run) => [run.id, run.group]));
  notice(found.runs);
  return true;
}

async function list(generation) {
  let first = true;
  while (generation === now.generation) {
    try {
      const news = await look();
      if (generation !== now.generation) return;
      if (news || first) { table.take(listed); $("where").textContent = listed.folder; if (!$("settings").hidden) await parameters.show(); }
      first = false;
      problem(); $("link").textContent = `${listed.runs.length} runs`;
    } catch (error) {
      if (error instanceof Refused) return;
      problem(error.message); $("link").textContent = "no server, trying again";
    }
    await sleep(2000);
  }
}

// Also while charts are shown: for those who want to be told.
setInterval(() => { if (wantsNotices() && now.shown.length) look().catch(() => {}); }, 5000);

// one run, or several

async function route() {
  const generation = ++now.generation, { ids, given } = parse();
  for (const run of now.runs.values()) run.abort?.abort();
  now.runs.clear(); now.shown = ids; now.events = [];
  for (const id of ["asked", "story", "documents", "tables", "picture", "events", "differences", "twins", "launched"]) $(id).replaceChildren();
  board.restore();
  const view = given.get("view") ?? "";
  $("list").hidden = ids.length > 0; $("plots").hidden = !ids.length; $("settings").hidden = ids.length > 0 || view !== "parameters";
  $("detail").hidden = $("more").hidden = ids.length !== 1; $("several").hidden = ids.length < 2;
  $("pooled").hidden = ids.length < 2;
  $("parameters").setAttribute("aria-pressed", !$("settings").hidden);
  $("title").replaceChildren(...(ids.length ? [] : ["Runs"]));
  document.title = "surgecollapse";
  if (!ids.length) { table.restore(); return list(generation); }
  try { if (!now.names.size || !ids.every((id) => now.names.has(id))) await look(); } catch (error) { if (error instanceof Refused) return; problem(error.message); }
  if (generation !== now.generation) return;
  titles();
  for (const id of ids) follow(id, generation);
}

function titles() {
  $("title").replaceChildren(...now.shown.map((id) => { const swatch = make("span", { className: "swatch" }); swatch.style.background = runColor(id); return make("span", { className: "named" }, swatch, now.names.get(id) ?? id); }));
  document.title = now.shown.length === 1 ? `${now.names.get(now.shown[0]) ?? ""} · surgecollapse` : "surgecollapse";
}

async function load(id) {
  const found = await read("runs/" + id), run = now.runs.get(id);
  if (!run) return;
  const { series, events, commands, ...facts } = found;
  Object.assign(run, facts, { lines: new Map(), readings: await read(`runs/${id}/readings`), readAt: Date.now(), flops: undefined });
  await learn(run, series);
  if (now.shown.length === 1) {
    now.events = events;
    strip(run); tell(run); showAsked(commands, run.state.status === "live"); showEvents(); offerArrays(run.arrays); showFacts(run); showDocuments(run); showTwins(run).catch((error) => problem(error.message));
    if (run.state.status !== "live") $("acts").open = false;
  } else if ([...now.runs.values()].every((one) => one.config)) showDifferences([...now.runs.values()], now.names);
  board.paint();
}

async function learn(run, series) {
  const fresh = series.filter((s) => !run.lines.has(s.id));
  for (let i = 0; i < fresh.length; i += 100) {
    const part = fresh.slice(i, i + 100), data = await read(`runs/${run.id}/series?ids=${part.map((s) => s.id)}`);
    for (const s of part) run.lines.set(s.id, { ...s, run: run.id, ...data[s.id] });
  }
  for (const line of run.readings) Object.assign(line, { run: run.id, id: `${line.name}|${line.layer}` });
}

// Readings that came since: a few times a minute is enough for what changes that slowly.
async function moreReadings(run) {
  if (Date.now() - run.readAt < 2000) return;
  run.readAt = Date.now();
  const last = Math.max(-1, ...run.readings.filter((line) => line.kind === "reading").map((line) => line.x[line.x.length - 1]));
  for (const fresh of await read(`runs/${run.id}/readings?after=${last}`)) {
    const line = run.readings.find((one) => one.name === fresh.name && one.layer === fresh.layer);
    if (line) append(line, fresh);
    else run.readings.push({ ...fresh, run: run.id, id: `${fresh.name}|${fresh.layer}` });
  }
}

async function follow(id, generation) {
  const run = { id, lines: new Map(), readings: [] };
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
    } catch (error) {
      if (error instanceof Refused) return;
      if (generation === now.generation && error.name !== "AbortError") problem(`${error.message}: trying again`);
    }
    clearTimeout(timer);
    if (generation !== now.generation) return;
    $("link").textContent = "no server, trying again";
    await sleep(wait);
    wait = Math.min(wait * 1.6, 3000);
  }
}

async function take(run, message, generation) {
  if (generation !== now.generation) return;
  if (message.reset || (message.state && run.state && message.state.status !== run.state.status)) return load(run.id);
  if (message.series) await learn(run, message.series);
  for (const [id, fresh] of Object.entries(message.points ?? {})) { const line = run.lines.get(+id); if (line) append(line, fresh); }
  if (message.state) run.state = message.state;
  if ((message.events ?? []).some((event) => event.class === "Intervention")) run.flops = undefined;
  if (now.shown.length === 1) {
    const known = new Set(now.events.map((event) => event.id)), fresh = (message.events ?? []).filter((event) => !known.has(event.id));
    now.events.push(...fresh);
    if (message.state) strip(run);
    if (message.commands) showAsked(message.commands, run.state.status === "live");
    if (fresh.length) showEvents();
    if (fresh.some((event) => ["inspect", "rank-samples"].includes(event.kind))) { run.arrays = (await read("runs/" + run.id)).arrays; offerArrays(run.arrays); if ($("array").value) showArray(run.id, run.arrays); }
  }
  if (message.state) await moreReadings(run);
  if (message.points || message.events) board.later();
}

function tell(run) {
  $("story").replaceChildren(...(run.sentences ?? []).map((text) => make("p", { textContent: text })));
  if (run.baseline) $("story").append(make("p", {}, make("a", { href: link([run.id, run.baseline]), textContent: `Compare with ${now.names.get(run.baseline) ?? "the plain run"}` })));
}

function strip(run) {
  const s = run.state;
  const facts = [["run", s.status + (s.modified_by_user ? ", modified" : ""), s.status], ["state", s.name, "state"], ["step", s.total ? `${s.step} / ${s.total}` : String(s.step)],
    ["phase", (s.held ? "policy paused · " : "") + (s.paused ? "paused · " : "") + (s.phase ?? "–")], ["next decision", s.next === null ? "–" : `step ${s.next}`], ["sparsity / target", percent(s.sparsity) + (s.target && s.phase !== "hold" ? ` / ${percent(s.target)}` : "")], ["entropy", short(s.entropy)], ["loss", short(s.loss)],
    ["last act", s.last ? `${s.last.kind} at ${s.last.step}` : "–"]];
  if (s.skipped) facts.push(["damaged rows", `${s.skipped} left out`, "failed"]);
  if (s.alarm) facts.push(["alarm", `${s.alarm.forecast}, says ${s.alarm.detector} at ${s.alarm.step}`, s.alarm.forecast === "generalizes" ? "live" : "failed", s.alarm.reason, "why"]);
  facts.push([`why ${s.name}`, s.cause, "", "", "why"]);
  if (s.why && !s.cause.endsWith(s.why)) facts.push(["last decision", s.why, "", "", "why"]);
  $("strip").dataset.state = s.name;
  $("strip").replaceChildren(...facts.map(([name, value, cls, title, wide]) => make("div", { className: wide ?? "", title: title ?? "" }, make("span", { textContent: name }), make("b", { textContent: value, className: cls ?? "" }))));
}

// events

async function showEvents() {
  const kinds = ["Intervention", "Request", "Alarm", ...($("decisions").checked ? ["Decision"] : []), ...($("readings").checked ? ["Reading"] : [])];
  let rows = now.events;
  if (kinds.length > 3 && now.shown.length === 1) rows = await read(`runs/${now.shown[0]}/events?kinds=${kinds}`).catch((error) => { problem(error.message); return rows; });
  const wanted = $("filter").value.toLowerCase(), found = rows.filter((e) => !wanted || words(e).toLowerCase().includes(wanted));
  const cut = rows.length >= 500 ? `older than step ${rows[0].step}: neither listed nor drawn` : "";
  $("quiet").textContent = found.length ? cut : "nothing to list";
  $("events").replaceChildren(...found.slice(-300).reverse().map((e) => {
    const kind = e.kind ?? e.phase ?? (e.class === "Alarm" ? `alarm: ${e.detector}` : "reading");
    const energy = e.energy_before ? `${short(e.energy_before)} → ${short(e.energy_after)}` + (e.energy_injected ? `, ${short(e.energy_injected)} injected` : "") : "";
    const cells = [String(e.step), kind + (e.status ? " · " + e.status : ""), e.class === "Intervention" ? `${(100 * e.sparsity_before).toFixed(1)} → ${(100 * e.sparsity_after).toFixed(1)}%` : "", energy, e.reason ?? (e.entropy != null ? `entropy ${short(e.entropy)}, loss ${short(e.loss)}` : "")];
    return make("tr", { title: words(e) }, ...cells.map((text, i) => make("td", { textContent: text, className: i === 1 ? "mark " + (e.status ?? "") : "" })));
  }));
}

// theme, keys

function theme(name) { document.documentElement.dataset.theme = name; localStorage.setItem("theme", name); recolor(); }
function recolor() { if (now.shown.length) { titles(); board.later(); } else { table.lines.clear(); table.draw(); } }
const preferred = matchMedia("(prefers-color-scheme: dark)");
document.documentElement.dataset.theme = localStorage.getItem("theme") ?? (preferred.matches ? "dark" : "light");
preferred.addEventListener("change", (e) => { if (!localStorage.getItem("theme")) { document.documentElement.dataset.theme = e.matches ? "dark" : "light"; recolor(); } });
const flip = () => theme(document.documentElement.dataset.theme === "dark" ? "light" : "dark");
const toggle = (id) => { $(id).checked = !$(id).checked; $(id).dispatchEvent(new Event("input")); };
const change = (id) => { if (!$("detail").hidden) $(id).open = !$(id).open; };
const hasList = () => !now.shown.length;

$("theme").onclick = flip; $("home").onclick = () => go([]);
$("helps").onclick = () => $("help").showModal();
$("parameters").onclick = () => { const on = $("settings").hidden; keep({ view: on ? "parameters" : "" }); $("settings").hidden = !on; $("parameters").setAttribute("aria-pressed", on); if (on) parameters.show().catch((error) => problem(error.message)); };
$("note").onclick = () => { const row = listed.runs.find((run) => run.id === now.shown[0]); if (row) openNotes([row]); };
for (const id of ["search", "status", "archived"]) $(id).addEventListener("input", () => { if (!$("settings").hidden) parameters.draw(); });
for (const id of ["filter", "decisions", "readings"]) $(id).addEventListener("input", showEvents);
$("array").onchange = () => showArray(only().id, only().arrays);
for (const button of document.querySelectorAll("dialog .close")) button.onclick = () => button.closest("dialog").close();
onNoted(async () => {
  try { await look(); } catch (error) { problem(error.message); }
  if (hasList()) table.take(listed);
  else if (now.shown.every((id) => now.names.has(id))) titles();
  else go([]);
});
addEventListener("scroll", () => board.later(), { passive: true }); addEventListener("resize", () => board.later()); addEventListener("hashchange", start);
const KEYS = {
  g: () => go([]), t: flip, i: () => change("acts"), e: () => change("about"), l: () => toggle("logy"), p: () => { if (hasList()) $("parameters").click(); }, z: () => board.zoomTo(),
  c: () => { if (hasList()) table.compare(); }, n: () => { if (now.shown.length === 1) $("note").click(); }, "?": () => $("help").showModal(),
  "/": () => (hasList() ? $("search") : $("find")).focus(), f: () => { if (now.shown.length === 1) $("filter").focus(); },
};
addEventListener("keydown", (e) => {
  if (e.ctrlKey || e.metaKey || e.altKey || document.querySelector("dialog[open]")) return;
  // A box that was just ticked has the focus, and takes no letters.
  const typing = e.target.matches("select, textarea, input:not([type=checkbox]):not([type=range])");
  if (typing) { if (e.key === "Escape") e.target.blur(); return; }
  if (Object.hasOwn(KEYS, e.key)) { e.preventDefault(); KEYS[e.key](); }
});

function start() {
  if (!takeToken()) { askForToken(); return; }
  gotToken();
  if (!$("forms").childElementCount) makeForms(() => now.shown[0]).catch((error) => { if (!(error instanceof Refused)) problem(error.message); });
  route();
}
$("ask").onsubmit = (submit) => { submit.preventDefault(); if (giveToken($("token").value)) { $("token").value = ""; start(); } };
noticeButton();
branchForms(only);
if (innerWidth < 700) $("acts").open = false;  // on a phone, charts first
start();
