// The API, to read.

Redoc.init(
  new URL("../../../openapi.json", import.meta.url).href,
  { disableSearch: true, hideDownloadButton: false, nativeScrollbars: true }, // its search needs a script made at run time
  document.getElementById("api"),
);
