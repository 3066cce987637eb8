// Segmenting in this browser: the scan stays here, and only the network for its spacing comes from the server.

import { Problem, request } from "./api.js";
import { implausibleVolumes, implausibleFieldOfView } from "./plausibility.js";
import { columnLengths, labelmapFile, volumeOf } from "./volume.js";

const BY_SERVER = "Have the server segment it.";
const PAUSE_MS = 1000;
const PATIENCE_MS = 20000;

// Resolves to what a job tells of itself, with its label map as bytes in `local`; its grid is that of the scan.
// `image` is the viewer's; `spacing` corrects the header's where it is not null.
export async function segmentHere({ image, spacing, model, conditions }, onProgress, signal) {
  const started = performance.now();
  if (model.members.length > 0) throw failure(`${model.name} is an ensemble of ${model.members.length} networks; a browser runs single ones only`);
  const volume = volumeOf(image, spacing);
  const query = { model: model.name, spacing: volume.spacing.join(","), outside: "reject", ...(conditions ? { conditions } : {}) };
  const [manifest, network] = await Promise.all([manifestOf(query, signal), bytesOf({ ...query, format: "onnx" }, signal)]);
  const fetched = performance.now();
  const divisors = [0, 1, 2].map((axis) => manifest.strides.reduce((product, stride) => product * (stride[axis] ?? 1), 1));
  const labels = await compute({ network, manifest, divisors, voxels: volume.voxels, shape: volume.shape }, onProgress, signal);
  const volumes = volumesOf(labels, model, volume.spacing);
  return {
    local: labelmapFile(image, labels),
    model: model.name,
    spacing: { native: columnLengths(image), working: volume.spacing },
    policy: { outside: "reject", out_of_range: false },
    conditions: manifest.conditions,
    volumes_ml: volumes,
    implausible: [...implausibleFieldOfView(model.seen, volume), ...implausibleVolumes(model.seen, volumes)],
    notes: [],
    timings_s: { fetch: (fetched - started) / 1000, infer: (performance.now() - fetched) / 1000 },
  };
}

// Everything a network's user must know is in the header of its safetensors file: its length, then JSON.
async function manifestOf(query, signal) {
  const length = new DataView(await bytesOf(query, signal, "bytes=0-7")).getUint32(0, true);
  const header = await bytesOf(query, signal, `bytes=8-${7 + length}`);
  return JSON.parse(JSON.parse(new TextDecoder().decode(header)).__metadata__.unet_factory_manifest);
}

// Asks again while a worker makes the network (202), and for a while where none is up (503).
async function bytesOf(query, signal, range) {
  const patient = performance.now() + PATIENCE_MS;
  for (;;) {
    try {
      const response = await request(`unet?${new URLSearchParams(query)}`, { signal, headers: range ? { Range: range } : {} });
      if (response.status !== 202) return await response.arrayBuffer();
    } catch (error) {
      if (error.status !== 503 || performance.now() > patient) throw error;
    }
    await new Promise((resolve) => setTimeout(resolve, PAUSE_MS));
  }
}

// In a worker, so that the page stays usable; it is ended when `signal` aborts.
function compute(task, onProgress, signal) {
  const worker = new Worker(new URL("./local-worker.js", import.meta.url), { type: "module" });
  return new Promise((resolve, reject) => {
    signal.addEventListener("abort", () => reject(new DOMException("cancelled", "AbortError")));
    worker.addEventListener("error", (event) => reject(failure(event.message || "its worker could not be started")));
    worker.addEventListener("message", ({ data: { progress, labels, error } }) => {
      if (error) reject(failure(error));
      else if (labels) resolve(labels);
      else onProgress(progress);
    });
    worker.postMessage(task, [task.network, task.voxels.buffer]);
  }).finally(() => worker.terminate());
}

function failure(reason) {
  return new Problem("This browser could not segment the scan", `${reason}. ${BY_SERVER}`);
}

function volumesOf(labels, model, spacing) {
  const counts = new Array(model.labels.length).fill(0);
  for (const value of labels) counts[value]++;
  const voxel = spacing.reduce((product, side) => product * side, 1) / 1000;
  return Object.fromEntries(model.labels.filter(({ value }) => value > 0).map(({ name, value }) => [name, counts[value] * voxel]));
}
