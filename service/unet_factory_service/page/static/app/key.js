// The API key: in memory, or in this tab's session storage if the user says so. Never in a URL or a cookie.

import { byId, show } from "./elements.js";

const NAME = "unet-factory-key";
let key = sessionStorage.getItem(NAME) || "";

export function apiKey() {
  return key;
}

// Asks until a key is given or refused; resolves to whether there is a new one.
export function askForKey(why) {
  const dialog = byId("key-dialog");
  const input = byId("key");
  if (why) byId("key-why").textContent = why;
  input.value = "";
  show(byId("key-button"), true);
  dialog.returnValue = "";
  dialog.showModal();
  input.focus();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => resolve(dialog.returnValue === "use"), { once: true });
  });
}

function use() {
  key = byId("key").value.trim();
  if (byId("key-keep").checked) sessionStorage.setItem(NAME, key);
  else sessionStorage.removeItem(NAME);
}

byId("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  use();
  byId("key-dialog").close("use");
});
byId("key-cancel").addEventListener("click", () => byId("key-dialog").close(""));
