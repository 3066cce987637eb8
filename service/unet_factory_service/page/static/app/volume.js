// The voxels of the viewer's image in the order R, A, S, and a label map on the image's own grid.

import { NVImage } from "../vendor/niivue/index.js";
import { Problem } from "./api.js";

const TOLERANCE = 1e-3; // relative, between what a header says twice of its spacing
const MOST_SHEAR = Math.sin(Math.PI / 180); // one degree
const MM_OR_UNKNOWN = [0, 2]; // codes of NIfTI's unit of length
const UINT8 = 2; // NIfTI's code of that data type
const NUMBERS = [UINT8, 4, 8, 16, 64, 256, 512, 768]; // its codes of integers and floating-point numbers

// {voxels: float32 with R fastest, shape, spacing}; `spacing` replaces the header's where it is not null.
export function volumeOf(image, spacing) {
  check(image, spacing === null);
  const { scl_slope: slope, scl_inter: inter } = image.hdr;
  const voxels = new Float32Array(image.nVox3D);
  eachVoxel(image, (stored, ras) => (voxels[ras] = image.img[stored] * slope + inter));
  return { voxels, shape: image.dimsRAS.slice(1, 4), spacing: spacing ?? columnLengths(image) };
}

// The spacing in mm (R,A,S) that the affine implies.
export function columnLengths(image) {
  const lengths = columns(image).map((column) => Math.hypot(...column));
  return image.permRAS.map((axis) => lengths[Math.abs(axis) - 1]);
}

// A NIfTI file with nothing in it but the labels and the image's grid: other headers may name a patient.
export function labelmapFile(image, labels) {
  const stored = new Uint8Array(labels.length);
  eachVoxel(image, (at, ras) => (stored[at] = labels[ras]));
  const { dims, pixDims, affine } = image.hdr;
  return NVImage.createNiftiArray(dims.slice(1, 4), pixDims.slice(1, 4), affine.flat(), UINT8, stored);
}

function check(image, judgeSpacing) {
  const { dims, pixDims, datatypeCode, qform_code: qform, sform_code: sform, xyzt_units: units } = image.hdr;
  if (dims.slice(4, dims[0] + 1).some((length) => length > 1)) throw refusal("it holds more than one volume");
  if (image.imaginary || !NUMBERS.includes(datatypeCode)) throw refusal("its voxels are not one real number each");
  if (sform > 0 && qform > sform) throw refusal("its header prefers its qform, the server the sform"); // the viewer obeys
  const directions = columns(image).map((column) => column.map((part) => part / Math.hypot(...column)));
  for (const [one, other] of [[0, 1], [0, 2], [1, 2]]) {
    const cosine = directions[one].reduce((sum, part, axis) => sum + part * directions[other][axis], 0);
    if (!(Math.abs(cosine) <= MOST_SHEAR)) throw refusal("its axes do not stand at right angles");
  }
  if (!judgeSpacing) return;
  if (!MM_OR_UNKNOWN.includes(units & 7)) throw refusal("its lengths are not in mm");
  const lengths = columns(image).map((column) => Math.hypot(...column));
  const agree = lengths.every((length, axis) => Math.abs(length - pixDims[axis + 1]) <= TOLERANCE * pixDims[axis + 1]);
  if (!agree) throw refusal("its header contradicts itself about the spacing; correct the spacing under “More options”");
}

function columns(image) {
  return [0, 1, 2].map((column) => [0, 1, 2].map((row) => image.hdr.affine[row][column]));
}

// Calls `visit` for each voxel with its index in the file and, with R fastest, in the order R, A, S.
function eachVoxel(image, visit) {
  const [, right, anterior, superior] = image.dimsRAS;
  const { img2RASstart: start, img2RASstep: step } = image;
  let ras = 0;
  for (let s = 0; s < superior; s++) {
    for (let a = 0; a < anterior; a++) {
      let stored = start[0] + start[1] + a * step[1] + start[2] + s * step[2];
      for (let r = 0; r < right; r++, stored += step[0]) visit(stored, ras++);
    }
  }
}

function refusal(reason) {
  return new Problem("This scan cannot be segmented in the browser", `The reason: ${reason}. The server may still read it.`);
}
