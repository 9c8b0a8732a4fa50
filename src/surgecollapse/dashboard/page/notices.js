// The browser tells when a run ends, diverges or falls silent, if a person wants that.
import { $ } from "/elements.js";
import { problem } from "/server.js";

const WORDS = { finished: "has finished", diverged: "has diverged", failed: "has failed", interrupted: "was interrupted", silent: "says nothing any more" };
const seen = new Map();
let wanted = localStorage.getItem("notify") === "1" && "Notification" in window && Notification.permission === "granted";

export const wantsNotices = () => wanted;

export function noticeButton() {
  const button = $("notify");
  const show = () => { button.setAttribute("aria-pressed", wanted); button.title = wanted ? "Notifications are on" : "Notify me when a run ends, stalls or diverges"; };
  button.onclick = async () => {
    if (!("Notification" in window)) { problem("This browser has no notifications."); return; }
    if (!wanted && (await Notification.requestPermission()) !== "granted") { problem("The browser does not allow notifications of this page: allow them in its settings."); return; }
    wanted = !wanted;
    localStorage.setItem("notify", wanted ? "1" : "0");
    show();
  };
  show();
}

// Tell what changed since the last list.
export function notice(runs) {
  for (const run of runs) {
    const before = seen.get(run.id), now = run.state === "alarm" && run.status === "live" ? "alarm" : run.status;
    seen.set(run.id, now);
    const words = now === "alarm" ? "raises an alarm" : WORDS[now];
    if (!wanted || before === undefined || before === now || !words || !["live", "alarm", "silent"].includes(before)) continue;
    const shown = new Notification(`${run.title || run.name} ${words}`, { body: `step ${run.step}${run.accuracy === null ? "" : `, accuracy ${(100 * run.accuracy).toFixed(1)}%`}`, tag: run.id });
    shown.onclick = () => { window.focus(); location.hash = "#/" + run.id; };
  }
}
