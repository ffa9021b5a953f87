"""Run in the environment of scripts/clients: CHROMIUM ADDRESS KEY -> an object of JSON: what a browser shows of the pages."""

import json
import sys

EVIL = '<img src=x onerror="window.hit=1">'
TEXTS = ['It\'s "quoted" `$HOME` \\ end', EVIL, "Паром отходит в девять.", "天气很好"]
QUERY = "When does the ferry leave? " + EVIL
# The least contrast of a text with what it lies on, and which text that is.
CONTRAST = """() => {
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const over = (colors) => {
    canvas.clearRect(0, 0, 1, 1);
    for (const color of colors) { canvas.fillStyle = color; canvas.fillRect(0, 0, 1, 1); }
    return [...canvas.getImageData(0, 0, 1, 1).data.slice(0, 3)];
  };
  const light = (color) => {
    const [r, g, b] = color.map((c) => c / 255).map((c) => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const found = [];
  for (const element of document.querySelectorAll("body *")) {
    const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim()) || "value" in element;
    if (!own || !element.checkVisibility() || element.closest(".unseen, .skip, option")) continue;
    const grounds = [];
    for (let at = element; at; at = at.parentElement) grounds.unshift(getComputedStyle(at).backgroundColor);
    const ground = over(["#fff", ...grounds]);
    const both = [light(ground), light(over([`rgb(${ground})`, getComputedStyle(element).color]))];
    const [one, other] = both.sort((a, b) => b - a);
    found.push([(one + 0.05) / (other + 0.05), element.outerHTML.slice(0, 80)]);
  }
  return found.sort((a, b) => a[0] - b[0])[0];
}"""
FOCUS = """() => {
  const at = document.activeElement, style = getComputedStyle(at);
  const name = at.id || at.ariaLabel || at.value || at.textContent.trim();
  return [name, style.outlineStyle !== "none" && parseFloat(style.outlineWidth) > 1];
}"""
OVERFLOW = "() => document.documentElement.scrollWidth - innerWidth"


def main(chromium, url, key):
    from playwright.sync_api import sync_playwright  # not in the environment of the tests that read the texts above

    found = {"requests": [], "problems": []}
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        found["desk"] = desk(opened(browser, found), url, key)
        found["keyboard"] = keyboard(opened(browser, found), url, key)
        for scheme in ("light", "dark"):
            found[scheme] = looks(opened(browser, found, color_scheme=scheme, viewport={"width": 360, "height": 800}), url, key)
        found["strange"] = strange(opened(browser, found), url)
        found["docs"] = docs(opened(browser, found), url)
        browser.close()
    return found


def opened(browser, found, **options):
    """A page of its own, whose requests and errors are noted."""
    page = browser.new_context(**options).new_page()
    page.set_default_timeout(60_000)
    page.on("request", lambda request: found["requests"].append(request.url))
    page.on("pageerror", lambda error: found["problems"].append(str(error)))
    page.on("console", lambda line: line.type == "error" and "401" not in line.text and found["problems"].append(line.text))
    return page


def enter(page, url, key):
    page.goto(url)
    page.fill("#key", key)
    page.press("#key", "Enter")
    page.wait_for_selector(".card")


def ask(page, section, fields):
    for name, text in fields.items():
        page.fill(name, text)
    page.click(f"{section} .go button")
    page.wait_for_selector(f"{section} .status:not(:empty)")


def code(page, section, language):
    page.check(f"{section} input[value={language}]")
    return page.text_content(f"{section} pre")


def desk(page, url, key):
    """With a mouse: a wrong key and the right one, the models, both forms, their code, and a refusal."""
    page.goto(url)
    page.wait_for_selector("#key")
    before = page.locator(".card").count()
    page.fill("#key", "wräng")
    page.click("#key-form button")
    page.wait_for_selector("#problem:not([hidden])")
    odd = page.text_content("#problem")
    page.fill("#key", "wrong")
    page.click("#key-form button")
    page.wait_for_selector("#problem:text('wrong')")
    wrong = page.text_content("#problem")
    enter(page, url, key)
    found = {
        "before": before,
        "wrong": wrong,
        "odd key": odd,
        "cards": page.locator(".card").all_inner_texts(),
        "summary": page.inner_text("#summary"),
    }
    ask(page, "#compare", {"#sentences": "\n".join(TEXTS)})
    found["names"] = page.locator("#compare tbody th").all_text_contents()
    rows = page.locator("#compare tbody tr").all()
    found["heat"] = [row.locator("td").all_text_contents() for row in rows]
    ask(page, "#rank", {"#query": QUERY, "#documents": "\n".join(TEXTS)})
    found["ranked"] = page.locator(".ranking .text").all_text_contents()
    found["scores"] = page.locator(".ranking .score").all_text_contents()
    found["bars"] = page.locator(".bar span").evaluate_all(
        "bars => bars.map(bar => bar.clientWidth / bar.parentElement.clientWidth)"
    )
    page.select_option("#rank-model", index=1)
    ask(page, "#rank", {})
    page.wait_for_function("document.querySelector('#rank .status').textContent.includes('cosine')")
    found["by cosine"] = page.locator(".ranking .text").all_text_contents()
    page.select_option("#rank-model", index=0)
    found["snapshot"] = page.locator("main").aria_snapshot()
    for section in ("#compare", "#rank"):
        page.click(f"{section} summary")
        found[section] = {language: code(page, section, language) for language in ("curl", "Python", "JavaScript")}
        shown = []
        page.on("console", lambda line, shown=shown: line.type == "log" and shown.append(line.args[0].json_value()))
        page.evaluate(
            f"(async () => {{ const process = {{env: {{SEALPORT_API_KEY: '{key}'}}}}; {found[section]['JavaScript']} }})()"
        )
        page.wait_for_timeout(300)
        found[section]["answer"] = shown[0]
    page.click("#compare .code button")
    page.wait_for_selector("#compare .code [role=status]:not(:empty)")
    for missing, section, field in (("query", "#rank", "#query"), ("documents", "#rank", "#documents"),
                                    ("sentences", "#compare", "#sentences")):  # fmt: skip
        text = page.input_value(field)
        page.fill(field, " \n" if field != "#query" else "")
        page.click(f"{section} .go button")
        page.wait_for_selector(f"{section} .status.wrong")
        found[f"no {missing}"] = page.text_content(f"{section} .status")
        page.fill(field, text)
    found["hit"] = page.evaluate("window.hit ?? null")
    found["html"] = page.evaluate(
        "(() => { try { document.body.innerHTML = 'x'; return 'taken' } catch (error) { return error.name } })()"
    )
    return found


