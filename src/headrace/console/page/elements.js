// Building the page. Every text from the API enters it as text, never as markup.

import { call, query } from "./api.js";
import { act } from "./drawing.js";

export function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else if (value !== null && value !== undefined && value !== false) made.setAttribute(key, value === true ? "" : value);
  }
  made.append(...children.flat().filter((child) => child !== null).map((child) => (child instanceof Node ? child : String(child))));
  return made;
}

export function table(columns, rows, empty) {
  if (!rows.length) return element("p", { class: "empty" }, empty);
  const head = element("tr", {}, columns.map((name) => element("th", { scope: "col" }, name)));
  const body = rows.map((cells) => element("tr", {}, cells.map((cell) => element("td", { class: typeof cell === "number" ? "number" : null }, cell))));
  return element("div", { class: "scroll" }, element("table", {}, element("thead", {}, head), element("tbody", {}, body)));
}

export const state = (name) => element("span", { class: `state ${name}` }, name);
export const link = (href, text) => element("a", { href }, text);
export const moment = (at) => (at ? new Date(at).toLocaleString(undefined, { hour12: false }) : "–");
export const json = (value) => element("pre", {}, JSON.stringify(value, null, 2));
export const jobLink = (id) => link(`#/jobs/${id}`, id);
export const count = (number, noun) => `${number} ${noun}${number === 1 ? "" : "s"}`;

export function seconds(value) {
  if (value === null || value === undefined) return "–";
  if (value < 1) return `${Math.round(value * 1000)} ms`;
  if (value < 120) return `${value < 10 ? value.toFixed(1) : Math.round(value)} s`;
  return value < 7200 ? `${Math.round(value / 60)} min` : `${Math.round(value / 3600)} h`;
}

export function facts(pairs) {
  return element("dl", {}, pairs.filter(([, value]) => value !== null && value !== undefined && value !== "").flatMap(([name, value]) => [element("dt", {}, name), element("dd", {}, value)]));
}

// A button that posts; `told` says what became of it, from the answer.
export function action(label, path, { confirmation, body, told } = {}) {
  const press = async (event) => {
    if (confirmation && !window.confirm(confirmation)) return;
    event.target.disabled = true;
    await act(async () => {
      const answer = await call("POST", path, body);
      return told ? told(answer) : "";
    });
  };
  return element("button", { type: "button", onclick: press }, label);
}

// A form whose values go to `submitted`, which returns what to tell.
export function form(submitted, ...children) {
  const submit = async (event) => {
    event.preventDefault();
    const values = Object.fromEntries(new FormData(event.target));
    document.activeElement?.blur();
    await act(() => submitted(values));
  };
  return element("form", { onsubmit: submit }, children);
}

export function filters(base, values, fields) {
  const submit = (submitted) => {
    submitted.preventDefault();
    submitted.target.removeAttribute("data-touched");
    location.hash = base + query(Object.fromEntries(new FormData(submitted.target)));
  };
  const inputs = fields.map(([name, choices]) => element("label", {}, name.replace("_", " "), choices
    ? element("select", { name }, element("option", { value: "" }, "any"), choices.map((one) => element("option", { value: one, selected: values[name] === one }, one)))
    : element("input", { name, value: values[name] ?? "", autocomplete: "off" })));
  return element("form", { onsubmit: submit, "data-keep": base }, inputs, element("button", {}, "Filter"));
}

export function older(base, values, page) {
  return page.next_cursor ? element("p", {}, link(base + query({ ...values, cursor: page.next_cursor }), "Older")) : null;
}
