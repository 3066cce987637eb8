// What the user chose or dropped: one file to upload, and what the viewer can show of it.

import { unzip, zip } from "../vendor/fflate/browser.js";
import { Problem } from "./api.js";

const SHOWN_DIRECTLY = /\.(nii|nii\.gz|nrrd|mha|mgz|mgh)$/i;
const IGNORED = /(^|\/)(\.|__MACOSX\/|Thumbs\.db$|DICOMDIR$)/i;

// Returns {name, upload, pictures}: `upload` is a Blob, `pictures()` resolves to the files that the viewer can read.
export async function readScan(files) {
  const scans = files.filter((file) => !IGNORED.test(pathOf(file)) && file.size > 0);
  if (!scans.length) throw new Problem("Nothing to segment", "The selection has no files with content in it.");
  if (scans.length > 1) return readSeries(scans);
  const [file] = scans;
  const start = new Uint8Array(await file.slice(0, 132).arrayBuffer());
  if (startsWith(start, 0, "PK\x03\x04")) {
    return { name: file.name, upload: file, isDicom: true, pictures: async () => convert(await unpack(file)) };
  }
  if (startsWith(start, 128, "DICM")) {
    return { name: file.name, upload: file, isDicom: true, pictures: () => convert([file]) };
  }
  return { name: file.name, upload: file, isDicom: false, pictures: async () => [named(file, start)] };
}

// The files of a drop, those in folders too.
export async function droppedFiles(transfer) {
  const entries = [...transfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
  if (!entries.length) return [...transfer.files];
  return (await Promise.all(entries.map((entry) => filesOf(entry)))).flat();
}

async function filesOf(entry) {
  if (entry.isFile) {
    const file = await new Promise((resolve, reject) => entry.file(resolve, reject));
    file.path = entry.fullPath.slice(1);
    return [file];
  }
  const reader = entry.createReader();
  const children = [];
  for (;;) {
    const some = await new Promise((resolve, reject) => reader.readEntries(resolve, reject)); // at most 100 at a time
    if (!some.length) break;
    children.push(...some);
  }
  return (await Promise.all(children.map((child) => filesOf(child)))).flat();
}

async function readSeries(files) {
  const contents = {};
  await Promise.all(
    files.map(async (file, number) => {
      contents[`${String(number).padStart(6, "0")}.dcm`] = new Uint8Array(await file.arrayBuffer());
    }),
  );
  const bytes = await new Promise((resolve, reject) => {
    zip(contents, { level: 0 }, (error, data) => (error ? reject(error) : resolve(data)));
  });
  const folder = pathOf(files[0]).split("/").slice(0, -1).pop();
  const upload = new Blob([bytes], { type: "application/zip" });
  const name = `${folder || "DICOM series"} (${files.length} files)`;
  return { name, upload, isDicom: true, pictures: () => convert(files) };
}

async function unpack(file) {
  const bytes = new Uint8Array(await file.arrayBuffer());
  const contents = await new Promise((resolve, reject) => {
    const filter = (entry) => !IGNORED.test(entry.name) && entry.originalSize > 0;
    unzip(bytes, { filter }, (error, data) => (error ? reject(error) : resolve(data)));
  });
  return Object.entries(contents).map(([name, data], number) => new File([data], `${number}-${name.split("/").pop()}`));
}

// DICOM to NIfTI in the browser, the largest picture first.
async function convert(files) {
  const { Dcm2niix } = await import("../vendor/dcm2niix/index.jpeg.js");
  const converter = new Dcm2niix();
  await converter.init();
  try {
    const made = await converter.input(files).b("n").z("n").f("%s").run();
    return made.filter((file) => /\.nii(\.gz)?$/.test(file.name)).sort((one, other) => other.size - one.size);
  } finally {
    converter.worker.terminate();
  }
}

// The viewer goes by the extension; the server does not, so neither does a file without one fail.
function named(file, start) {
  if (SHOWN_DIRECTLY.test(file.name)) return file;
  const gzipped = start[0] === 0x1f && start[1] === 0x8b;
  const extension = startsWith(start, 0, "NRRD") ? "nrrd" : startsWith(start, 0, "ObjectType") ? "mha" : gzipped ? "nii.gz" : "nii";
  return new File([file], `${file.name}.${extension}`);
}

function startsWith(bytes, offset, text) {
  return [...text].every((character, at) => bytes[offset + at] === character.charCodeAt(0));
}

function pathOf(file) {
  return file.path || file.webkitRelativePath || file.name;
}
