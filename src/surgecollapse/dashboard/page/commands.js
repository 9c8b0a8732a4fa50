// Interventions: a form for each command that the server knows, and what became of those that were sent.
import { $, make } from "/elements.js";
import { problem, read, send, ticket } from "/server.js";

const USUAL = new Map(Object.entries({ "collapse fraction": "0.3", "surge fraction": "0.2", "pump noise_std": "0.1", "set-sparsity sparsity": "0.9", "set-thresholds values": "floor=0.4", "learning-rate factor": "0.5", "cadence every": "100" }));
const ASK_FIRST = ["stop", "roll-back"];
const READ_AS = {
  number: Number, whole: Number, switch: (v) => ["true", "yes", "1", "on"].includes(v.toLowerCase()), text: (v) => v,
  names: (v) => v.split(",").map((part) => part.trim()).filter(Boolean),
  wholes: (v) => v.split(/[\s,]+/).filter(Boolean).map(Number),
  table: (v) => Object.fromEntries(v.split(",").map((part) => { const [k, n] = part.split("="); return [k.trim(), Number(n)]; })),
};

export async function makeForms(run) {
  const { commands } = await read("commands");
  $("forms").replaceChildren(...commands.map((command) => {
    const button = make("button", { textContent: command.kind, title: command.about });
    const form = make("form", { data: { kind: command.kind } }, button);
    for (const value of command.values) {
      const wide = !["number", "whole", "switch"].includes(value.input);
      const input = make("input", { name: value.name, value: USUAL.get(`${command.kind} ${value.name}`) ?? "", placeholder: value.name === "layers" ? "all layers" : value.optional ? "optional" : value.name, title: value.name, className: wide ? "wide" : "", "aria-label": `${command.kind} ${value.name}`, data: { input: value.input } });
      form.append(make("label", { className: "soft" }, value.name === "layers" ? "in " : value.name + " ", input));
    }
    form.onsubmit = (submit) => { submit.preventDefault(); ask(command.kind, form, run()); };
    return form;
  }));
}

async function ask(kind, form, run) {
  const body = {};
  for (const { name, value, dataset } of form.querySelectorAll("input")) if (value.trim() !== "") body[name] = READ_AS[dataset.input](value.trim());
  if (ASK_FIRST.includes(kind) && !confirm(`Really ${kind}?`)) return;
  try { await send(`runs/${run}/commands`, { kind, body, token: ticket() }); problem(); } catch (error) { problem(error.message); }
}

export function showAsked(commands, live) {
  $("asked").replaceChildren(...commands.slice(0, 12).map((c) => make("li", {}, make("span", { textContent: c.id + " ", className: "soft" }), make("b", { textContent: c.status, className: c.status }),
    ` ${c.kind} ${JSON.stringify(c.body)}${c.step === null ? "" : ` after step ${c.step}`}${c.reason ? ": " + c.reason : ""}`, make("span", { textContent: ` (${c.source})`, className: "soft" }))));
  for (const button of document.querySelectorAll("#forms button")) button.disabled = !live;
  $("ended").hidden = live;
}
