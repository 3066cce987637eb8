// The jobs of this key: what became of them, and their results again.

import { json, request } from "./api.js";
import { byId, make, show } from "./elements.js";
import { showProblem } from "./problems.js";
import { captionOf, downloads, STATES, warningItems } from "./result.js";
import { spacingText, timeText } from "./units.js";

let next = null;

export async function listJobs() {
  byId("job-list").replaceChildren();
  next = null;
  await listMore();
}

async function listMore() {
  const query = new URLSearchParams({ limit: 20 });
  if (byId("job-state").value) query.set("state", byId("job-state").value);
  if (next) query.set("cursor", next);
  const page = await json(`segmentations?${query}`);
  next = page.next;
  byId("job-list").append(...page.jobs.map(jobItem));
  show(byId("more-jobs"), next !== null);
  show(byId("no-jobs"), next === null && byId("job-list").children.length === 0);
}

function jobItem(job) {
  const more = make("div", { class: "more", hidden: true });
  const open = make("button", { type: "button", "aria-expanded": "false", onclick: () => toggle(job, more, open).catch(showProblem) }, "Details");
  const remove = make("button", { type: "button", class: "quiet", onclick: () => deleteJob(job, item).catch(showProblem) }, "Delete");
  const spacing = job.spacing.working ?? job.spacing.native;
  const item = make(
    "li", {},
    make(
      "div", { class: "row spread" },
      make("span", { class: `badge ${job.state}` }, STATES[job.state]),
      make("span", { class: "grow" }, `${job.model}${spacing ? `, ${spacingText(spacing)} mm` : ""}`),
      make("span", { class: "facts" }, timeText(job.created)),
      open, remove,
    ),
    more,
  );
  return item;
}

async function toggle(job, more, open) {
  const expand = more.hidden;
  open.setAttribute("aria-expanded", expand);
  if (expand && !more.childElementCount) await fill(job, more);
  show(more, expand);
}

async function fill(job, more) {
  if (job.error) more.append(make("p", { class: "problem" }, make("strong", {}, job.error.title), job.error.detail));
  const warnings = warningItems([job]);
  if (warnings.length) more.append(make("ul", { class: "warnings", "aria-label": "Warnings" }, ...warnings));
  for (const [label, volume] of Object.entries(job.volumes_ml ?? {})) more.append(make("p", {}, `${label}: ${volume.toFixed(2)} ml`));
  more.append(make("p", { class: "facts" }, `Job ${job.id}; it is deleted on ${timeText(job.expires)}.`));
  if (job.state !== "succeeded") return;
  more.append(downloads(job, false, showProblem));
  const preview = await request(`segmentations/${job.id}/preview.png`).catch(() => null); // only made on request
  if (preview) more.prepend(make("img", { src: URL.createObjectURL(await preview.blob()), alt: `Three planes with the outlines found by ${captionOf(job)}` }));
}

async function deleteJob(job, item) {
  await request(`segmentations/${job.id}`, { method: "DELETE" });
  item.remove();
  show(byId("no-jobs"), next === null && byId("job-list").children.length === 0);
}

byId("job-state").addEventListener("change", () => listJobs().catch(showProblem));
byId("more-jobs").addEventListener("click", () => listMore().catch(showProblem));
