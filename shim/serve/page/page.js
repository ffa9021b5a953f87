// The page of the server: its models, and two forms that ask them. Nothing is stored, and no other host is asked.
import { make } from "./dom.js";
import { show as showCode } from "./code.js";

const MOST = 40; // sentences of a heat map
const PROBLEM = document.getElementById("problem");
const KEY_FORM = document.getElementById("key-form");
let key = "";

/** The answer of a route, as JSON. A refusal is an Error with the server's words, and its status. */
async function ask(path, body) {
  const headers = key ? { authorization: `Bearer ${key}` } : {};
  if (body) headers["content-type"] = "application/json";
  let response;
  try {
    response = await fetch(path, body ? { method: "POST", headers, body: JSON.stringify(body) } : { headers });
  } catch {
    throw new Error("The server does not answer.");
  }
  const answer = await response.json();
  if (!response.ok) {
    const words = answer.error?.message ?? answer.message ?? answer.error ?? response.statusText;
    throw Object.assign(new Error(words), { status: response.status });
  }
  return answer;
}

// Models

const UNITS = [["GB", 1e9], ["MB", 1e6], ["kB", 1e3]];

function bytes(count) {
  const [unit, size] = UNITS.find(([, size]) => count >= size) ?? ["bytes", 1];
  const number = count / size;
  return `${number.toFixed(number < 10 ? 1 : 0)} ${unit}`;
}

// Cut, not rounded: what is less than 1 is never shown as 1.
const least = (value) => Math.min(Math.floor(value * 1e5 + 1e-9) / 1e5, value < 1 ? 0.99999 : 1).toFixed(5);

function card(model) {
  const does = model.task === "rerank" ? "Reranker" : "Embedding model";
  const passed = model.verdict === "pass";
  const verdict = make("span", { className: passed ? "verdict" : "verdict other" }, passed ? "✓ pass" : model.verdict);
  const proof = make("p", { className: "proof" }, verdict);
  const figures = Object.values(model.parity);
  if (figures.length) {
    const measured = `${model.texts.toLocaleString("en")} ${model.task === "rerank" ? "pairs" : "texts"}`;
    proof.append(
      make("span", { className: "worst" }, least(Math.min(...figures))),
      make("span", { className: "hint" }, `worst cosine of ${measured}`));
  }
  const facts = {
    Memory: model.memory && bytes(model.memory) + (model.loaded === false ? " when it is loaded" : ""),
    Dimensions: model.task === "embed" && model.dimensions.toLocaleString("en"),
    "Longest text": `${model.max_tokens.toLocaleString("en")} tokens`,
    Heads: model.heads.length > 1 && model.heads.map((head) => `${head} ${least(model.parity[head] ?? NaN)}`).join(", "),
    Weights: `${model.bits} bits`,
    Runs: model.loaded !== false && `${model.runtime} on ${model.device}`,
    License: model.license,
    From: model.repository && `${model.repository}@${(model.revision ?? "").slice(0, 8)}`,
  };
  const list = make("dl", { className: "facts" });
  for (const [name, value] of Object.entries(facts)) {
    if (value) list.append(make("dt", {}, name), make("dd", {}, value));
  }
  return make("li", { className: "card" }, make("h3", {}, model.id), make("p", { className: "does" }, does), proof, list);
}

/** Bytes that the whole process takes, as its figures say; undefined where the system does not tell. */
async function memory() {
  try {
    const page = await (await fetch("metrics")).text();
    return Number(/^process_resident_memory_bytes (\S+)/m.exec(page)?.[1]) || undefined;
  } catch {
    return undefined;
  }
}

function choose(select, models) {
  select.replaceChildren(...models.map((model) => make("option", { value: model.id }, model.id)));
}

