// What went wrong, in words; and a key where one is missing.

import { Problem } from "./api.js";
import { byId, make, show } from "./elements.js";
import { askForKey } from "./key.js";

// Runs what asks the API; asks for a key where one is missing, and says what went wrong.
export async function withKey(action) {
  try {
    await action();
  } catch (error) {
    if (error.name === "AbortError") return;
    if (error.status === 401 && (await askForKey(error.detail))) return withKey(action);
    showProblem(error);
  }
}

export function showProblem(error) {
  if (!(error instanceof Problem)) console.error(error);
  const said = make("p", {}, make("strong", {}, error.title ?? "Something went wrong"), error.detail ?? error.message);
  byId("problem").replaceChildren(said, make("button", { type: "button", class: "quiet", onclick: hideProblem }, "Close"));
  show(byId("problem"), true);
  byId("problem").scrollIntoView({ block: "nearest" });
}

export function hideProblem() {
  show(byId("problem"), false);
}
