// Talking to the API: with the key of this tab, and nothing else.

export const KEY = "headrace.key";
const HEALTH = "/health/system"; // answers 503 with what is missing

export class Refused extends Error {}

export async function call(method, path, body) {
  const headers = { Authorization: `Bearer ${sessionStorage.getItem(KEY)}` };
  if (body !== undefined) headers["Content-Type"] = "application/json";
  const answer = await fetch(path, { method, headers, body: body === undefined ? undefined : JSON.stringify(body) });
  const found = await answer.json();
  if (answer.status === 401) throw new Refused(found.detail);
  if (!answer.ok && path !== HEALTH) throw new Error(`${method} ${path}: ${found.detail ?? answer.status}`);
  return found;
}

export const read = (path) => call("GET", path);

export function query(values) {
  const given = Object.entries(values).filter(([, value]) => value);
  return given.length ? "?" + new URLSearchParams(given) : "";
}
