// The form: which model, at which spacing, with which options.

import { byId, make, show } from "./elements.js";
import { chosenSpacing, quote, showChoice } from "./spacing.js";
import { mm } from "./units.js";

let models = [];
let scan = null;

export function fillModels(found) {
  models = found;
  const options = models.map((model) => make("option", { value: model.name, selected: model.default }, model.name));
  byId("model").replaceChildren(...options);
  return showModel();
}

export function modelNamed(name) {
  return models.find((model) => model.name === name);
}

// Prices are for this scan from now on: {shape, spacing, isDicom}, or null if its header could not be read here.
export function setScan(found) {
  scan = found;
  return showPrices();
}

// The fields of the request, without those that are left at the server's defaults.
export function settings() {
  const fields = { model: byId("model").value, outside: byId("outside").value };
  const working = byId("working-spacing").value.trim() || chosenSpacing()?.join(",");
  if (working) fields.working_spacing = working;
  const header = byId("header-spacing").value.trim();
  if (header) fields.spacing = header;
  const conditions = conditionsText();
  if (conditions) fields.conditions = conditions;
  if (isMirrored()) fields.mirroring = "true";
  return fields;
}

// The same for this browser, which segments at the scan's own spacing: {model, spacing or null, conditions}.
export function settingsHere() {
  const header = byId("header-spacing").value.trim();
  const spacing = header ? header.split(",").map(Number) : null;
  return { model: modelNamed(byId("model").value), spacing, conditions: conditionsText() };
}

function conditionsText() {
  return [...document.querySelectorAll("#conditions input")].map((input) => `${input.name}=${input.value}`).join(",");
}

function showModel() {
  const model = modelNamed(byId("model").value);
  const names = model.labels.filter((label) => label.value > 0).map((label) => label.name);
  const ensemble = model.members.length > 0 ? ` An ensemble of ${model.members.length} networks.` : "";
  byId("model-facts").textContent = `${model.modality}: ${names.join(", ")}. Trained for ${rangeText(model)} mm.${ensemble}`;
  show(byId("mirroring-choice"), model.mirrored_axes.length > 0);
  byId("conditions").replaceChildren(...model.conditions.flatMap(conditionInput));
  return showPrices();
}

// Jobs that have ended since may have made the prices better, or known.
export function showPrices() {
  return quote(byId("model").value, scan, byId("outside").value, isMirrored());
}

function isMirrored() {
  return byId("mirroring").checked && modelNamed(byId("model").value).mirrored_axes.length > 0;
}

export function rangeText(model) {
  const range = model.trained_range_mm.map(([low, high]) => `${mm(low)}–${mm(high)}`);
  return range.every((axis) => axis === range[0]) ? range[0] : range.join(" × ");
}

function conditionInput({ name, minimum, maximum, step, default: value }) {
  const input = make("input", { type: "number", id: `condition-${name}`, name, min: minimum, max: maximum, step, value });
  return [make("label", { for: input.id }, `${name.replaceAll("_", " ")} (${minimum} to ${maximum})`), input];
}

byId("model").addEventListener("change", showModel);
byId("outside").addEventListener("change", showPrices);
byId("mirroring").addEventListener("change", showPrices);
byId("spacing").addEventListener("input", showChoice);
