// Branches of a run and twins without an intervention: asked for here, trained by processes of their own.
import { $, make, short, sleep } from "/elements.js";
import { problem, read, send, ticket } from "/server.js";

const value = (text) => { try { return JSON.parse(text); } catch { return text; } };
const settings = (text) => Object.fromEntries(text.split(",").map((part) => part.split("=").map((word) => word.trim())).filter(([key]) => key).map(([key, v]) => [key, value(v ?? "")]));

export function branchForms(run) {
  const start = (what, body) => async (submit) => {
    submit.preventDefault();
    $("launched").textContent = "starting …";
    try { const found = await send(`runs/${run().id}/${what}`, { ...body(submit.target.elements), token: ticket() }); $("launched").textContent = `${found.name} trains now, in a folder beside this run.`; problem(); if (what === "twins") await result(run, run(), found.name); }
    catch (error) { $("launched").textContent = ""; problem(error.message); }
  };
  const input = (name, text, about, more = {}) => make("label", { className: "soft" }, text + " ", make("input", { name, title: about, ...more }));
  $("branch").replaceChildren(
    make("form", { onsubmit: start("forks", (e) => ({ at: Number(e.at.value), changes: settings(e.changes.value) })) }, make("button", { textContent: "branch", title: "Train on from this step, with other settings" }), input("at", "at step", "step", { required: true, type: "number", min: 0 }), input("changes", "with", "settings, as in lr=0.001, dropout=0.2", { className: "wide", placeholder: "lr=0.001" })),
    make("form", { onsubmit: start("twins", (e) => ({ seeds: Number(e.seeds.value || 1), ...(e.id.value ? { intervention: Number(e.id.value) } : {}) })) }, make("button", { textContent: "twin", title: "Train again without one intervention" }), input("id", "without intervention", "number of the command; empty: the last one", { type: "number", min: 1, placeholder: "last" }), input("seeds", "seeds", "pairs of runs", { type: "number", min: 1, max: 100, value: 1 })));
}

// The result is shown as soon as it is there.
async function result(shown, run, name) {
  for (;;) {
    await sleep(3000);
    if (shown() !== run) return;
    if ((await read(`runs/${run.id}/twins`)).twins.some((twin) => twin.name === name)) break;
  }
  $("launched").textContent = `${name} is ready.`;
  await showTwins(run);
}

export async function showTwins(run) {
  const { twins } = await read(`runs/${run.id}/twins`);
  $("twins").replaceChildren(...twins.slice(0, 5).map((twin) => make("div", {}, make("p", {}, make("b", { textContent: twin.name + ": " }), String(twin.sentence ?? "")),
    make("table", {}, make("tbody", {}, ...(twin.final ?? []).slice(0, 12).map((row) => make("tr", {}, make("th", { textContent: row.name, scope: "row" }), make("td", { textContent: `${short(row.with_it)} with, ${short(row.without)} without` }), make("td", { textContent: `${short(row.difference)}${row.half == null ? "" : " ± " + short(row.half)}` }))))))));
}
