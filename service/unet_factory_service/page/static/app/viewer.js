// A canvas with a scan in three planes and 3D, and a label map over it.

import { MULTIPLANAR_TYPE, Niivue, NVImage, SHOW_RENDER, SLICE_TYPE } from "../vendor/niivue/index.js";

const MM_PER_UNIT = { 1: 1000, 3: 0.001 }; // by NIfTI's code of the unit of length, where it is not mm
const VIEWS = {
  all: SLICE_TYPE.MULTIPLANAR,
  axial: SLICE_TYPE.AXIAL,
  coronal: SLICE_TYPE.CORONAL,
  sagittal: SLICE_TYPE.SAGITTAL,
  render: SLICE_TYPE.RENDER,
};
// After Okabe and Ito: told apart with any colour vision, and none of them grey.
const COLOURS = [
  [230, 159, 0], [86, 180, 233], [0, 158, 115], [204, 121, 167], [240, 228, 66], [213, 94, 0], [0, 114, 178],
];
const STEPS = {
  ArrowLeft: [-1, 0, 0], ArrowRight: [1, 0, 0], ArrowUp: [0, 1, 0], ArrowDown: [0, -1, 0], PageUp: [0, 0, 1], PageDown: [0, 0, -1],
};

export function colourOf(value) {
  return COLOURS[(value - 1) % COLOURS.length];
}

export class Viewer {
  constructor(canvas, onLocation) {
    this.canvas = canvas;
    this.hidden = new Set();
    this.opacity = 0.6;
    this.niivue = new Niivue({
      backColor: [0.04, 0.05, 0.06, 1],
      crosshairColor: [1, 1, 1, 0.55],
      crosshairWidth: 0.5,
      crosshairWidthUnit: "percent",
      fontColor: [0.85, 0.88, 0.9, 1],
      dragAndDropEnabled: false,
      loadingText: "",
      logLevel: "error",
      multiplanarLayout: MULTIPLANAR_TYPE.GRID,
      multiplanarShowRender: SHOW_RENDER.ALWAYS,
      show3Dcrosshair: true,
      sliceType: SLICE_TYPE.MULTIPLANAR,
      tileMargin: 4,
    });
    this.niivue.onLocationChange = ({ mm, values: [scan, label] }) => {
      const found = this.labels?.find((known) => known.value > 0 && known.value === label?.value);
      onLocation([...mm].slice(0, 3), scan.value, found?.name);
    };
    this.ready = this.niivue.attachToCanvas(canvas);
    canvas.addEventListener("keydown", (event) => this.#step(event));
  }

  // Shows another scan, without labels. Rejects if it is not one that can be shown.
  async show(file) {
    await this.ready;
    const image = await NVImage.loadFromFile({ file, name: file.name });
    this.clear();
    this.niivue.addVolume(image);
    this.niivue.setCrosshairColor([1, 1, 1, 0.55]);
    const mmPerUnit = MM_PER_UNIT[image.hdr.xyzt_units & 7] ?? 1; // the viewer takes all lengths for mm
    const spacing = image.pixDimsRAS.slice(1, 4).map((length) => length * mmPerUnit);
    return { shape: image.dimsRAS.slice(1, 4), spacing };
  }

  get image() {
    return this.niivue.volumes[0];
  }

  clear() {
    for (const volume of [...this.niivue.volumes].reverse()) this.niivue.removeVolume(volume);
  }

  // Puts a label map (a NIfTI file's bytes) over the scan; `labels` are the model's.
  async overlay(bytes, labels) {
    await this.ready;
    this.removeOverlay();
    this.labels = labels;
    this.hidden.clear();
    const image = await NVImage.loadFromFile({ file: new File([bytes], "labels.nii.gz"), name: "labels.nii.gz" });
    image.setColormapLabel(this.#colours());
    this.niivue.addVolume(image);
    this.setOpacity(this.opacity);
    this.#centreOn(image);
  }

  removeOverlay() {
    for (const volume of this.niivue.volumes.slice(1)) this.niivue.removeVolume(volume);
  }

  setOpacity(opacity) {
    this.opacity = opacity;
    if (this.niivue.volumes.length > 1) this.niivue.setOpacity(1, opacity);
  }

  setLabelVisible(value, visible) {
    if (visible) this.hidden.delete(value);
    else this.hidden.add(value);
    if (this.niivue.volumes.length < 2) return;
    this.niivue.volumes[1].setColormapLabel(this.#colours());
    this.niivue.updateGLVolume();
  }

  // Both crosshairs and cameras follow each other; null: this one is on its own again.
  moveTogetherWith(other) {
    this.niivue.broadcastTo(other ? [other.niivue] : [], { "2d": true, "3d": true });
    other?.niivue.broadcastTo([this.niivue], { "2d": true, "3d": true });
    if (other) this.niivue.sync();
  }

  // The browser allows few WebGL contexts: this one is given back.
  close() {
    this.niivue.broadcastTo([], { "2d": false, "3d": false });
    this.niivue.gl.getExtension("WEBGL_lose_context")?.loseContext();
  }

  setView(name) {
    this.niivue.setSliceType(VIEWS[name]);
  }

  #colours() {
    const foreground = this.labels.filter((label) => label.value > 0);
    const all = [{ value: 0, name: "" }, ...foreground];
    const channel = (index) => all.map((label) => (label.value ? colourOf(label.value)[index] : 0));
    return {
      R: channel(0), G: channel(1), B: channel(2),
      A: all.map((label) => (label.value && !this.hidden.has(label.value) ? 255 : 0)),
      I: all.map((label) => label.value),
      labels: all.map((label) => label.name),
    };
  }

  // The crosshair goes to the middle of what was found.
  #centreOn(image) {
    const [, columns, rows, slices] = image.hdr.dims;
    const sums = [0, 0, 0];
    let count = 0;
    for (let at = 0; at < columns * rows * slices; at++) {
      if (!image.img[at]) continue;
      count++;
      sums[0] += at % columns;
      sums[1] += Math.floor(at / columns) % rows;
      sums[2] += Math.floor(at / (columns * rows));
    }
    if (!count) return;
    const [i, j, k] = sums.map((sum) => sum / count);
    const mm = image.hdr.affine.slice(0, 3).map((row) => row[0] * i + row[1] * j + row[2] * k + row[3]);
    this.niivue.scene.crosshairPos = this.niivue.mm2frac(mm, 0, true);
    this.niivue.createOnLocationChange();
    this.niivue.drawScene();
  }

  #step(event) {
    const step = STEPS[event.key];
    if (!step || event.ctrlKey || event.altKey || event.metaKey || !this.niivue.volumes.length) return;
    event.preventDefault();
    event.stopImmediatePropagation();
    this.niivue.moveCrosshairInVox(...step);
  }
}
