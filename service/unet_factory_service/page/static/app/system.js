// What an operator wants to see at a glance. Nothing here tells of a patient.

import { json } from "./api.js";
import { byId, make, show } from "./elements.js";
import { rangeText } from "./settings.js";
import { bytesText, spacingText, timeText } from "./units.js";

export async function showSystem() {
  const [status, models, failed] = await Promise.all([json("status"), json("models"), failures()]);
  fill("workers", status.workers.map((worker) => [worker.device, worker.precision ?? "", worker.threads ?? "", worker.models.join(", "), timeText(worker.started)]));
  show(byId("no-workers"), status.workers.length === 0);
  const waiting = Object.values(status.pending_deliveries).reduce((sum, count) => sum + count, 0);
  byId("queue-facts").textContent =
    `${status.active_jobs} segmentations wait or run, ${status.queued_jobs} of them not taken by a worker yet. ` +
    `Networks that wait to be made: ${status.queued_networks}. Deliveries that wait: ${waiting}.`;
  const limit = status.cache_max_bytes ? ` of at most ${bytesText(status.cache_max_bytes)}` : "";
  byId("cache-facts").textContent = `The store of generated networks uses ${bytesText(status.cache_used_bytes)}${limit}.`;
  byId("version").textContent = `Version ${status.version}`;
  byId("models").replaceChildren(...models.map(modelCard));
  fill("failures", failed.map((job) => [timeText(job.created), job.model, job.error.title]));
  show(byId("no-failures"), failed.length === 0);
}

async function failures() {
  try {
    return (await json("segmentations?state=failed&limit=20")).jobs;
  } catch (error) {
    if (error.status === 403) return []; // a key that may not read jobs
    throw error;
  }
}

function fill(id, rows) {
  byId(id).tBodies[0].replaceChildren(...rows.map((row) => make("tr", {}, ...row.map((cell) => make("td", {}, String(cell))))));
  show(byId(id), rows.length > 0);
}

function modelCard(model) {
  const measured = model.metrics.filter((metric) => metric.spacings_mm?.length === 1 && metric.dice_mean != null);
  const rows = measured
    .map((metric) => ({ spacing: metric.spacings_mm[0], dice: metric.dice_mean }))
    .sort((one, other) => voxel(one.spacing) - voxel(other.spacing));
  return make(
    "article", { class: "card" },
    make("h3", {}, model.name + (model.default ? " (default)" : "")),
    make("p", { class: "facts" }, `${model.modality}. ${rangeText(model)} mm. ${model.licence}.`),
    ...(rows.length ? [dicePlot(rows)] : []),
  );
}

// Bars from 0 to 1, so that a small loss looks small.
function dicePlot(rows) {
  const bars = rows.map(({ spacing, dice }) =>
    make(
      "tr", {},
      make("th", { scope: "row" }, `${spacingText(spacing)} mm`),
      make("td", {}, make("meter", { min: 0, max: 1, value: dice, "aria-label": `Dice ${dice.toFixed(3)}` }), make("span", {}, dice.toFixed(3))),
    ),
  );
  return make("table", { class: "bars" }, make("caption", {}, "Mean Dice on test scans, by working spacing"), make("tbody", {}, ...bars));
}

function voxel(spacing) {
  return spacing.reduce((product, side) => product * side, 1);
}
