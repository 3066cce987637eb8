// Segments a volume in this browser as the server does: z-score, windows, Gaussian blending, arg max.

import * as ort from "../vendor/onnxruntime-web/ort.wasm.bundle.min.js";
import { keepLargest } from "./components.js";
import { gaussian, paddedExtents, windowExtents, windowPlaces } from "./windows.js";

const MOST_THREADS = 8;
const MOST_BYTES = 1.5e9; // of logits; WebAssembly and the page need memory, too

ort.env.wasm.wasmPaths = { wasm: new URL("../vendor/onnxruntime-web/ort-wasm-simd-threaded.wasm", import.meta.url).href };
ort.env.wasm.numThreads = self.crossOriginIsolated ? Math.min(navigator.hardwareConcurrency, MOST_THREADS) : 1;

self.addEventListener("message", async ({ data }) => {
  try {
    const labels = await segment(data);
    self.postMessage({ labels }, [labels.buffer]);
  } catch (error) {
    self.postMessage({ error: String(error?.message ?? error) });
  }
});

// `voxels` (float32, R fastest) of extents `shape`, and the network with what its manifest says of it.
async function segment({ network, manifest, divisors, voxels, shape }) {
  zscore(voxels);
  const padded = paddedExtents(shape, divisors);
  const extents = windowExtents(padded, manifest.window, divisors);
  const places = windowPlaces(padded, extents, manifest.window_overlap);
  const classes = manifest.labels.length;
  if (4 * classes * voxels.length > MOST_BYTES) throw new Error("the scan is too large for a browser's memory");
  const session = await ort.InferenceSession.create(network, { executionProviders: ["wasm"] });
  const weights = places.length > 1 ? gaussian(extents) : null;
  const sums = new Float32Array(classes * voxels.length);
  for (const [done, place] of places.entries()) {
    self.postMessage({ progress: done / places.length });
    const volume = new ort.Tensor("float32", cut(voxels, shape, place, extents), [1, 1, ...extents]);
    const { logits } = await session.run({ volume });
    add(sums, shape, logits.data, place, extents, weights);
  }
  const labels = largestClass(sums, classes, voxels.length);
  for (const group of manifest.postprocessing.keep_largest) keepLargest(labels, shape, group);
  return labels;
}

function zscore(voxels) {
  let sum = 0;
  for (const value of voxels) sum += value;
  const mean = sum / voxels.length;
  let squares = 0;
  for (const value of voxels) squares += (value - mean) ** 2;
  const spread = Math.sqrt(squares / voxels.length);
  if (!Number.isFinite(spread)) throw new Error("the scan has voxels that are not finite numbers");
  if (spread === 0) throw new Error("the intensities are all alike");
  for (let at = 0; at < voxels.length; at++) voxels[at] = (voxels[at] - mean) / spread;
}

// The window at `place`, S fastest; zeros (the mean) beyond the far ends of the scan.
function cut(voxels, shape, place, extents) {
  const window = new Float32Array(extents[0] * extents[1] * extents[2]);
  eachVoxel(shape, place, extents, (here, there) => (window[there] = voxels[here]));
  return window;
}

// Adds a window's logits to the sums of each class. Their weights need not be divided out again: the largest stays so.
function add(sums, shape, logits, place, extents, weights) {
  const volume = shape[0] * shape[1] * shape[2];
  const window = extents[0] * extents[1] * extents[2];
  for (let from = 0, to = 0; to < sums.length; from += window, to += volume) {
    eachVoxel(shape, place, extents, (here, there) => (sums[to + here] += logits[from + there] * (weights ? weights[there] : 1)));
  }
}

// Calls `visit` for each voxel of a window that lies in the scan, with its index in the scan and in the window.
function eachVoxel(shape, place, extents, visit) {
  const [right, anterior, superior] = shape.map((extent, axis) => Math.min(extents[axis], extent - place[axis]));
  for (let r = 0; r < right; r++) {
    for (let a = 0; a < anterior; a++) {
      for (let s = 0; s < superior; s++) {
        const here = place[0] + r + shape[0] * (place[1] + a + shape[1] * (place[2] + s));
        visit(here, s + extents[2] * (a + extents[1] * r));
      }
    }
  }
}

function largestClass(sums, classes, voxels) {
  const labels = new Uint8Array(voxels);
  for (let at = 0; at < voxels; at++) {
    let best = 0;
    for (let value = 1; value < classes; value++) if (sums[value * voxels + at] > sums[best * voxels + at]) best = value;
    labels[at] = best;
  }
  return labels;
}
