// What a job says of itself, in words: its progress, its warnings, its volumes, and what can be downloaded.

import { request } from "./api.js";
import { byId, make, save, show } from "./elements.js";
import { spacingText } from "./units.js";
import { colourOf } from "./viewer.js";

export const STATES = { queued: "Waiting for a worker", running: "Segmenting", succeeded: "Done", failed: "Failed", cancelled: "Cancelled" };
const OUTSIDE = {
  clamp: "It was segmented at the nearest trained spacing.",
  extrapolate: "The network was made for a spacing that it was not trained for.",
  reject: "",
};

export function showProgress(job) {
  show(byId("progress"), true);
  byId("state").textContent = job.state === "running" ? `Segmenting, ${Math.round(job.progress * 100)} %` : STATES[job.state];
  const bar = byId("bar");
  if (job.state === "running" && job.progress > 0) bar.value = job.progress;
  else bar.removeAttribute("value");
}

// The panel for one job, or for two side by side of the same model.
export function showResults(jobs, model, { onVisible, onProblem }) {
  byId("warnings").replaceChildren(...warningItems(jobs));
  show(byId("warnings"), byId("warnings").children.length > 0);
  const labels = model.labels.filter((label) => label.value > 0);
  byId("labels").replaceChildren(
    make("thead", {}, make("tr", {}, ...["Structure", ...jobs.map(volumeHeading)].map((text) => make("th", { scope: "col" }, text)))),
    make("tbody", {}, ...labels.map((label) => labelRow(label, jobs, onVisible))),
  );
  byId("result-facts").replaceChildren(...jobs.map((job) => make("p", {}, factsOf(job))));
  byId("downloads").replaceChildren(...jobs.map((job) => downloads(job, jobs.length > 1, onProblem)));
  byId("result").dataset.job = jobs.at(-1).id ?? "";
  show(byId("delete"), jobs.every((job) => !job.local));
  show(byId("result"), true);

  function volumeHeading(job) {
    return jobs.length > 1 ? `at ${spacingText(job.spacing.working)} mm` : "Volume";
  }
}

export function captionOf(job) {
  return `${job.model} at ${spacingText(job.spacing.working)} mm`;
}

export function warningItems(jobs) {
  return [...new Set(jobs.flatMap(warningsOf))].map((text) => make("li", {}, text));
}

export function downloads(job, named, onProblem) {
  const files = filesOf(job).map((file) => downloadButton(file, onProblem));
  return make("div", { class: "downloads" }, ...(named ? [make("p", { class: "facts" }, captionOf(job))] : []), ...files);
}

function warningsOf(job) {
  const warnings = job.implausible.map((finding) => `Not plausible: ${findingText(finding)}. Do not rely on this result.`);
  if (job.policy.out_of_range) {
    warnings.push(`The spacing is outside the range that the model was trained for. ${OUTSIDE[job.policy.outside]}`);
  }
  if (job.policy.reduced_memory) warnings.push("Memory ran out, and the scan was segmented in smaller windows.");
  if (job.volumes_ml && Object.values(job.volumes_ml).every((volume) => volume === 0)) warnings.push("No structure was found in the scan.");
  return [...warnings, ...job.notes.map(sentence)];
}

function findingText({ what, label, axis, value, expected }) {
  const [subject, unit] = what === "volume_ml" ? [`volume of ${label}`, "ml"] : [`field of view along ${axis}`, "mm"];
  const [low, high] = expected.map((bound) => Number(bound.toPrecision(4)));
  return `${subject} is ${Number(value.toPrecision(4))} ${unit}, expected ${low} to ${high} ${unit}`;
}

function labelRow(label, jobs, onVisible) {
  const box = make("input", { type: "checkbox", checked: true, onchange: () => onVisible(label.value, box.checked) });
  const volumes = jobs.map((job) => job.volumes_ml?.[label.name]);
  return make(
    "tr", {},
    make("td", {}, make("label", {}, box, swatch(colourOf(label.value)), label.name)),
    ...volumes.map((volume) => make("td", {}, volume === undefined ? "" : `${volume.toFixed(2)} ml`)),
  );
}

function swatch([red, green, blue]) {
  const square = make("span", { class: "swatch", "aria-hidden": "true" });
  square.style.background = `rgb(${red} ${green} ${blue})`;
  return square;
}

function factsOf(job) {
  const seconds = Object.values(job.timings_s).reduce((sum, stage) => sum + stage, 0);
  const native = job.spacing.native ? `Scan ${spacingText(job.spacing.native)} mm; ` : "";
  const where = job.local ? "in this browser" : `on ${job.device}`;
  const kept = job.local ? " The scan was not uploaded." : "";
  return `${native}segmented at ${spacingText(job.spacing.working)} mm with ${job.model} ${where} in ${seconds.toFixed(1)} s.${kept}`;
}

function filesOf(job) {
  const network = { text: "Network (safetensors)", path: networkPath(job), name: `${job.model}-${spacingText(job.spacing.working, "x")}.safetensors` };
  if (job.local) return [{ text: "Label map", blob: new Blob([job.local]), name: "labelmap.nii" }, network];
  const at = `segmentations/${job.id}`;
  const found = Object.values(job.volumes_ml ?? {}).some((volume) => volume > 0);
  return [
    { text: "Label map", path: `${at}/labelmap`, name: "labelmap.nii.gz" },
    { text: "Picture", path: `${at}/preview.png`, name: "preview.png" },
    job.dicom && found && { text: "DICOM SEG", path: `${at}/seg`, name: "seg.dcm" },
    job.dicom && { text: "DICOM report", path: `${at}/report`, name: "report.dcm" },
    network,
  ].filter(Boolean);
}

function networkPath(job) {
  const query = new URLSearchParams({ model: job.model, spacing: job.spacing.working.join(","), outside: job.policy.outside });
  const conditions = Object.entries(job.conditions).map(([name, value]) => `${name}=${value}`);
  if (conditions.length) query.set("conditions", conditions.join(","));
  return `unet?${query}`;
}

function downloadButton({ text, path, blob, name }, onProblem) {
  const download = async () => save(blob ?? (await (await request(path)).blob()), name);
  return make("button", { type: "button", onclick: () => download().catch(onProblem) }, text);
}

function sentence(text) {
  return text.charAt(0).toUpperCase() + text.slice(1) + (/[.!?]$/.test(text) ? "" : ".");
}
