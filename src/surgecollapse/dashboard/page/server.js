// What the page asks of its server, with the token that the terminal's address carries after "#".
import { $ } from "/elements.js";

let token = "";

export function takeToken() {
  if (location.hash.length > 1 && !location.hash.startsWith("#/")) {
    sessionStorage.setItem("token", location.hash.slice(1));
    history.replaceState(null, "", "#/");
  }
  token = sessionStorage.getItem("token") ?? "";
  return token;
}

// A person may paste the token, or the whole address of the terminal.
export function giveToken(text) {
  const found = text.trim().match(/[A-Za-z0-9_-]{8,}$/);
  if (found) sessionStorage.setItem("token", (token = found[0]));
  return Boolean(found);
}

export class Refused extends Error {}

export async function api(path, options = {}) {
  const answer = await fetch("/api/" + path, { ...options, headers: { authorization: "Bearer " + token, ...(options.headers ?? {}) } });
  if (answer.ok) return answer;
  const reason = (await answer.json().catch(() => ({}))).error ?? `the server answered ${answer.status}`;
  if (answer.status === 401) { askForToken(); throw new Refused(reason); }
  throw new Error(reason);
}

export const read = async (path) => (await api(path)).json();
export const send = async (path, body) => (await api(path, { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body) })).json();

export const ticket = () => [...crypto.getRandomValues(new Uint8Array(16))].map((b) => b.toString(16).padStart(2, "0")).join("");

export function problem(text) { $("problem").hidden = !text; $("problem").textContent = text ?? ""; }

export function askForToken() { ask(true); $("title").textContent = "Token"; problem(); }
export const gotToken = () => ask(false);
function ask(on) { $("ask").hidden = !on; $("main").hidden = on; }
