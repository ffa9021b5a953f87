// Every route of the server, from its own OpenAPI description.
import { make, table } from "./dom.js";

const api = await (await fetch("openapi.json")).json();

/** A schema, or what it refers to. */
function resolved(schema) {
  return schema.$ref ? resolved(schema.$ref.split("/").slice(1).reduce((part, name) => part[name], api)) : schema;
}

/** What a value of the schema is, in a few words. */
function kind(schema) {
  if (schema.$ref) return schema.$ref.split("/").at(-1).split("__").at(-1);
  if (schema.enum ?? schema.const) return (schema.enum ?? [schema.const]).join(" | ");
  const any = schema.anyOf ?? schema.oneOf;
  if (any) return [...new Set(any.map(kind))].filter((name) => name !== "null").join(" or ");
  if (schema.type === "array") return `list of ${schema.items ? kind(schema.items) : "any"}`;
  return schema.type ?? "any";
}

function fields(schema) {
  const required = schema.required ?? [];
  const first = ([one], [other]) => required.includes(other) - required.includes(one);
  return Object.entries(schema.properties ?? {}).sort(first).map(([name, field]) => {
    const given = field.default == null ? "" : JSON.stringify(field.default);
    return [make("code", {}, name), kind(field), required.includes(name) ? "required" : given, field.description ?? ""];
  });
}

/** A table that is scrolled by itself where it is wider than the page. */
function scrolled(label, titles, rows) {
  return make("div", { className: "scroll", tabIndex: 0, role: "region", "aria-label": label }, table(titles, rows));
}

function code(label, text) {
  return make("pre", { tabIndex: 0, "aria-label": label }, make("code", {}, text));
}

function body(content) {
  const schema = content["application/json"]?.schema ?? {};
  return (schema.oneOf ?? schema.anyOf ?? [schema]).flatMap((one) => {
    const found = resolved(one);
    const rows = fields(found);
    const parts = [make("h3", {}, `Body: ${kind(one)}`)];
    if (rows.length) parts.push(scrolled("Fields", ["Field", "Type", "Default", "Meaning"], rows));
    if (found.example) parts.push(code("Example", JSON.stringify(found.example, null, 2)));
    return parts;
  });
}

function route(path, method, operation) {
  const says = (operation.description ?? "").split("\n")[0];
  const title = [make("span", { className: "method" }, method.toUpperCase()), make("code", {}, path), ` ${says}`];
  const answers = Object.entries(operation.responses).map(([status, response]) => {
    const schema = response.content?.["application/json"]?.schema;
    return [make("code", {}, status), schema ? kind(schema) : "", response.description];
  });
  return make("details", { className: "panel route" }, make("summary", {}, ...title),
    ...(operation.requestBody ? body(operation.requestBody.content) : []),
    make("h3", {}, "Answers"), scrolled("Answers", ["Status", "Body", "Meaning"], answers));
}

const groups = new Map();
for (const [path, methods] of Object.entries(api.paths)) {
  for (const [method, operation] of Object.entries(methods)) {
    const tag = operation.tags?.[0] ?? "other";
    groups.set(tag, [...(groups.get(tag) ?? []), route(path, method, operation)]);
  }
}
document.getElementById("summary").textContent = `Version ${api.info.version}`;
document.getElementById("about").textContent = api.info.description;
for (const [tag, routes] of groups) {
  document.getElementById("main").append(make("section", {}, make("h2", {}, tag), ...routes));
}
const shapes = Object.entries(api.components.schemas).map(([name, schema]) => [make("code", {}, name.split("__").at(-1)),
  fields(schema).map(([field, type]) => `${field.textContent}: ${type}`).join("; ")]);
document.getElementById("main").append(
  make("section", {}, make("h2", {}, "Shapes"), scrolled("Shapes", ["Name", "Fields"], shapes)));
