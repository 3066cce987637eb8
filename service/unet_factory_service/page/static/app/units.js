// Numbers as the page writes them.

export function mm(value) {
  return String(Number(value.toFixed(3)));
}

export function spacingText(spacing, by = " × ") {
  return spacing.map(mm).join(by);
}

export function timeText(seconds) {
  return new Date(seconds * 1000).toLocaleString([], { dateStyle: "medium", timeStyle: "short" });
}

export function bytesText(bytes) {
  return bytes < 1e9 ? `${(bytes / 1e6).toFixed(1)} MB` : `${(bytes / 1e9).toFixed(1)} GB`;
}
