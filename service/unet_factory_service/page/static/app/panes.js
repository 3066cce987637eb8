// One picture of the scan, or two side by side whose crosshairs move together.

import { make, show } from "./elements.js";
import { Viewer } from "./viewer.js";

export class Panes {
  constructor(container, onLocation) {
    this.container = container;
    this.onLocation = onLocation;
    this.panes = [this.#pane()];
    this.opacity = 0.6;
    this.view = "all";
    this.picture = null;
  }

  get showsScan() {
    return this.picture !== null;
  }

  // The viewer's image of the scan.
  get image() {
    return this.panes[0].viewer.image;
  }

  // Says in the first pane why there is no picture.
  showText(text) {
    this.#closeSecond();
    this.picture = null;
    this.panes[0].viewer.clear();
    this.panes[0].stage.dataset.text = text;
    this.panes[0].stage.classList.add("empty");
    this.panes[0].caption.textContent = "";
  }

  // Returns {shape, spacing} in the order R,A,S.
  async showScan(file, name) {
    const found = await this.panes[0].viewer.show(file);
    this.picture = file;
    this.panes[0].stage.classList.remove("empty");
    this.panes[0].caption.textContent = name;
    return found;
  }

  async showResult(labelmap, labels, caption, beside) {
    if (!this.picture) return;
    const pane = beside ? await this.#second() : this.panes[0];
    await pane.viewer.overlay(labelmap, labels);
    pane.viewer.setOpacity(this.opacity);
    pane.caption.textContent = caption;
  }

  removeResults() {
    this.#closeSecond();
    for (const pane of this.panes) pane.viewer.removeOverlay();
  }

  setOpacity(opacity) {
    this.opacity = opacity;
    for (const pane of this.panes) pane.viewer.setOpacity(opacity);
  }

  setLabelVisible(value, visible) {
    for (const pane of this.panes) pane.viewer.setLabelVisible(value, visible);
  }

  setView(view) {
    this.view = view;
    for (const pane of this.panes) pane.viewer.setView(view);
  }

  #pane() {
    const canvas = make("canvas", {
      tabindex: "0",
      role: "img",
      "aria-label": "The scan in three planes and in 3D. Arrow keys, Page Up and Page Down move the crosshair.",
    });
    const stage = make("div", { class: "stage empty" }, canvas);
    const caption = make("figcaption");
    const figure = make("figure", { class: "pane" }, stage, caption);
    this.container.append(figure);
    return { figure, stage, caption, viewer: new Viewer(canvas, this.onLocation) };
  }

  async #second() {
    if (this.panes.length < 2) {
      const pane = this.#pane();
      this.panes.push(pane);
      await pane.viewer.show(this.picture);
      pane.stage.classList.remove("empty");
      pane.viewer.setView(this.view);
      this.panes[0].viewer.moveTogetherWith(pane.viewer);
    }
    return this.panes[1];
  }

  #closeSecond() {
    for (const pane of this.panes.splice(1)) {
      pane.viewer.close();
      pane.figure.remove();
    }
    this.panes[0].viewer.moveTogetherWith(null);
    show(this.panes[0].figure, true);
  }
}
