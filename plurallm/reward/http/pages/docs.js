"use strict";
function element(tag, text) {
  const made = document.createElement(tag);
  if (text !== undefined) made.textContent = text;
  return made;
}

function schemaOf(content) {
  return content && Object.values(content)[0] && Object.values(content)[0].schema;
}

// The schema with its references put in place; these have no cycles.
function resolved(schema, all) {
  if (Array.isArray(schema)) return schema.map((part) => resolved(part, all));
  if (schema === null || typeof schema !== "object") return schema;
  if (schema.$ref) return resolved(all[schema.$ref.split("/").pop()], all);
  const entries = Object.entries(schema).filter(([key, value]) => key !== "title" || typeof value !== "string");
  return Object.fromEntries(entries.map(([key, value]) => [key, resolved(value, all)]));
}

function details(summary, schema, all) {
  const made = element("details");
  made.append(element("summary", summary), element("pre", JSON.stringify(resolved(schema, all), null, 2)));
  return made;
}

function show(api) {
  const all = api.components.schemas;
  for (const [path, methods] of Object.entries(api.paths)) {
    for (const [method, operation] of Object.entries(methods)) {
      const shown = [element("h2", `${method.toUpperCase()} ${path}`), element("p", operation.description || operation.summary)];
      const request = operation.requestBody && operation.requestBody.content;
      if (request) shown.push(details(`Request: ${Object.keys(request).join(", ")}`, schemaOf(request), all));
      for (const [status, reply] of Object.entries(operation.responses)) {
        if (schemaOf(reply.content)) shown.push(details(`${status}: ${reply.description}`, schemaOf(reply.content), all));
      }
      document.getElementById("paths").append(...shown);
    }
  }
}

fetch("openapi.json")
  .then((reply) => (reply.ok ? reply.json() : Promise.reject(new Error(`The server answered ${reply.status}.`))))
  .then(show)
  .catch((error) => { document.getElementById("error").textContent = error.message; });
