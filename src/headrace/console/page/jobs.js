// The views of jobs: the list with what can be done to all that match, and one job with its way, its reasons, its end.

import { call, query, read } from "./api.js";
import { action, count, element, facts, filters, form, jobLink, json, link, moment, older, seconds, state, table } from "./elements.js";

export const STATES = ["scheduled", "pending", "queued", "running", "retrying", "succeeded", "dead", "cancelled", "expired"];
const STOPPED = ["dead", "cancelled", "expired"];
const FINISHED = ["succeeded", ...STOPPED];
const WAITED = ["pending", "queued"];

export async function jobs(values) {
  const page = await read("/v1/jobs" + query({ ...values, limit: "50" }));
  const rows = page.items.map((job) => [
    state(job.state), jobLink(job.id), job.task, job.queue, `${job.attempt} of ${job.max_attempts}`, moment(job.created_at),
    job.errors.length ? element("span", { class: "quiet" }, job.errors.at(-1).message.slice(0, 80)) : "",
  ]);
  return [
    element("h1", {}, "Jobs"),
    filters("#/jobs", values, [["state", STATES], ["task"], ["queue"], ["tag"], ["trace_id"]]),
    bulk(values),
    table(["state", "job", "task", "queue", "attempt", "created", "last error"], rows, "No job fits."),
    older("#/jobs", values, page),
  ];
}

// What can be done to every job that meets the filter, those on other pages too.
function bulk(values) {
  const which = Object.fromEntries(["state", "task", "queue", "tag"].filter((name) => values[name]).map((name) => [name, values[name]]));
  if (!Object.keys(which).length || values.trace_id) return null;
  const meant = Object.entries(which).map(([name, value]) => `${name} ${value}`).join(", ");
  const button = (verb, done, states) => (!which.state || states.includes(which.state)
    ? action(`${verb} all that match`, `/v1/jobs/${verb.toLowerCase()}`, {
      body: which, confirmation: `${verb} every job with ${meant}, on all pages?`, told: (answer) => `${count(answer.count, "job")} ${done}.`,
    }) : null);
  const unfinished = STATES.filter((name) => !FINISHED.includes(name));
  const buttons = [button("Retry", "retried", STOPPED), button("Cancel", "cancelled, or asked to end", unfinished)];
  return buttons.some(Boolean) ? element("div", { class: "actions" }, buttons) : null;
}

export async function job(id) {
  const [found, history] = await Promise.all([read(`/v1/jobs/${id}`), read(`/v1/jobs/${id}/history?limit=200`)]);
  const why = FINISHED.includes(found.state) ? null : await read(`/v1/jobs/${id}/explain`);
  return [
    element("h1", {}, `${found.task} `, state(found.state)),
    element("div", { class: "actions" },
      STOPPED.includes(found.state) ? action("Retry", `/v1/jobs/${id}/retry`) : null,
      FINISHED.includes(found.state) ? null : action("Cancel", `/v1/jobs/${id}/cancel`, { confirmation: "Cancel this job?" })),
    reasons(why),
    facts([
      ["id", element("code", {}, found.id)], ["queue", link(`#/queues/${encodeURIComponent(found.queue)}`, found.queue)], ["priority", found.priority],
      ["attempt", `${found.attempt} of ${found.max_attempts}`], ["created", moment(found.created_at)], ["runs at", moment(found.run_at)],
      ["started", moment(found.started_at)], ["finished", moment(found.finished_at)], ["expires", found.expires_at ? moment(found.expires_at) : null],
      ["progress", progress(found.progress)],
      ["tags", found.tags.join(", ")], ["unique key", found.unique_key], ["concurrency key", found.concurrency_key],
      ["parent", found.parent_id ? jobLink(found.parent_id) : null],
      ["trace", link(`#/jobs${query({ trace_id: found.trace_id })}`, found.trace_id)],
    ]),
    way(history.items),
    element("h2", {}, "Arguments"), json(found.args), STOPPED.includes(found.state) ? otherArguments(found) : null,
    found.state === "succeeded" ? element("h2", {}, "Result") : null, found.state === "succeeded" ? json(found.result) : null,
    found.errors.length ? element("h2", {}, "Attempts that did not succeed") : null,
    found.errors.map((error) => element("details", {},
      element("summary", {}, `attempt ${error.attempt}, ${moment(error.at)}, ${error.outcome}: ${error.type}: ${error.message}`), element("pre", {}, error.traceback || "no traceback"))),
  ];
}

function reasons(why) {
  if (!why || (!why.reasons.length && !why.forecast)) return null;
  const rows = why.reasons.map((reason) => [
    element("code", {}, reason.code),
    element("span", {}, reason.message, (reason.jobs ?? []).slice(0, 20).flatMap((one) => [element("br"), jobLink(one.id), ` ${one.name ?? ""} `, one.state ? state(one.state) : ""])),
  ]);
  return element("section", {},
    element("h2", {}, "Why it is not running"),
    table(["reason", "what it means"], rows, "Nothing is in its way."),
    why.forecast ? element("p", { class: "quiet" }, forecast(why.forecast)) : null);
}

function forecast({ position, start_in_seconds: start, basis }) {
  const place = position === null ? "No place in line yet" : `Place ${position} in line`;
  if (!start) return `${place}; when it starts cannot be said: ${basis}.`;
  return `${place}; starts in about ${seconds(start.likely)} (${seconds(start.low)} to ${seconds(start.high)}): ${basis}.`;
}

function way(moves) {
  const spent = (names) => seconds(moves.filter((move) => names.includes(move.state)).reduce((sum, move) => sum + (move.seconds ?? 0), 0));
  return element("section", {},
    element("h2", {}, "Its way"),
    element("p", { class: "quiet" }, `waited ${spent(WAITED)}, ran ${spent(["running"])}, backed off ${spent(["retrying"])}`),
    table(["state", "since", "for"], moves.map((move) => [state(move.state), moment(move.at), seconds(move.seconds)]), "Its way is not on record."));
}

function progress(given) {
  if (!given) return null;
  const told = `${given.done} of ${given.total ?? "?"} ${given.note ?? ""}`;
  return given.total ? element("span", {}, element("progress", { value: given.done, max: given.total }), ` ${told}`) : told;
}

function otherArguments(found) {
  const retry = async ({ args }) => {
    await call("POST", `/v1/jobs/${found.id}/retry`, { args: JSON.parse(args) });
    return "Retried with these arguments.";
  };
  return element("details", {},
    element("summary", {}, "Retry with other arguments"),
    form(retry, element("label", {}, "arguments, as JSON", element("textarea", { name: "args", rows: "6", cols: "70", spellcheck: "false" }, JSON.stringify(found.args, null, 2))), element("button", {}, "Retry with these")));
}
