"""The front matter of a model card, and what the hub says to it when one is sent."""

import re
from typing import Any

import yaml

LICENSES = (
    "apache-2.0 mit openrail bigscience-openrail-m creativeml-openrail-m bigscience-bloom-rail-1.0 bigcode-openrail-m"
    " afl-3.0 artistic-2.0 bsl-1.0 bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear c-uda cc cc0-1.0 cc-by-2.0 cc-by-2.5"
    " cc-by-3.0 cc-by-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nd-4.0 cc-by-nc-nd-3.0"
    " cc-by-nc-nd-4.0 cc-by-nc-sa-2.0 cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cdla-sharing-1.0 cdla-permissive-1.0"
    " cdla-permissive-2.0 wtfpl ecl-2.0 epl-1.0 epl-2.0 etalab-2.0 eupl-1.1 eupl-1.2 agpl-3.0 gfdl gpl gpl-2.0 gpl-3.0 lgpl"
    " lgpl-2.1 lgpl-3.0 isc lppl-1.3c ms-pl mpl-2.0 odc-by odbl openrail++ osl-3.0 postgresql ofl-1.1 ncsa unlicense zlib"
    " pddl lgpl-lr deepfloyd-if-license llama2 llama3 llama3.1 llama3.2 llama3.3 llama4 gemma openmdw-1.0 grok2-community"
    " fair-noncommercial-research-license h-research intel-research apple-amlr apple-ascl unknown other"
)
PIPELINES = (  # those that a model of texts may have
    "text-classification token-classification table-question-answering question-answering zero-shot-classification translation"
    " summarization feature-extraction text-generation fill-mask sentence-similarity text-ranking"
)
RELATIONS = ("adapter", "finetune", "merge", "quantized")
LANGUAGE = re.compile(r"[a-z]{2,3}|code|multilingual")
SHAPES = {"library_name": str, "pipeline_tag": str, "tags": list, "datasets": list, "metrics": list, "model-index": list}


def front_matter(content: str) -> dict[str, Any] | None:
    """The YAML between the first two lines of `---`; None where there is none. Raises yaml.YAMLError."""
    match = re.match(r"\ufeff?---[ \t]*\r?\n(.*?)^---[ \t]*$", content, re.DOTALL | re.MULTILINE)
    read = yaml.safe_load(match[1]) if match else None
    return read if isinstance(read, dict) else None


def several(value: object) -> list[Any]:
    """What may be given as one value, or as a list."""
    return value if isinstance(value, list) else [value]


def problems(content: str) -> tuple[list[str], list[str]]:
    """Errors, for which the card is refused, and warnings."""
    try:
        card = front_matter(content)
    except yaml.YAMLError as error:
        return [f"YAML cannot be read: {error}".replace("\n", " ")], []
    if not card:
        return [], ["empty or missing yaml metadata in repo card"]
    errors, warnings = [], []
    for key, kind in SHAPES.items():
        if key in card and not isinstance(card[key], kind):
            errors.append(f'"{key}" must be {"a string" if kind is str else "an array"}')
    for tag in several(card.get("tags", [])):
        if not isinstance(tag, str):
            errors.append(f'"tags" must hold strings, not {tag!r}')
    for name in several(card.get("license", [])):
        if name not in LICENSES.split():
            errors.append(f'"license" must be one of [{LICENSES.replace(" ", ", ")}]')
    link = card.get("license_link", "LICENSE")
    if link not in ("LICENSE", "LICENSE.md") and not re.match(r"https?://\S+$", str(link)):
        errors.append('"license_link" must be LICENSE, LICENSE.md or a valid uri')
    for code in several(card.get("language", [])):
        if not isinstance(code, str) or not LANGUAGE.fullmatch(code):
            errors.append(f'"language" with value "{code}" is not valid. It must be an ISO 639 code of two or three letters')
    for base in several(card.get("base_model", [])):
        if not isinstance(base, str) or not re.fullmatch(r"[\w.-]+/[\w.-]+", base):
            errors.append(f'"base_model" with value "{base}" is not valid. Use a model id from https://hf.co/models.')
    if card.get("base_model_relation", "quantized") not in RELATIONS:
        errors.append(f'"base_model_relation" must be one of [{", ".join(RELATIONS)}]')
    if "pipeline_tag" in card and card["pipeline_tag"] not in PIPELINES.split():
        warnings.append(
            f'The pipeline tag "{card["pipeline_tag"]}" is not in the official list: {PIPELINES.replace(" ", ", ")}'
        )
    return errors + results(card), warnings


def results(card: dict[str, Any]) -> list[str]:
    """What is wrong with the figures in `model-index`."""
    errors = []
    for number, model in enumerate(several(card.get("model-index", []))):
        place = f"model-index[{number}]"
        errors += lacks(model, place, "name", "results")
        for row, result in enumerate(several(model.get("results", [])) if isinstance(model, dict) else []):
            errors += lacks(result, f"{place}.results[{row}]", "task", "metrics")
            if not isinstance(result, dict):
                continue
            errors += lacks(result.get("task", {"type": ""}), f"{place}.results[{row}].task", "type")
            errors += lacks(result.get("dataset", {"name": "", "type": ""}), f"{place}.results[{row}].dataset", "name", "type")
            for column, metric in enumerate(several(result.get("metrics", []))):
                errors += lacks(metric, f"{place}.results[{row}].metrics[{column}]", "type", "value")
    return errors


def lacks(value: object, place: str, *keys: str) -> list[str]:
    """Those of `keys` that are not in an object."""
    if not isinstance(value, dict):
        return [f'"{place}" must be of type object']
    return [f'"{place}.{key}" is required' for key in keys if key not in value]
