// What a person notes about runs, archiving, and throwing away: one dialog.
import { $, make } from "/elements.js";
import { problem, send } from "/server.js";

let afterwards = () => {};
export function onNoted(act) { afterwards = act; }

export function openNotes(runs, act = "notes") {
  if (!runs.length) return;
  const one = runs[0], names = runs.map((run) => run.title || run.name), close = () => $("notes").close();
  const body = { notes: () => form(one, close), archive: () => archive(runs, names, close), delete: () => discard(runs, names, close) }[act]();
  $("notes").replaceChildren(...body);
  $("notes").showModal();
}

async function save(work) {
  try { await work(); problem(); } catch (error) { problem(error.message); }
  afterwards();
}

function form(run, close) {
  const title = make("input", { value: run.title ?? "", placeholder: run.name, maxLength: 120, className: "long" }), tags = make("input", { value: (run.tags ?? []).join(", "), className: "long", placeholder: "best, paper" }), text = make("textarea", { value: run.text ?? "", rows: 6, maxLength: 8000 });
  const boxed = (label, input) => make("label", { className: "field" }, label, input);
  const words = () => ({ title: title.value, text: text.value, tags: tags.value.split(",").map((tag) => tag.trim()).filter(Boolean) });
  const done = make("form", { method: "dialog", onsubmit: (submit) => { submit.preventDefault(); close(); save(() => send(`runs/${run.id}/notes`, words())); } },
    boxed("Title (the folder keeps its name)", title), boxed("Tags, separated by commas", tags), boxed("Notes", text),
    make("p", { className: "tools" }, make("button", { textContent: "Save", type: "submit" }), make("button", { textContent: "Cancel", type: "button", onclick: close }),
      make("button", { textContent: run.archived ? "Take out of the archive" : "Archive", type: "button", onclick: () => { close(); save(() => send(`runs/${run.id}/notes`, { archived: !run.archived })); } }),
      make("button", { textContent: "Delete …", type: "button", className: "danger", disabled: run.status === "live", title: run.status === "live" ? "It still trains: stop it first" : "", onclick: () => { close(); openNotes([run], "delete"); } })));
  return [make("h2", { textContent: `Notes of ${run.name}` }), done];
}

function archive(runs, names, close) {
  const back = runs.every((run) => run.archived);
  return question(back ? "Take out of the archive?" : "Archive these runs?", names, "Archived runs stay where they are; the list hides them unless “archived” is ticked.", back ? "Take out" : "Archive", close, async () => { for (const run of runs) await send(`runs/${run.id}/notes`, { archived: !back }); });
}

function discard(runs, names, close) {
  const still = runs.filter((run) => run.status === "live");
  if (still.length) return question("These runs still train", still.map((run) => run.name), "Stop them first; then they can be deleted.", "", close);
  return question(`Delete ${runs.length === 1 ? "this run" : `these ${runs.length} runs`}?`, names, "Their folders are moved to .trash in the folder of runs, from where you can move them back.", "Delete", close, async () => { for (const run of runs) await send(`runs/${run.id}/trash`, { name: run.name.split("/").pop() }); });
}

function question(title, names, about, yes, close, work) {
  const buttons = [make("button", { textContent: "Cancel", onclick: close })];
  if (yes) buttons.unshift(make("button", { textContent: yes, className: yes === "Delete" ? "danger" : "", onclick: () => { close(); save(work); } }));
  return [make("h2", { textContent: title }), make("ul", {}, ...names.slice(0, 20).map((name) => make("li", { textContent: name })), names.length > 20 ? make("li", { textContent: `and ${names.length - 20} more` }) : ""), make("p", { textContent: about }), make("p", { className: "tools" }, ...buttons)];
}
