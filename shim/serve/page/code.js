// The requests of a form as code to copy. JSON of strings and lists is Python and JavaScript, too.
import { make } from "./dom.js";

const KEY = "SEALPORT_API_KEY"; // the environment variable that code reads the key from: the key itself is in none of it
const at = (path) => new URL(path, document.baseURI).href;
const json = (value) => JSON.stringify(value, null, 2);
const quoted = (text) => `'${text.replaceAll("'", `'\\''`)}'`;

const LANGUAGES = {
  curl(requests, keyed) {
    const key = keyed ? [`-H "authorization: Bearer $${KEY}"`] : [];
    const one = ({ path, body }) =>
      [`curl -s ${quoted(at(path))}`, "-H 'content-type: application/json'", ...key, `-d ${quoted(json(body))}`];
    return requests.map((request) => one(request).join(" \\\n  ")).join("\n");
  },
  Python(requests, keyed) {
    const key = [`headers = {"authorization": f"Bearer {os.environ['${KEY}']}"}`];
    const head = keyed ? ["import os", "import requests", "", ...key] : ["import requests", ""];
    const headers = keyed ? ", headers=headers" : "";
    const one = ({ path, body }) => [
      `answer = requests.post(${json(at(path))}, json=${json(body)}${headers})`,
      "print(answer.json())",
    ];
    return [...head, ...requests.flatMap(one)].join("\n");
  },
  JavaScript(requests, keyed) {
    const key = keyed ? `, "authorization": "Bearer " + process.env.${KEY}` : "";
    const one = ({ path, body }) => [
      `answer = await fetch(${json(at(path))}, {method: "POST", headers, body: JSON.stringify(${json(body)})});`,
      "console.log(await answer.json());",
    ];
    return [`const headers = {"content-type": "application/json"${key}};`, "let answer;", ...requests.flatMap(one)].join("\n");
  },
};

/** Show the requests in an element, in the language that is chosen there. */
export function show(place, requests, keyed) {
  if (!place.querySelector("pre")) build(place);
  const language = place.querySelector("input:checked").value;
  place.querySelector("code").textContent = LANGUAGES[language](requests, keyed);
  place.querySelector("fieldset").onchange = () => show(place, requests, keyed);
}

function build(place) {
  place.append(document.getElementById("code").content.cloneNode(true));
  for (const name of Object.keys(LANGUAGES)) {
    const group = `language-${place.parentElement.id}`;
    const input = make("input", { type: "radio", name: group, value: name, checked: name === "curl" });
    place.querySelector("fieldset").append(make("label", {}, input, ` ${name}`));
  }
  const code = place.querySelector("code");
  place.querySelector("button").onclick = async () => {
    const done = place.querySelector("[role=status]");
    try {
      await navigator.clipboard.writeText(code.textContent);
      done.textContent = "Copied.";
    } catch { // no clipboard for pages that come over plain HTTP from another machine
      getSelection().selectAllChildren(code);
      done.textContent = "Selected; copy it with Ctrl + C.";
    }
  };
}
