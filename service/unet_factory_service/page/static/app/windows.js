// How a volume is divided into the windows that a network is given: the server's rules (domain/windows.py) once more.
// Extents are voxels along R, A and S.

const SIGMA_PER_EXTENT = 1 / 8;
const LEAST_WEIGHT = 1e-3; // no voxel may be left without any

// Each extent rounded up to a multiple of its axis's divisor; never one voxel alone at the bottom of the network.
export function paddedExtents(extents, divisors) {
  const padded = extents.map((extent, axis) => roundUp(extent, divisors[axis]));
  if (padded.every((extent, axis) => extent === divisors[axis])) padded[0] *= 2;
  return padded;
}

export function windowExtents(padded, window, divisors) {
  return padded.map((whole, axis) => Math.min(whole, roundUp(window[axis], divisors[axis])));
}

// Where windows start, [r, a, s] for each.
export function windowPlaces(padded, extents, overlap) {
  const [along, across, up] = padded.map((whole, axis) => starts(whole, extents[axis], overlap));
  return along.flatMap((r) => across.flatMap((a) => up.map((s) => [r, a, s])));
}

// The weights of a window's voxels, S fastest: a Gaussian of an eighth of the window around its middle.
export function gaussian(extents) {
  const [r, a, s] = extents.map((extent) =>
    Float32Array.from({ length: extent }, (_, at) => Math.exp(-0.5 * ((at - (extent - 1) / 2) / (extent * SIGMA_PER_EXTENT)) ** 2)),
  );
  const least = Math.max(r[0] * a[0] * s[0], LEAST_WEIGHT);
  const weights = new Float32Array(r.length * a.length * s.length);
  let at = 0;
  for (const along of r) for (const across of a) for (const up of s) weights[at++] = Math.max(along * across * up, least);
  return weights;
}

function starts(whole, part, overlap) {
  const step = Math.max(1, Math.floor(part * (1 - overlap)));
  const found = [];
  for (let start = 0; start < whole - part; start += step) found.push(start);
  return [...found, Math.max(0, whole - part)];
}

function roundUp(value, multiple) {
  return Math.ceil(value / multiple) * multiple;
}
