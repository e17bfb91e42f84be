"use strict";
const byId = (id) => document.getElementById(id);
// Distinct in light and dark, and for most colour-blind readers (after Okabe and Ito).
const COLOURS = ["#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#8f7f00", "#7f7f7f"];
let uploaded = null; // {name, context} of the file chosen

// Texts enter the page as text nodes only: nothing that is typed or sent becomes markup.
function element(tag, className, text) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

async function ask(path, options) {
  const reply = await fetch(path, options);
  const body = await reply.json().catch(() => ({}));
  if (!reply.ok) throw new Error(body.detail || `The server answered ${reply.status}.`);
  return body;
}

function post(path, type, body) {
  return ask(path, { method: "POST", headers: { "content-type": type }, body });
}

function showError(error) {
  byId("error").textContent = error ? String(error.message || error) : "";
}

function addGroup(name, checked) {
  const label = element("label");
  const box = element("input");
  box.type = "checkbox";
  box.value = name;
  box.checked = checked;
  label.append(box, " ", name);
  byId("groups").append(label);
}

async function readFile() {
  uploaded = null;
  showError();
  const file = byId("file").files[0];
  if (!file) return;
  try {
    const reply = await post("v1/context", "text/csv", await file.text());
    uploaded = { name: file.name, context: reply.context };
  } catch (error) {
    showError(error);
  }
}

function percent(share) {
  return `${Math.round(100 * share)} %`;
}

function bar(share, spread, colour, name) {
  const row = element("div", "bar");
  const track = element("div", "track");
  const fill = element("div", "fill");
  fill.style.width = `${100 * share}%`;
  fill.style.background = colour;
  track.append(fill);
  let number = percent(share);
  if (spread !== null) {
    const whisker = element("div", "whisker");
    const low = Math.max(0, share - spread);
    const high = Math.min(1, share + spread);
    whisker.style.left = `${100 * low}%`;
    whisker.style.width = `${100 * (high - low)}%`;
    track.append(whisker);
    number += ` ± ${Math.round(100 * spread)}`;
  }
  row.setAttribute("role", "img");
  row.setAttribute("aria-label", `${name}: ${number}`);
  row.append(track, element("span", "number", number));
  return row;
}

function show(question, options, names, predictions) {
  const legend = element("ul", "legend");
  names.forEach((name, n) => {
    const entry = element("li");
    const swatch = element("span", "swatch");
    swatch.style.background = COLOURS[n % COLOURS.length];
    entry.append(swatch, name);
    legend.append(entry);
  });
  const shown = [element("h2", "", question), legend];
  options.forEach((option, o) => {
    const block = element("div", "option");
    block.append(element("h3", "", option));
    predictions.forEach((prediction, n) => {
      const spread = prediction.spread === null ? null : prediction.spread[o];
      block.append(bar(prediction.shares[o], spread, COLOURS[n % COLOURS.length], names[n]));
    });
    shown.push(block);
  });
  byId("result").replaceChildren(...shown);
}

async function predict(event) {
  event.preventDefault();
  showError();
  byId("predict").disabled = true;
  try {
    const question = byId("question").value.trim();
    const options = byId("options").value.split("\n").map((line) => line.trim()).filter(Boolean);
    const boxes = byId("groups").querySelectorAll("input:checked");
    const names = Array.from(boxes, (box) => box.value);
    const queries = names.map((group) => ({ question, options, group }));
    if (uploaded) {
      names.push(uploaded.name);
      queries.push({ question, options, context: uploaded.context });
    }
    if (!queries.length) throw new Error("Choose a group, or a file with a group's answers.");
    const reply = await post("v1/predict", "application/json", JSON.stringify({ queries }));
    show(question, options, names, reply.predictions);
  } catch (error) {
    showError(error);
  } finally {
    byId("predict").disabled = false;
  }
}

async function start() {
  byId("form").addEventListener("submit", predict);
  byId("file").addEventListener("change", readFile);
  try {
    const model = await ask("v1/model");
    model.groups.forEach((name, n) => addGroup(name, n < 2));
    byId("none").hidden = model.groups.length > 0;
    if (model.groups.length) byId("form").requestSubmit();
  } catch (error) {
    showError(error);
  }
}

start();
