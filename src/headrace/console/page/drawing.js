// Drawing: the page is made anew every two seconds, unless somebody is writing in it.

import { KEY, Refused } from "./api.js";

const EVERY_MS = 2000;
const main = document.getElementById("main");
let drawing = 0;
let views = { view: async () => [], askForKey: () => [] };

export function start(given) {
  views = given;
  document.getElementById("forget").addEventListener("click", () => { sessionStorage.removeItem(KEY); draw(); });
  window.addEventListener("hashchange", () => { document.activeElement?.blur(); tell(""); clean(); draw(); });
  main.addEventListener("input", (event) => event.target.closest("form")?.setAttribute("data-touched", ""));
  setInterval(() => { if (sessionStorage.getItem(KEY) && !isBusy() && !document.hidden) draw(); }, EVERY_MS);
  setInterval(watchHealth, EVERY_MS);
  watchHealth();
  draw();
}

export async function guarded(work) {
  const problem = document.getElementById("problem");
  try {
    const result = await work();
    problem.hidden = true;
    return result;
  } catch (error) {
    if (error instanceof Refused) {
      sessionStorage.removeItem(KEY);
      return views.askForKey(`That key was refused: ${error.message}`);
    }
    problem.textContent = error.message;
    problem.hidden = false;
    return null;
  }
}

// Does something, tells what became of it, and draws the page as it is then; a problem stays to be read.
export async function act(work) {
  tell("");
  const problem = document.getElementById("problem");
  const told = await guarded(work);
  const failed = problem.hidden ? "" : problem.textContent;
  clean();
  await draw();
  if (typeof told === "string") tell(told);
  if (failed) {
    problem.textContent = failed;
    problem.hidden = false;
  }
}

export async function draw() {
  const mine = ++drawing;
  document.getElementById("forget").hidden = !sessionStorage.getItem(KEY);
  for (const one of document.querySelectorAll("nav a")) {
    const here = one.hash === "#/" ? /^(#\/?)?$/.test(location.hash) : location.hash.startsWith(one.hash);
    here ? one.setAttribute("aria-current", "page") : one.removeAttribute("aria-current");
  }
  const content = sessionStorage.getItem(KEY) ? await guarded(views.view) : views.askForKey();
  if (mine !== drawing || content === null || isBusy()) return;
  const opened = [...main.querySelectorAll("details")].map((one) => one.open);
  main.replaceChildren(...content.flat().filter((child) => child !== null));
  [...main.querySelectorAll("details")].forEach((one, place) => { one.open = opened[place] ?? false; });
  document.getElementById("forget").hidden = !sessionStorage.getItem(KEY);
}

function tell(text) {
  const done = document.getElementById("done");
  done.textContent = text;
  done.hidden = !text;
}

function clean() {
  for (const form of main.querySelectorAll("form[data-touched]")) form.removeAttribute("data-touched");
}

function isBusy() {
  const active = document.activeElement;
  const writes = main.contains(active) && ["INPUT", "SELECT", "TEXTAREA"].includes(active.tagName);
  return writes || main.querySelector("form[data-touched]") !== null;
}

async function watchHealth() {
  const shown = document.getElementById("health");
  try {
    const answer = await fetch("/health/system");
    const missing = (await answer.json()).missing ?? [];
    shown.textContent = missing.length ? `missing: ${missing.map((part) => part.part).join(", ")}` : "all alive";
    shown.className = missing.length ? "missing" : "ok";
  } catch {
    shown.textContent = "the API does not answer";
    shown.className = "missing";
  }
}
