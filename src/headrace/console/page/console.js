// The operator's pages: three views over the public API, drawn anew every two seconds.
// Every text from the API enters the page as text, never as markup.

const KEY = "headrace.key";
const STATES = ["scheduled", "pending", "queued", "running", "retrying", "succeeded", "dead", "cancelled", "expired"];
const FINISHED = new Set(["succeeded", "dead", "cancelled", "expired"]);
const EVERY_MS = 2000;

const main = document.getElementById("main");
let drawing = 0;

class Refused extends Error {}

// -- talking to the API

async function call(method, path) {
  const answer = await fetch(path, { method, headers: { Authorization: `Bearer ${sessionStorage.getItem(KEY)}` } });
  const body = await answer.json();
  if (answer.status === 401) throw new Refused(body.detail);
  if (!answer.ok && answer.status !== 503) throw new Error(`${method} ${path}: ${body.detail ?? answer.status}`);
  return body;
}

const read = (path) => call("GET", path);

function query(values) {
  const given = Object.entries(values).filter(([, value]) => value);
  return given.length ? "?" + new URLSearchParams(given) : "";
}

// -- building the page

function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else if (value !== null && value !== false) made.setAttribute(key, value === true ? "" : value);
  }
  made.append(...children.flat().filter((child) => child !== null).map((child) => (child instanceof Node ? child : String(child))));
  return made;
}

function table(columns, rows, empty) {
  if (!rows.length) return element("p", { class: "empty" }, empty);
  const head = element("tr", {}, columns.map((name) => element("th", { scope: "col" }, name)));
  const body = rows.map((cells) => element("tr", {}, cells.map((cell) => element("td", { class: typeof cell === "number" ? "number" : null }, cell))));
  return element("div", { class: "scroll" }, element("table", {}, element("thead", {}, head), element("tbody", {}, body)));
}

const state = (name) => element("span", { class: `state ${name}` }, name);
const link = (href, text) => element("a", { href }, text);
const moment = (at) => (at ? new Date(at).toLocaleString(undefined, { hour12: false }) : "–");
const json = (value) => element("pre", {}, JSON.stringify(value, null, 2));
const seconds = (value) => (value === null || value === undefined ? "–" : value < 1 ? "under 1 s" : value < 120 ? `${Math.round(value)} s` : `${Math.round(value / 60)} min`);
const jobLink = (id) => link(`#/jobs/${id}`, id);

function facts(pairs) {
  return element("dl", {}, pairs.filter(([, value]) => value !== null && value !== undefined && value !== "").flatMap(([name, value]) => [element("dt", {}, name), element("dd", {}, value)]));
}

function action(label, path, confirmation) {
  const press = async (event) => {
    if (confirmation && !window.confirm(confirmation)) return;
    event.target.disabled = true;
    await guarded(() => call("POST", path));
    await draw();
  };
  return element("button", { type: "button", onclick: press }, label);
}

// -- the views

async function system() {
  const [health, queues, workers, subscriptions] = await Promise.all([
    read("/health/system"), read("/v1/queues?limit=200"), read("/v1/workers?limit=200"), read("/v1/subscriptions?limit=200"),
  ]);
  const missing = (health.missing ?? []).map((part) => [state("missing"), part.part, part.message, moment(part.since)]);
  const counted = (queue) => STATES.filter((name) => queue.counts[name]).flatMap((name) => [link(`#/jobs${query({ state: name, queue: queue.name })}`, `${queue.counts[name]} ${name}`), " "]);
  return [
    element("h1", {}, "System"),
    missing.length ? table(["", "part", "what is missing", "since"], missing, "") : element("p", { class: "ok" }, "Every part is alive."),
    element("h2", {}, "Queues"),
    table(["queue", "jobs", "oldest pending", "workers", ""], queues.items.map((queue) => [
      link(`#/jobs${query({ queue: queue.name })}`, queue.name), element("span", {}, counted(queue)),
      seconds(queue.oldest_pending_age_seconds), Array.isArray(queue.workers) ? queue.workers.length : queue.workers,
      queue.paused ? element("span", {}, state("pending"), " paused ", action("Resume", `/v1/queues/${encodeURIComponent(queue.name)}/resume`))
        : action("Pause", `/v1/queues/${encodeURIComponent(queue.name)}/pause`, `Pause the queue ${queue.name}? Its jobs wait until it is resumed.`),
    ]), "No queue yet: the first job makes one."),
    element("h2", {}, "Subscriptions"),
    table(["subscription", "kind", "lag", "in flight", "retrying", "dead", "oldest unhandled"], subscriptions.items.map((one) => [
      one.name, one.kind, one.lag, one.in_flight, one.retrying,
      one.dead ? link(`#/jobs${query({ state: "dead", task: "headrace.deliver" })}`, one.dead) : 0, seconds(one.oldest_unhandled_age_seconds),
    ]), "No application subscribes to anything."),
    element("h2", {}, "Workers"),
    table(["worker", "host", "process", "queues", "slots", "since"], workers.items.map((one) => [
      element("code", {}, one.id), one.host ?? "", one.pid ?? "", one.queues ? one.queues.join(", ") : "all", one.slots ?? "", moment(one.started_at),
    ]), "No worker is alive: jobs wait until one is."),
  ];
}

