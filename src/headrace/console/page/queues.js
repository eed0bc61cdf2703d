// The view of a queue: how it stands, its pause, its limits.

import { call, query, read } from "./api.js";
import { action, element, facts, form, link, seconds } from "./elements.js";
import { STATES } from "./jobs.js";

const path = (name, rest) => `/v1/queues/${encodeURIComponent(name)}/${rest}`;

export const counted = (queue) => STATES.filter((name) => queue.counts[name]).flatMap((name) => [link(`#/jobs${query({ state: name, queue: queue.name })}`, `${queue.counts[name]} ${name}`), " "]);

export function pause(queue) {
  return queue.paused ? element("span", {}, element("span", { class: "state pending" }, "paused"), " ", action("Resume", path(queue.name, "resume")))
    : action("Pause", path(queue.name, "pause"), { confirmation: `Pause the queue ${queue.name}? Its jobs wait until it is resumed.` });
}

export function limited({ limits }) {
  const told = [
    limits?.concurrency ? `${limits.concurrency} at once` : null,
    limits?.rate ? `${limits.rate.limit} starts in ${limits.rate.per_seconds} s` : null,
    limits?.per_key_concurrency ? `${limits.per_key_concurrency} at once per key` : null,
  ];
  return told.filter(Boolean).join(", ");
}

export async function queue(name) {
  const page = await read("/v1/queues?limit=200");
  const found = page.items.find((one) => one.name === name);
  if (!found) return [element("h1", {}, name), element("p", { class: "empty" }, "There is no such queue yet: the first job makes it.")];
  return [
    element("h1", {}, `Queue ${name}`),
    facts([
      ["jobs", element("span", {}, counted(found), link(`#/jobs${query({ queue: name })}`, "all"))], ["oldest pending", seconds(found.oldest_pending_age_seconds)],
      ["workers", found.workers], ["release", pause(found)],
    ]),
    element("h2", {}, "Limits"),
    element("p", { class: "quiet" }, "They hold for all workers together, and from the moment they are set. An empty field is no limit; jobs with the same concurrency key run one at a time unless more are allowed."),
    limits(found),
  ];
}

function limits(found) {
  const rate = found.limits?.rate;
  const number = (label, name, value, attributes = {}) => element("label", {}, label, element("input", { name, type: "number", min: "1", step: "1", value: value ?? "", ...attributes }));
  const set = async (given) => {
    const whole = (name) => (given[name] ? Number(given[name]) : null);
    const limit = whole("limit");
    const wanted = { concurrency: whole("concurrency"), per_key_concurrency: whole("per_key_concurrency"), rate: limit ? { limit, per_seconds: Number(given.per_seconds || 1) } : null };
    const stands = await call("PUT", path(found.name, "limits"), wanted);
    return `The queue ${stands.name}: ${limited(stands) || "no limits"}.`;
  };
  return form(set,
    number("jobs at once", "concurrency", found.limits?.concurrency),
    number("starts", "limit", rate?.limit), number("within seconds", "per_seconds", rate?.per_seconds, { min: "0.001", step: "any" }),
    number("at once per key", "per_key_concurrency", found.limits?.per_key_concurrency),
    element("button", {}, "Set limits"));
}
