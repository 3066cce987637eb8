// The page: choose a scan, see it, have it segmented, see and download the result.

import { follow, json, Problem, request } from "./api.js";
import { byId, show } from "./elements.js";
import { listJobs } from "./jobs.js";
import { askForKey } from "./key.js";
import { segmentHere } from "./local.js";
import { Panes } from "./panes.js";
import { hideProblem, showProblem, withKey } from "./problems.js";
import { captionOf, showProgress, showResults } from "./result.js";
import { droppedFiles, readScan } from "./scan.js";
import { fillModels, modelNamed, setScan, settings, settingsHere, showPrices } from "./settings.js";
import { showSystem } from "./system.js";
import { bytesText, spacingText } from "./units.js";

const panes = new Panes(byId("panes"), showLocation);
const VIEWS = { segment: () => {}, jobs: listJobs, system: showSystem };

let scan = null;
let results = []; // of one job, or of two side by side
let running = null; // {id, aborts}: the job that is uploaded or followed

async function start() {
  panes.showText("Drop a scan anywhere on this page");
  await withKey(async () => fillModels(await json("models")));
}

async function choose(files) {
  hideProblem();
  location.hash = "segment";
  try {
    forgetResults();
    scan = await readScan(files);
    byId("scan-name").textContent = scan.name;
    byId("segment").classList.add("has-scan");
    byId("scan-facts").textContent = bytesText(scan.upload.size);
    setBusy(false);
    await showScan(scan);
  } catch (error) {
    showProblem(error);
  }
}

async function showScan(chosen) {
  panes.showText("Reading the scan…");
  performance.mark("drop");
  let header = null;
  try {
    const [picture, ...others] = await chosen.pictures();
    if (!picture) throw new Error("it holds no picture");
    header = await panes.showScan(picture, chosen.name);
    chosen.isOnePicture = others.length === 0;
    performance.measure("drop to picture", "drop");
    const size = `${header.shape.join(" × ")} voxels of ${spacingText(header.spacing)} mm`;
    byId("scan-facts").textContent = `${bytesText(chosen.upload.size)}, ${size}`;
  } catch (error) {
    console.info("the viewer cannot show this file:", error.message);
    panes.showText("The browser cannot show this file. You can still have it segmented: the server reads more formats.");
  }
  if (chosen === scan) await withKey(() => setScan(header && { ...header, isDicom: chosen.isDicom }));
  setBusy(running !== null);
}

function segment(beside) {
  const form = new FormData();
  for (const [name, value] of Object.entries({ ...settings(), preview: "true" })) form.set(name, value);
  form.set("file", scan.upload, "scan");
  return run(beside, "Uploading", async (signal) => {
    const accepted = await json("segmentations", { method: "POST", body: form, signal });
    running.id = accepted.id;
    const job = await follow(accepted.id, showProgress, signal);
    if (job.state !== "succeeded") throw new Problem(job.error?.title ?? "The job was cancelled", job.error?.detail ?? "");
    return [job, await (await request(`segmentations/${job.id}/labelmap`)).arrayBuffer()];
  });
}

function segmentInBrowser() {
  return run(false, "Fetching the network", async (signal) => {
    const task = { image: panes.image, ...settingsHere() };
    const job = await segmentHere(task, (progress) => showProgress({ state: "running", progress }), signal);
    return [job, job.local];
  });
}

// Shows that `work` is under way, then the job and the label map that it resolves to.
async function run(beside, doing, work) {
  hideProblem();
  if (!beside) forgetResults();
  const aborts = new AbortController();
  running = { id: null, aborts };
  setBusy(true);
  showProgress({ state: "queued", progress: 0 });
  byId("state").textContent = doing;
  await withKey(async () => {
    const [job, labelmap] = await work(aborts.signal);
    await showEnd(job, labelmap, beside);
  });
  if (running?.aborts === aborts) running = null;
  setBusy(running !== null);
  await withKey(showPrices);
}

async function showEnd(job, labelmap, beside) {
  const model = modelNamed(job.model);
  await panes.showResult(labelmap, model.labels, captionOf(job), beside);
  results = beside ? [results[0], job] : [job];
  const onVisible = (value, visible) => panes.setLabelVisible(value, visible);
  showResults(results, model, { onVisible, onProblem: showProblem });
}

// Cancelling and deleting are one thing to the API: the job ends and its data go.
async function cancel() {
  const { id, aborts } = running;
  running = null;
  aborts.abort();
  setBusy(false);
  if (id) await withKey(() => request(`segmentations/${id}`, { method: "DELETE" }));
}

async function deleteResults() {
  const ids = results.map((job) => job.id);
  forgetResults();
  for (const id of ids) await withKey(() => request(`segmentations/${id}`, { method: "DELETE" }));
}

function forgetResults() {
  running?.aborts.abort();
  running = null;
  results = [];
  show(byId("result"), false);
  panes.removeResults();
  setBusy(false);
}

function setBusy(busy) {
  show(byId("progress"), busy);
  byId("start").disabled = busy || !scan;
  const model = byId("model").value;
  show(byId("beside"), !busy && panes.showsScan && results.length > 0 && !results[0].local && results[0].model === model);
  for (const id of ["start-here", "here-facts"]) show(byId(id), panes.showsScan && scan.isOnePicture === true);
  byId("start-here").disabled = busy;
}

function showLocation(position, intensity, label) {
  const [right, anterior, superior] = position.map((coordinate) => coordinate.toFixed(1));
  const parts = [`R ${right}, A ${anterior}, S ${superior} mm`, `intensity ${Number(intensity.toPrecision(5))}`];
  if (label) parts.push(label);
  byId("location").textContent = parts.join(" · ");
}

function showView() {
  const chosen = location.hash.slice(1) in VIEWS ? location.hash.slice(1) : "segment";
  for (const name of Object.keys(VIEWS)) {
    show(byId(name), name === chosen);
    const link = document.querySelector(`nav a[href="#${name}"]`);
    if (name === chosen) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  withKey(() => VIEWS[chosen]());
}

function listen() {
  addEventListener("hashchange", showView);
  byId("choose-files").addEventListener("click", () => byId("files").click());
  byId("choose-folder").addEventListener("click", () => byId("folder").click());
  for (const id of ["files", "folder"]) {
    byId(id).addEventListener("change", (event) => {
      const files = [...event.target.files];
      event.target.value = "";
      if (files.length) choose(files);
    });
  }
  document.addEventListener("dragover", (event) => {
    event.preventDefault();
    byId("drop").classList.add("over");
  });
  document.addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) byId("drop").classList.remove("over");
  });
  document.addEventListener("drop", async (event) => {
    event.preventDefault();
    byId("drop").classList.remove("over");
    choose(await droppedFiles(event.dataTransfer));
  });
  byId("settings").addEventListener("submit", (event) => {
    event.preventDefault();
    segment(false);
  });
  byId("beside").addEventListener("click", () => segment(true));
  byId("start-here").addEventListener("click", segmentInBrowser);
  byId("model").addEventListener("change", () => setBusy(running !== null));
  byId("cancel").addEventListener("click", cancel);
  byId("delete").addEventListener("click", deleteResults);
  byId("opacity").addEventListener("input", (event) => panes.setOpacity(Number(event.target.value)));
  byId("key-button").addEventListener("click", async () => {
    if (await askForKey()) start();
  });
  for (const button of document.querySelectorAll("[data-view]")) {
    button.addEventListener("click", () => {
      panes.setView(button.dataset.view);
      for (const other of document.querySelectorAll("[data-view]")) other.setAttribute("aria-pressed", other === button);
    });
  }
}

listen();
await start();
showView();
