// The operator's pages: views over the public API. The other files say how they are read, built and drawn.

import { KEY, query, read } from "./api.js";
import { draw, start } from "./drawing.js";
import { element, facts, filters, jobLink, json, link, moment, older, seconds, state, table } from "./elements.js";
import { job, jobs } from "./jobs.js";
import { counted, limited, pause, queue } from "./queues.js";

async function system() {
  const [health, queues, workers, subscriptions] = await Promise.all([
    read("/health/system"), read("/v1/queues?limit=200"), read("/v1/workers?limit=200"), read("/v1/subscriptions?limit=200"),
  ]);
  const missing = (health.missing ?? []).map((part) => [state("missing"), part.part, part.message, moment(part.since)]);
  return [
    element("h1", {}, "System"),
    missing.length ? table(["", "part", "what is missing", "since"], missing, "") : element("p", { class: "ok" }, "Every part is alive."),
    element("h2", {}, "Queues"),
    table(["queue", "jobs", "oldest pending", "workers", "limits", ""], queues.items.map((one) => [
      link(`#/queues/${encodeURIComponent(one.name)}`, one.name), element("span", {}, counted(one)),
      seconds(one.oldest_pending_age_seconds), one.workers, limited(one), pause(one),
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

function askForKey(reason) {
  const submit = (submitted) => {
    submitted.preventDefault();
    sessionStorage.setItem(KEY, new FormData(submitted.target).get("key").trim());
    submitted.target.removeAttribute("data-touched");
    document.activeElement?.blur();
    draw();
  };
  return [
    element("h1", {}, "An API key opens the console"),
    element("p", { class: "quiet" }, reason ?? "headrace up prints one; headrace keys create makes others. It is kept until this tab is closed."),
    element("form", { onsubmit: submit, "data-keep": "key" }, element("label", {}, "API key", element("input", { name: "key", type: "password", required: true, autocomplete: "off", size: "48" })), element("button", {}, "Open")),
  ];
}

async function view() {
  const [path, search] = location.hash.replace(/^#/, "").split("?");
  const values = Object.fromEntries(new URLSearchParams(search));
  const [, page, id] = path.split("/");
  if (page === "jobs") return id ? job(id) : jobs(values);
  if (page === "queues" && id) return queue(decodeURIComponent(id));
  if (page === "events") return id ? event(id) : events(values);
  return system();
}

start({ view, askForKey });