async function start() {
  let models, taken;
  try {
    const { data } = await ask("v1/models");
    models = data.filter((model) => model.id === model.root); // an alias is no further model
    taken = await memory(); // before anything is shown: who sees a model may go on to the forms
  } catch (error) {
    KEY_FORM.hidden = error.status !== 401;
    PROBLEM.hidden = error.status === 401 && !key;
    PROBLEM.textContent = error.message;
    if (!KEY_FORM.hidden) document.getElementById("key").focus();
    return;
  }
  if (!KEY_FORM.hidden) document.getElementById("main").focus(); // from the field that goes
  PROBLEM.hidden = KEY_FORM.hidden = true;
  const list = document.getElementById("models");
  list.replaceChildren(...models.map(card));
  list.parentElement.hidden = false;
  const one = models.length === 1;
  const count = one ? "1 model, proven against its original" : `${models.length} models, proven against their originals`;
  document.getElementById("summary").textContent = count + (taken ? `; ${bytes(taken)} of memory in all.` : ".");
  const rerankers = models.filter((model) => model.task === "rerank");
  const embedders = models.filter((model) => model.task === "embed" && model.heads.includes("dense"));
  if (embedders.length) compare(embedders);
  if (rerankers.length + embedders.length) rank([...rerankers, ...embedders]);
}

// Forms

const lines = (text) => text.split("\n").map((line) => line.trim()).filter(Boolean);
const shown = (number, digits) => number.toFixed(digits).replace("-", "−");

/** A panel whose form sends requests. requests: of the form as it is now; answered: shows their answers, and says a line;
 *  missing: what is to be done first, if anything. */
function panel(section, requests, answered, missing) {
  const form = section.querySelector("form");
  const status = section.querySelector(".status");
  const button = form.querySelector("button");
  const say = (text, wrong) => {
    status.textContent = text;
    status.classList.toggle("wrong", wrong);
  };
  const refresh = () => showCode(section.querySelector(".code"), requests(), Boolean(key));
  form.oninput = refresh;
  form.onkeydown = (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit();
  };
  form.onsubmit = async (event) => {
    event.preventDefault();
    if (button.getAttribute("aria-disabled") === "true") return;
    if (missing()) return say(missing(), true);
    button.setAttribute("aria-disabled", "true"); // not `disabled`, which would take the focus away
    const started = performance.now();
    try {
      const answers = await Promise.all(requests().map(({ path, body }) => ask(path, body)));
      say(`${answered(answers)} ${Math.round(performance.now() - started)} ms.`, false);
    } catch (error) {
      say(error.message, true);
    } finally {
      button.removeAttribute("aria-disabled");
    }
  };
  section.hidden = false;
  refresh();
}

function compare(models) {
  const section = document.getElementById("compare");
  const [model, prompt, text] = ["compare-model", "compare-prompt", "sentences"].map((id) => document.getElementById(id));
  choose(model, models);
  const prompts = () => {
    const names = Object.keys(models.find((one) => one.id === model.value).prompts);
    const options = names.map((name) => make("option", { value: name }, name));
    prompt.replaceChildren(make("option", { value: "" }, "none named"), ...options);
    prompt.parentElement.hidden = !names.length;
  };
  model.onchange = prompts;
  prompts();
  const requests = () => {
    const body = { model: model.value, input: lines(text.value) };
    return [{ path: "v1/embeddings", body: prompt.value ? { ...body, prompt_name: prompt.value } : body }];
  };
  panel(section, requests, ([answer]) => {
    const sentences = lines(text.value);
    if (sentences.length > MOST) throw new Error(`${sentences.length} sentences; at most ${MOST} are shown here.`);
    const region = section.querySelector(".scroll");
    const vectors = answer.data.map((item) => item.embedding);
    const similarities = vectors.map((one) => vectors.map((other) => cosine(one, other)));
    region.replaceChildren(heatMap(sentences, similarities));
    region.hidden = false;
    return said(similarities) + ` ${answer.usage.total_tokens} tokens,`;
  }, () => !lines(text.value).length && "Write a sentence first, one a line.");
}

