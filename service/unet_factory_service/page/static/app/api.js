// The gateway's API, at the address that this file came from. Every failure becomes a Problem with the API's own words.

import { createParser } from "../vendor/eventsource-parser/index.js";
import { apiKey } from "./key.js";

const ROOT = new URL("../../../", import.meta.url);
const RECONNECTS = 5;

export class Problem extends Error {
  constructor(title, detail, status = 0) {
    super(detail || title);
    this.title = title;
    this.detail = detail;
    this.status = status;
  }
}

export async function request(path, options = {}) {
  const headers = new Headers(options.headers);
  if (apiKey()) headers.set("Authorization", `Bearer ${apiKey()}`);
  let response;
  try {
    response = await fetch(new URL(path, ROOT), { ...options, headers });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem("The server cannot be reached", "Check that it is running and that your network connection works.");
  }
  if (!response.ok) throw await problemOf(response);
  return response;
}

export async function json(path, options) {
  return (await request(path, options)).json();
}

// Calls `onJob` with the job now and at every change, until it has ended; returns the job as it ended.
export async function follow(id, onJob, signal) {
  let job = null;
  let failures = 0;
  while (true) {
    try {
      for await (job of events(`segmentations/${id}/events`, signal)) {
        failures = 0;
        onJob(job);
        if (isFinal(job)) return job;
      }
    } catch (error) {
      if (signal.aborted || error.status) throw error;
    }
    if (++failures > RECONNECTS) throw new Problem("The connection was lost", "Load the page again; the job goes on.");
    await new Promise((resolve) => setTimeout(resolve, 500 * failures));
  }
}

export function isFinal(job) {
  return ["succeeded", "failed", "cancelled"].includes(job.state);
}

// EventSource cannot send a key in a header, so the stream is read by fetch.
async function* events(path, signal) {
  const response = await request(path, { signal, headers: { Accept: "text/event-stream" } });
  const received = [];
  const parser = createParser({ onEvent: (event) => received.push(JSON.parse(event.data)) });
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  for (let chunk = await reader.read(); !chunk.done; chunk = await reader.read()) {
    parser.feed(chunk.value);
    yield* received.splice(0);
  }
}

async function problemOf(response) {
  const document = await response.json().catch(() => ({}));
  return new Problem(document.title || response.statusText || "Error", document.detail, response.status);
}
