// The page: choose a scan, see it, have it segmented, see and download the result.

import { follow, json, Problem, request } from "./api.js";
import { byId, make, show } from "./elements.js";
import { askForKey } from "./key.js";
import { captionOf, showProgress, showResult } from "./result.js";
import { droppedFiles, readScan } from "./scan.js";
import { fillModels, modelNamed, mm, settings } from "./settings.js";
import { Viewer } from "./viewer.js";

const viewer = new Viewer(byId("canvas"), (position, [scan, label]) => {
  const [right, anterior, superior] = position.map((coordinate) => coordinate.toFixed(1));
  const parts = [`R ${right}, A ${anterior}, S ${superior} mm`, `intensity ${Number(scan.value.toPrecision(5))}`];
  if (label?.label) parts.push(label.label);
  byId("location").textContent = parts.join(" · ");
});
const stage = byId("canvas").parentElement;

let scan = null;
let job = null;
let following = null; // aborts the upload or the stream of the job that runs

async function start() {
  showEmpty("Drop a scan anywhere on this page");
  await withKey(async () => fillModels(await json("models")));
}

async function choose(files) {
  hideProblem();
  try {
    await forgetJob();
    scan = await readScan(files);
    byId("scan-name").textContent = scan.name;
    byId("scan-facts").textContent = `${(scan.upload.size / 1e6).toFixed(1)} MB`;
    byId("start").disabled = false;
    await showScan(scan);
  } catch (error) {
    showProblem(error);
  }
}

async function showScan(chosen) {
  showEmpty("Reading the scan…");
  try {
    const [picture] = await chosen.pictures();
    if (!picture) throw new Error("no picture");
    const { shape, spacing } = await viewer.show(picture);
    if (chosen !== scan) return;
    byId("scan-facts").textContent += `, ${shape.join(" × ")} voxels of ${spacing.map(mm).join(" × ")} mm`;
    byId("caption").textContent = chosen.name;
    stage.classList.remove("empty");
  } catch (error) {
    console.info("the viewer cannot show this file:", error.message);
    viewer.clear();
    showEmpty("The browser cannot show this file. It can still be sent to be segmented: the server reads more formats.");
  }
}

async function segment(event) {
  event.preventDefault();
  hideProblem();
  await forgetJob();
  const chosen = scan;
  const form = new FormData();
  for (const [name, value] of Object.entries({ ...settings(), preview: "true" })) form.set(name, value);
  form.set("file", chosen.upload, "scan");
  following = new AbortController();
  const { signal } = following;
  setBusy(true);
  showProgress({ state: "queued", progress: 0 });
  byId("state").textContent = "Uploading";
  await withKey(async () => {
    job = await json("segmentations", { method: "POST", body: form, signal });
    job = await follow(job.id, showProgress, signal);
    show(byId("progress"), false);
    await showEnd(chosen);
  });
  setBusy(false);
}

async function showEnd(chosen) {
  if (job.state !== "succeeded") throw new Problem(job.error?.title ?? "The job was cancelled", job.error?.detail ?? "");
  const model = modelNamed(job.model);
  const labelmap = await (await request(`segmentations/${job.id}/labelmap`)).arrayBuffer();
  if (!stage.classList.contains("empty")) await viewer.overlay(labelmap, model.labels);
  byId("caption").textContent = captionOf(job);
  showResult(job, model, {
    isDicom: chosen.isDicom,
    onVisible: (value, visible) => viewer.setLabelVisible(value, visible),
    onProblem: showProblem,
  });
  byId("result").dataset.job = job.id;
}

// Cancelling and deleting are one thing to the API: the job ends and its data go.
async function deleteJob() {
  following?.abort();
  const gone = job;
  await forgetJob();
  if (!gone) return;
  await withKey(() => request(`segmentations/${gone.id}`, { method: "DELETE" }));
}

async function forgetJob() {
  following?.abort();
  following = null;
  job = null;
  setBusy(false);
  show(byId("result"), false);
  viewer.removeOverlay();
}

function setBusy(busy) {
  show(byId("progress"), busy);
  byId("start").disabled = busy || !scan;
}

// Runs what asks the API; asks for a key where one is missing, and says what went wrong.
async function withKey(action) {
  try {
    await action();
  } catch (error) {
    if (error.name === "AbortError") return;
    if (error.status === 401 && (await askForKey(error.detail))) return withKey(action);
    showProblem(error);
  }
}

function showProblem(error) {
  if (!(error instanceof Problem)) console.error(error);
  byId("problem").replaceChildren(make("strong", {}, error.title ?? "Something went wrong"), error.detail ?? error.message);
  show(byId("problem"), true);
}

function hideProblem() {
  show(byId("problem"), false);
}

function showEmpty(text) {
  stage.dataset.text = text;
  stage.classList.add("empty");
}

function listen() {
  byId("choose-files").addEventListener("click", () => byId("files").click());
  byId("choose-folder").addEventListener("click", () => byId("folder").click());
  for (const id of ["files", "folder"]) {
    byId(id).addEventListener("change", (event) => {
      if (event.target.files.length) choose([...event.target.files]);
      event.target.value = "";
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
  byId("settings").addEventListener("submit", segment);
  byId("cancel").addEventListener("click", deleteJob);
  byId("delete").addEventListener("click", deleteJob);
  byId("opacity").addEventListener("input", (event) => viewer.setOpacity(Number(event.target.value)));
  byId("key-button").addEventListener("click", async () => {
    if (await askForKey()) start();
  });
  for (const button of document.querySelectorAll("[data-view]")) {
    button.addEventListener("click", () => {
      viewer.setView(button.dataset.view);
      for (const other of document.querySelectorAll("[data-view]")) other.setAttribute("aria-pressed", other === button);
    });
  }
}

listen();
await start();