async function jobs(values) {
  const page = await read("/v1/jobs" + query({ ...values, limit: "50" }));
  const rows = page.items.map((job) => [
    state(job.state), jobLink(job.id), job.task, job.queue, `${job.attempt} of ${job.max_attempts}`, moment(job.created_at),
    job.errors.length ? element("span", { class: "quiet" }, job.errors.at(-1).message.slice(0, 80)) : "",
  ]);
  return [
    element("h1", {}, "Jobs"),
    filters("#/jobs", values, [["state", STATES], ["task"], ["queue"], ["tag"], ["trace_id"]]),
    table(["state", "job", "task", "queue", "attempt", "created", "last error"], rows, "No job fits."),
    older("#/jobs", values, page),
  ];
}

async function job(id) {
  const found = await read(`/v1/jobs/${id}`);
  const why = FINISHED.has(found.state) ? null : await read(`/v1/jobs/${id}/explain`);
  const reasons = (why?.reasons ?? []).map((reason) => [element("code", {}, reason.code), reason.message]);
  return [
    element("h1", {}, `${found.task} `, state(found.state)),
    element("div", { class: "actions" },
      ["dead", "cancelled", "expired"].includes(found.state) ? action("Retry", `/v1/jobs/${id}/retry`) : null,
      FINISHED.has(found.state) ? null : action("Cancel", `/v1/jobs/${id}/cancel`, "Cancel this job?")),
    reasons.length ? element("h2", {}, "Why it is not running") : null,
    reasons.length ? table(["reason", "what it means"], reasons, "") : null,
    facts([
      ["id", element("code", {}, found.id)], ["queue", link(`#/jobs${query({ queue: found.queue })}`, found.queue)], ["priority", found.priority],
      ["attempt", `${found.attempt} of ${found.max_attempts}`], ["created", moment(found.created_at)], ["runs at", moment(found.run_at)],
      ["started", moment(found.started_at)], ["finished", moment(found.finished_at)],
      ["progress", found.progress ? `${found.progress.done} of ${found.progress.total} ${found.progress.note}` : null],
      ["tags", found.tags.join(", ")], ["unique key", found.unique_key],
      ["trace", link(`#/jobs${query({ trace_id: found.trace_id })}`, found.trace_id)],
    ]),
    element("h2", {}, "Arguments"), json(found.args),
    found.state === "succeeded" ? element("h2", {}, "Result") : null, found.state === "succeeded" ? json(found.result) : null,
    found.errors.length ? element("h2", {}, "Attempts that did not succeed") : null,
    found.errors.map((error) => element("details", {},
      element("summary", {}, `attempt ${error.attempt}, ${moment(error.at)}: ${error.type}: ${error.message}`), element("pre", {}, error.traceback || "no traceback"))),
  ];
}

async function events(values) {
  const page = await read("/v1/events" + query({ ...values, limit: "50" }));
  const rows = page.items.map((event) => [
    link(`#/events/${event.id}`, event.id), event.type, event.subject ?? "", `${event.lane} · ${event.position ?? "on its way"}`, moment(event.time),
  ]);
  return [
    element("h1", {}, "Events"),
    filters("#/events", values, [["type"], ["subject"], ["trace_id"]]),
    table(["event", "type", "subject", "lane · position", "time"], rows, "No event fits."),
    older("#/events", values, page),
  ];
}

