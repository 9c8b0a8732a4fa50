// Interventions: a form for each command that the server knows, and what became of those that were sent.
import { $, make } from "/elements.js";
import { problem, read, send, ticket } from "/server.js";

const ASK_FIRST = ["stop", "roll-back"];
const parts = (v) => v.split(",").map((part) => part.trim()).filter(Boolean);
const READ_AS = {
  number: Number, text: (v) => v, names: parts, numbers: (v) => parts(v).map(Number),
  "one or more": (v) => (v.includes(",") ? parts(v).map(Number) : Number(v)),
  table: (v) => Object.fromEntries(v.split(",").map((part) => { const [k, n] = part.split("="); return [k.trim(), Number(n)]; })),
};

export async function makeForms(run) {
  const { commands } = await read("commands");
  $("forms").replaceChildren(...commands.map((command) => {
    const button = make("button", { textContent: command.kind, title: command.about });
    const form = make("form", { data: { kind: command.kind } }, button);
    for (const { name, input, usual, hint, choices } of command.values) {
      const given = { name, "aria-label": `${command.kind} ${name}`, data: { input } };
      const field = choices ? make("select", given, ...choices.map((word) => make("option", { textContent: word }))) : make("input", { ...given, value: usual, placeholder: hint, className: input === "number" ? "" : "wide" });
      form.append(make("label", { className: "soft" }, name === "layers" ? "in " : name + " ", field));
    }
    form.onsubmit = (submit) => { submit.preventDefault(); ask(command.kind, form, run()); };
    return form;
  }));
}

async function ask(kind, form, run) {
  const body = {};
  for (const { name, value, dataset } of form.querySelectorAll("input, select")) if (value.trim() !== "") body[name] = READ_AS[dataset.input](value.trim());
  if (ASK_FIRST.includes(kind) && !confirm(`Really ${kind}?`)) return;
  try { await send(`runs/${run}/commands`, { kind, body, token: ticket() }); problem(); } catch (error) { problem(error.message); }
}

export function showAsked(commands, live) {
  $("asked").replaceChildren(...commands.slice(0, 12).map((c) => make("li", {}, make("span", { textContent: c.id + " ", className: "soft" }), make("b", { textContent: c.status, className: c.status }),
    ` ${c.kind} ${JSON.stringify(c.body)}${c.step === null ? "" : ` after step ${c.step}`}${c.reason ? ": " + c.reason : ""}`, make("span", { textContent: ` (${c.source})`, className: "soft" }))));
  for (const button of document.querySelectorAll("#forms button")) button.disabled = !live;
  $("ended").hidden = live;
}
