// The API, to try out. A key is kept in memory alone.

SwaggerUIBundle({
  url: new URL("../../../openapi.json", import.meta.url).href,
  dom_id: "#api",
  deepLinking: true,
  persistAuthorization: false,
  validatorUrl: null, // asks nobody else
  presets: [SwaggerUIBundle.presets.apis],
});