function cosine(one, other) {
  const dot = (a, b) => a.reduce((sum, value, index) => sum + value * b[index], 0);
  return dot(one, other) / Math.sqrt(dot(one, one) * dot(other, other) || 1);
}

/** Pairs of different sentences, the most alike first: [similarity, row, column]. */
function pairs(similarities) {
  const all = similarities.flatMap((row, i) => row.slice(0, i).map((value, j) => [value, j, i]));
  return all.sort((one, other) => other[0] - one[0]);
}

function said(similarities) {
  const found = pairs(similarities);
  if (!found.length) return "One sentence has nothing to be compared with.";
  const name = ([value, i, j]) => `${i + 1} and ${j + 1} (${shown(value, 2)})`;
  return `Most alike: ${name(found[0])}. Least: ${name(found.at(-1))}.`;
}

function heatMap(sentences, similarities) {
  const values = pairs(similarities).map(([value]) => value);
  const [most, least] = [values[0], values.at(-1)];
  const title = (sentence, index) => make("th", { scope: "col", title: sentence },
    String(index + 1), make("span", { className: "unseen" }, `: ${sentence}`));
  const rows = similarities.map((row, i) => {
    const cells = row.map((value, j) => {
      if (i === j) return make("td", { className: "same" }, "–");
      const cell = make("td", { className: "heat" }, shown(value, 2));
      cell.style.setProperty("--heat", most > least ? (value - least) / (most - least) : 0.5);
      return cell;
    });
    const name = make("th", { scope: "row", title: sentences[i], dir: "auto" }, `${i + 1}  ${sentences[i]}`);
    return make("tr", {}, name, ...cells);
  });
  const caption = make("caption", { className: "unseen" }, "Cosine of each sentence with each other");
  const head = make("tr", {}, make("td"), ...sentences.map(title));
  return make("table", {}, caption, make("thead", {}, head), make("tbody", {}, ...rows));
}

function rank(models) {
  const section = document.getElementById("rank");
  const [select, query, text] = ["rank-model", "query", "documents"].map((id) => document.getElementById(id));
  choose(select, models);
  const requests = () => {
    const documents = lines(text.value);
    const model = select.value;
    if (models.find((one) => one.id === model).task === "rerank") {
      return [{ path: "v1/rerank", body: { model, query: query.value, documents } }];
    }
    return [["retrieval.query", [query.value]], ["retrieval.passage", documents]].map(([task, input]) =>
      ({ path: "v1/embeddings", body: { model, input, task } }));
  };
  panel(section, requests, ([first, second]) => {
    const documents = lines(text.value);
    const results = first.results ?? second.data
      .map(({ embedding, index }) => ({ index, relevance_score: cosine(first.data[0].embedding, embedding) }))
      .sort((one, other) => other.relevance_score - one.relevance_score);
    section.querySelector(".ranking").replaceChildren(...results.map(({ index, relevance_score: score }) => {
      const bar = make("span");
      bar.style.setProperty("--part", Math.max(0, Math.min(1, score)));
      return make("li", {},
        make("span", { className: "text", dir: "auto" }, documents[index]),
        make("span", { className: "score" }, shown(score, 4)),
        make("span", { className: "bar", "aria-hidden": "true" }, bar));
    }));
    const count = documents.length === 1 ? "1 document" : `${documents.length} documents`;
    return `${count}, best first${first.results ? "" : ", by cosine"};`;
  }, () => (!query.value.trim() && "Write a query first.")
    || (!lines(text.value).length && "Write a document first, one a line."));
}

KEY_FORM.onsubmit = (event) => {
  event.preventDefault();
  const given = document.getElementById("key").value.trim();
  const odd = given.match(/[^\x20-\x7e]/u); // which no header of a request may hold
  PROBLEM.hidden = !odd;
  PROBLEM.textContent = odd && `A key is of ASCII characters alone; this one has “${odd[0]}”.`;
  if (odd) return;
  key = given;
  start();
};
start();