async function event(id) {
  const found = await read(`/v1/events/${id}`);
  const rows = found.deliveries.map((one) => [state(one.state), one.subscription, one.attempts, one.job_id ? jobLink(one.job_id) : "", one.last_error ?? ""]);
  return [
    element("h1", {}, found.type),
    facts([
      ["id", element("code", {}, found.id)], ["source", found.source],
      ["subject", found.subject ? link(`#/events${query({ subject: found.subject })}`, found.subject) : null],
      ["time", moment(found.time)], ["lane · position", `${found.lane} · ${found.position ?? "on its way"}`],
      ["trace", link(`#/events${query({ trace_id: found.trace_id })}`, found.trace_id)],
    ]),
    element("h2", {}, "Deliveries"), table(["state", "subscription", "attempts", "job", "last error"], rows, "Nobody subscribes to this type."),
    element("h2", {}, "Data"), json(found.data),
  ];
}

function filters(base, values, fields) {
  const submit = (submitted) => {
    submitted.preventDefault();
    location.hash = base + query(Object.fromEntries(new FormData(submitted.target)));
  };
  const inputs = fields.map(([name, choices]) => element("label", {}, name.replace("_", " "), choices
    ? element("select", { name }, element("option", { value: "" }, "any"), choices.map((one) => element("option", { value: one, selected: values[name] === one }, one)))
    : element("input", { name, value: values[name] ?? "", autocomplete: "off" })));
  return element("form", { onsubmit: submit, "data-keep": base }, inputs, element("button", {}, "Filter"));
}

function older(base, values, page) {
  return page.next_cursor ? element("p", {}, link(base + query({ ...values, cursor: page.next_cursor }), "Older")) : null;
}

function askForKey(reason) {
  const submit = (submitted) => {
    submitted.preventDefault();
    sessionStorage.setItem(KEY, new FormData(submitted.target).get("key").trim());
    draw();
  };
  return [
    element("h1", {}, "An API key opens the console"),
    element("p", { class: "quiet" }, reason ?? "headrace up prints one; headrace keys create makes others. It is kept until this tab is closed."),
    element("form", { onsubmit: submit, "data-keep": "key" }, element("label", {}, "API key", element("input", { name: "key", type: "password", required: true, autocomplete: "off", size: "48" })), element("button", {}, "Open")),
  ];
}

// -- drawing

async function view() {
  const [path, search] = location.hash.replace(/^#/, "").split("?");
  const values = Object.fromEntries(new URLSearchParams(search));
  const [, page, id] = path.split("/");
  if (page === "jobs") return id ? job(id) : jobs(values);
  if (page === "events") return id ? event(id) : events(values);
  return system();
}

async function guarded(work) {
  const problem = document.getElementById("problem");
  try {
    const result = await work();
    problem.hidden = true;
    return result;
  } catch (error) {
    if (error instanceof Refused) {
      sessionStorage.removeItem(KEY);
      return askForKey(`That key was refused: ${error.message}`);
    }
    problem.textContent = error.message;
    problem.hidden = false;
    return null;
  }
}

function isBusy() {
  const active = document.activeElement;
  return main.contains(active) && ["INPUT", "SELECT"].includes(active.tagName);
}

async function draw() {
  const mine = ++drawing;
  document.getElementById("forget").hidden = !sessionStorage.getItem(KEY);
  for (const one of document.querySelectorAll("nav a")) {
    const here = one.hash === "#/" ? /^(#\/?)?$/.test(location.hash) : location.hash.startsWith(one.hash);
    here ? one.setAttribute("aria-current", "page") : one.removeAttribute("aria-current");
  }
  const content = sessionStorage.getItem(KEY) ? await guarded(view) : askForKey();
  if (mine !== drawing || content === null) return;
  const opened = [...main.querySelectorAll("details")].map((one) => one.open);
  main.replaceChildren(...content.flat().filter((child) => child !== null));
  [...main.querySelectorAll("details")].forEach((one, place) => { one.open = opened[place] ?? false; });
  document.getElementById("forget").hidden = !sessionStorage.getItem(KEY);
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

document.getElementById("forget").addEventListener("click", () => { sessionStorage.removeItem(KEY); draw(); });
window.addEventListener("hashchange", () => { document.activeElement?.blur(); draw(); });
setInterval(() => { if (sessionStorage.getItem(KEY) && !isBusy() && !document.hidden) draw(); }, EVERY_MS);
setInterval(watchHealth, EVERY_MS);
watchHealth();
draw();
