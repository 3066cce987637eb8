// Whether a scan and its result look like what a model was trained on: the server's rule (domain/plausibility.py).

const AXES = ["R", "A", "S"];

export function implausibleFieldOfView(seen, { shape, spacing }) {
  if (!seen) return [];
  const found = AXES.map((axis, at) => ({
    what: "field_of_view_mm", axis, value: shape[at] * spacing[at], expected: expected(seen, seen.field_of_view_mm[at]),
  }));
  return found.filter(outside);
}

export function implausibleVolumes(seen, volumes) {
  if (!seen) return [];
  const found = Object.entries(seen.volumes_ml).map(([label, span]) => ({
    what: "volume_ml", label, value: volumes[label], expected: expected(seen, span),
  }));
  return found.filter(outside);
}

function expected({ margin }, { low, high }) {
  const factor = low <= 0 ? margin : Math.max(margin, Math.sqrt(high / low));
  return [low / factor, high * factor];
}

function outside({ value, expected: [low, high] }) {
  return value < low || value > high;
}
