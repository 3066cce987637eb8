// The working spacing: a slider from the scan's own to coarser ones, with what each is predicted to cost and to be worth.

import { json } from "./api.js";
import { byId, show } from "./elements.js";
import { bytesText, spacingText } from "./units.js";

const WIDTH = 300;
const HEIGHT = 90;
const MARGIN = 8;
const NOTHING = { options: [], wait: "" };

let options = [];
let quoted = {}; // the scan and the model that they are for
let turns = 0;

// The chosen spacing in mm (R,A,S); null for the finest one, which is the server's default.
export function chosenSpacing() {
  const option = options[Number(byId("spacing").value)];
  return option && !option.native ? option.spacing : null;
}

// Asks for prices anew; `scan` is {shape, spacing, isDicom}, or null where its header could not be read here.
export async function quote(model, scan, outside, mirroring) {
  const turn = ++turns;
  const same = scan === quoted.scan && model === quoted.model;
  if (!same) options = [];
  const found = scan ? await ask({ model, outside, mirroring, shape: scan.shape, spacing: scan.spacing, dicom: scan.isDicom }) : NOTHING;
  if (turn !== turns) return; // asked again meanwhile
  const slider = byId("spacing");
  const chosen = same ? slider.value : 0;
  [options, quoted] = [found.options, { scan, model }];
  slider.max = Math.max(0, options.length - 1);
  slider.value = chosen;
  slider.disabled = options.length < 2;
  byId("wait").textContent = found.wait;
  showChoice();
}

async function ask(body) {
  try {
    const headers = { "Content-Type": "application/json" };
    const { options, queue } = await json("quote", { method: "POST", headers, body: JSON.stringify(body) });
    return { options, wait: waitText(queue) };
  } catch (error) {
    if (error.status === 401) throw error;
    return { options: [], wait: `No prediction: ${error.detail ?? error.message}` };
  }
}

export function showChoice() {
  const at = Number(byId("spacing").value);
  const option = options[at];
  const own = !option || option.native;
  byId("spacing-text").textContent = option ? `${spacingText(option.spacing)} mm` : "the scan’s own";
  byId("spacing").setAttribute("aria-valuetext", byId("spacing-text").textContent + (own ? " (the scan’s own)" : ""));
  fill("price-seconds", option?.seconds, (seconds) => `${brief(seconds)} s`);
  fill("price-memory", option?.peak_bytes, bytesText);
  fill("price-dice", option?.expected_dice, ({ dice, low, high }) => `${dice.toFixed(2)} (${low.toFixed(2)}–${high.toFixed(2)})`);
  drawCurve(at);
}

function fill(id, value, text) {
  show(byId(id).parentElement, value != null);
  byId(id).textContent = value == null ? "" : text(value);
}

function brief(value) {
  return value >= 10 ? value.toFixed(0) : value.toPrecision(2);
}

function waitText({ jobs, workers, seconds }) {
  if (!workers) return "No worker is up at the moment; a job would wait.";
  if (!jobs) return "";
  return `${jobs} ${jobs === 1 ? "job is" : "jobs are"} ahead of you${seconds ? `, about ${Math.ceil(seconds)} s` : ""}.`;
}

function drawCurve(at) {
  const seconds = options.map((option) => option.seconds);
  const dice = options.map((option) => option.expected_dice?.dice ?? null);
  const lines = [["time", seconds], ["dice", dice]].filter(([, values]) => values.length > 1 && values.every((value) => value != null));
  show(byId("curve"), lines.length > 0);
  const parts = lines.flatMap(([name, values]) => {
    const points = values.map((value, index) => [xOf(index), yOf(value, values)]);
    return [
      svg("polyline", { class: `line ${name}`, points: points.map((point) => point.join(",")).join(" ") }),
      svg("circle", { class: `dot ${name}`, cx: points[at][0], cy: points[at][1], r: 4 }),
    ];
  });
  byId("curve").replaceChildren(svg("line", { class: "here", x1: xOf(at), x2: xOf(at), y1: 0, y2: HEIGHT }), ...parts);
}

function xOf(index) {
  return MARGIN + (index / (options.length - 1)) * (WIDTH - 2 * MARGIN);
}

function yOf(value, values) {
  const [low, high] = [Math.min(...values), Math.max(...values)];
  return high === low ? HEIGHT / 2 : MARGIN + ((high - value) / (high - low)) * (HEIGHT - 2 * MARGIN);
}

function svg(tag, attributes) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return element;
}
