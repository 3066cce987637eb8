// The form: which model, at which spacing, with which options.

import { byId, make, show } from "./elements.js";

let models = [];

export function fillModels(found) {
  models = found;
  const select = byId("model");
  select.replaceChildren(...models.map((model) => make("option", { value: model.name, selected: model.default }, model.name)));
  select.addEventListener("change", showModel);
  showModel();
}

export function chosenModel() {
  return models.find((model) => model.name === byId("model").value);
}

export function modelNamed(name) {
  return models.find((model) => model.name === name);
}

// The fields of the request, without those that are left at the server's defaults.
export function settings() {
  const fields = { model: byId("model").value, outside: byId("outside").value };
  if (chosenSpacing()) fields.working_spacing = Array(3).fill(chosenSpacing()).join(",");
  const header = byId("header-spacing").value.trim();
  if (header) fields.spacing = header;
  const conditions = [...document.querySelectorAll("#conditions input")].map((input) => `${input.name}=${input.value}`);
  if (conditions.length) fields.conditions = conditions.join(",");
  return fields;
}

function chosenSpacing() {
  return document.querySelector("input[name=spacing]:checked").value === "other" ? byId("spacing").value : null;
}

function showModel() {
  const model = chosenModel();
  const names = model.labels.filter((label) => label.value > 0).map((label) => label.name);
  const range = model.trained_range_mm.map(([low, high]) => `${mm(low)}–${mm(high)}`);
  const alike = range.every((one) => one === range[0]);
  byId("model-facts").textContent =
    `${model.modality}: ${names.join(", ")}. Trained for ${alike ? range[0] : range.join(" × ")} mm.`;
  const slider = byId("spacing");
  slider.min = Math.max(...model.trained_range_mm.map(([low]) => low));
  slider.max = Math.min(...model.trained_range_mm.map(([, high]) => high));
  slider.step = model.grid_step_mm;
  slider.value = Math.max(slider.min, Math.min(slider.max, 1));
  showSpacing();
  byId("conditions").replaceChildren(...model.conditions.flatMap(conditionInput));
}

function conditionInput(condition) {
  const { name, minimum, maximum, step } = condition;
  const input = make("input", { type: "number", id: `condition-${name}`, name, min: minimum, max: maximum, step, value: condition.default });
  return [make("label", { for: input.id }, `${name.replaceAll("_", " ")} (${minimum} to ${maximum})`), input];
}

function showSpacing() {
  show(byId("other-spacing"), chosenSpacing() !== null);
  byId("spacing-text").textContent = `${mm(Number(byId("spacing").value))} mm`;
}

export function mm(value) {
  return String(Number(value.toFixed(3)));
}

byId("settings").addEventListener("input", showSpacing);
