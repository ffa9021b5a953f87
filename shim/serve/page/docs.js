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
  const all = Object.entries(schema.properties ?? {}).sort(([one], [other]) => required.includes(other) - required.includes(one));
  return all.map(([name, field]) => [
    make("code", {}, name), kind(field), required.includes(name) ? "required" : field.default == null ? "" : JSON.stringify(field.default),
    field.description ?? "",
  ]);
}

function body(content) {
  const schema = content["application/json"]?.schema ?? {};
  return (schema.oneOf ?? schema.anyOf ?? [schema]).flatMap((one) => {
    const found = resolved(one);
    const rows = fields(found);
    const scroll = make("div", { className: "scroll", tabIndex: 0, role: "region", "aria-label": "Fields" }, table(["Field", "Type", "Default", "Meaning"], rows));
    const example = found.example ? [make("pre", { tabIndex: 0, "aria-label": "Example" }, make("code", {}, JSON.stringify(found.example, null, 2)))] : [];
    return [make("h3", {}, `Body: ${kind(one)}`), ...(rows.length ? [scroll] : []), ...example];
  });
}

function route(path, method, operation) {
  const title = [make("span", { className: "method" }, method.toUpperCase()), make("code", {}, path), ` ${(operation.description ?? "").split("\n")[0]}`];
  const answers = Object.entries(operation.responses).map(([status, response]) => {
    const schema = response.content?.["application/json"]?.schema;
    return [make("code", {}, status), schema ? kind(schema) : "", response.description];
  });
  return make("details", { className: "panel route" }, make("summary", {}, ...title),
    ...(operation.requestBody ? body(operation.requestBody.content) : []),
    make("h3", {}, "Answers"), make("div", { className: "scroll", tabIndex: 0, role: "region", "aria-label": "Answers" }, table(["Status", "Body", "Meaning"], answers)));
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
document.getElementById("main").append(make("section", {}, make("h2", {}, "Shapes"),
  make("div", { className: "scroll", tabIndex: 0, role: "region", "aria-label": "Shapes" }, table(["Name", "Fields"], shapes))));