def keyboard(page, url, key):
    """No mouse: each thing that takes the focus shows it, and both forms are sent."""
    page.goto(url)
    page.wait_for_selector("#key")
    page.keyboard.type(key)  # the field has the focus already
    page.keyboard.press("Enter")
    page.wait_for_selector(".card")
    stops = []
    while len(stops) < 40:
        page.keyboard.press("Tab")
        name, outlined = page.evaluate(FOCUS)
        stops.append(name if outlined else f"{name}, which does not show it")
        if name == "sentences":
            page.keyboard.press("Control+A")
            page.keyboard.type("one\ntwo")
            page.keyboard.press("Control+Enter")
            page.wait_for_selector("#compare td.heat")
        if name == "The same request in code":
            page.keyboard.press("Enter")
        if name == "curl":
            page.keyboard.press("ArrowRight")
        if name == "Rank":
            page.keyboard.press("Enter")
            page.wait_for_selector(".ranking li")
        if name == "documents" and "documents" in stops[:-1]:
            break
    return {"stops": stops, "cells": page.locator("#compare td.heat").count(), "code": page.text_content("#compare pre")}


def looks(page, url, key):
    """Narrow: nothing is wider than the page, and all can be read."""
    enter(page, url, key)
    ask(page, "#compare", {"#sentences": "\n".join(TEXTS)})
    ask(page, "#rank", {})
    page.click("#compare summary")
    found = {
        "overflow": page.evaluate(OVERFLOW),
        "contrast": page.evaluate(CONTRAST),
        "ground": page.evaluate("getComputedStyle(document.body).backgroundColor"),
    }
    page.goto(f"{url}/docs")
    page.click(".route summary")
    return found | {"docs overflow": page.evaluate(OVERFLOW), "docs contrast": page.evaluate(CONTRAST)}


def strange(page, url):
    """Models whose names and prompts are HTML, one of them with prompts, one not loaded: what any repository may hold."""
    model = {"id": EVIL, "root": EVIL, "task": "embed", "dimensions": 8, "max_tokens": 16, "heads": ["dense"]}
    model |= {"prompts": {EVIL: "x"}}
    model |= {"parity": {"dense": 0.99912}, "texts": 200, "verdict": "pass", "bits": 8, "runtime": "onnx", "device": "cpu"}
    model |= {"license": EVIL, "repository": EVIL, "revision": EVIL, "memory": 1_234_000_000, "loaded": False}
    sent = []

    def answer(route):
        sent.append(route.request.post_data_json)
        route.fulfill(status=400, json={"error": {"message": f"no {EVIL}"}})

    page.route("**/v1/models", lambda route: route.fulfill(json={"data": [model]}))
    page.route("**/v1/embeddings", answer)
    page.goto(url)
    page.wait_for_selector(".card")
    page.select_option("#compare-prompt", index=1)
    page.click("#compare .go button")
    page.wait_for_selector("#compare .status.wrong")
    texts = [page.inner_text(place) for place in (".card h3", "#compare .status", "#compare-prompt option:nth-child(2)")]
    return {"texts": texts, "card": page.inner_text(".card"), "sent": sent[0], "hit": page.evaluate("window.hit ?? null"),
            "rank": page.locator("#rank-model option").count()}  # fmt: skip


def docs(page, url):
    page.goto(f"{url}/docs")
    page.wait_for_selector(".route")
    page.click(".route:has-text('/v1/embeddings') summary")
    return {
        "routes": page.locator(".route summary code").all_text_contents(),
        "open": page.locator(".route[open]").first.inner_text(),
    }


if __name__ == "__main__":
    print(json.dumps(main(*sys.argv[1:])))
