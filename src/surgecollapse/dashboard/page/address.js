// The address keeps what is looked at: which runs, which axis, which part of it. "#/id,id?axis=time&x=0,100".
const ID = /^[0-9a-f]{12}$/;
export const MOST_RUNS = 30;

export function parse(hash = location.hash) {
  const [path, query] = hash.replace(/^#\/?/, "").split("?");
  const given = new URLSearchParams(query ?? "");
  return { ids: path.split(",").filter((id) => ID.test(id)).slice(0, MOST_RUNS), given };
}

export function link(ids, given = {}) {
  const query = new URLSearchParams(Object.entries(given).filter(([, value]) => value !== "" && value !== null && value !== undefined && value !== false)).toString();
  return "#/" + ids.join(",") + (query ? "?" + query : "");
}

// The view changes in place: no new entry in the history, and no reload.
export function keep(changes) {
  const { ids, given } = parse(), all = { ...Object.fromEntries(given), ...changes };
  history.replaceState(null, "", link(ids, all));
}
