"""The model card, README.md as the hub shows it: of an artifact, or of a repository with several precisions."""

import re
from collections.abc import Mapping

from converter.card import tables, usage
from converter.card.pictures import CURVE, HISTOGRAM
from converter.card.rivals import TEXTS, rivals
from converter.card.usage import Subject
from converter.licenses import IDS, OTHER, link_of, non_commercial
from shim.artifact import Manifest
from shim.prompts import DEFAULT, PAIR, ROLES, TEMPLATE, prompt_of

RUNTIMES = {"mlx": "MLX (Apple Silicon)", "onnx": "ONNX Runtime (CPU, NVIDIA)"}
WEIGHTS = (".safetensors", ".bin", ".pt")
COPIES = ("LICENSE", "LICENSE.md")  # the files that the hub takes for a license's link
LANGUAGE = re.compile(r"[a-z]{2,3}|code|multilingual")  # that the hub takes


def of_artifact(manifest: Manifest) -> str:
    """The card of an artifact on this machine."""
    return card({tables.key_of(manifest): manifest}, tables.key_of(manifest), manifest.name)


def card(precisions: Mapping[str, Manifest], default: str, name: str, pictures: Mapping[str, str] | None = None) -> str:
    """Markdown with the hub's front matter: what it is, how near it is to the original, how to use it, how to make it again.

    precisions: {key: its manifest} with the files' paths as they are there; default: the key of the one that is loaded when
    nobody says which. name: ORG/NAME, or a local artifact's. pictures: {a name of pictures.py: its path there}.
    """
    manifest, local = precisions[default], "/" not in name
    subject = Subject(name, "" if local else default, manifest)
    sections = [
        [f"# {name.split('/')[-1]}", "", _what(precisions, manifest)],
        _warnings(precisions),
        _verdict(precisions, default),
        tables.files(precisions, default),
        tables.languages(precisions),
        _pictures(pictures or {}, manifest),
        tables.evaluation(precisions),
        _use(subject),
        _model(manifest),
        _proof(manifest),
        _made(precisions),
    ]
    body = "\n\n".join("\n".join(section) for section in sections if section)
    return f"---\n{_front_matter(precisions, subject)}\n---\n\n{body}\n"


def _front_matter(precisions: Mapping[str, Manifest], subject: Subject) -> str:
    """YAML by the hub's own client. Raises ValueError for what that does not take."""
    from huggingface_hub import ModelCardData

    manifest, source = subject.manifest, subject.manifest.source
    reranks, base = manifest.task == "rerank", _base(manifest)
    known = manifest.license in IDS
    tags = [manifest.target, *(f"{each.bits}-bit" for each in precisions.values() if each.bits < 16)]
    tags += [loader.tag for loader in usage.loaders(subject) if loader.tag]
    tags += ["sealport"] if reranks else ["feature-extraction", "sentence-similarity", "sealport"]
    tags += ["unverified"] * any(each.verdict != "pass" for each in precisions.values())
    data = ModelCardData(
        license=manifest.license if known else OTHER,
        license_name=None if known else manifest.license,
        license_link=(source.get("license_link") and _license_link(manifest)) or None,
        language=[code for code in source.get("language", []) if LANGUAGE.fullmatch(code)] or None,
        library_name=manifest.target,
        pipeline_tag="text-ranking" if reranks else source.get("pipeline_tag", "sentence-similarity"),
        base_model=base or None,
        base_model_relation="quantized" if base else None,
        tags=tags,
    )
    return str(data.to_yaml()).strip()


def _base(manifest: Manifest) -> str:
    """The original's repository on the hub, "" where there is none."""
    repo = manifest.source["repo"]
    return manifest.source.get("base_model", "" if ":" in repo else repo)


def _license_link(manifest: Manifest) -> str:
    """Where the license's text is: the copy that goes along, or an address; "" where there is neither."""
    stated, source = manifest.source.get("license_link", ""), manifest.source
    if stated in COPIES and stated in manifest.files:
        return stated
    link = link_of(manifest.license, stated, source["repo"], source["revision"])
    return link if "://" in link else ""


def _what(precisions: Mapping[str, Manifest], manifest: Manifest) -> str:
    source, base = manifest.source, _base(manifest)
    repo, revision = source["repo"], source["revision"]
    page = f"https://huggingface.co/{base}" + (f"/tree/{revision}" if base == repo and revision else "")
    original = f"[{base}]({page})" if base else f"`{repo.split(':')[-1]}`"
    if repo.startswith("pkg:"):
        original += f", as the Python package `{repo.removeprefix('pkg:')}` {revision} carries it,"
    bits = [str(each.bits) for each in precisions.values()]
    widths = f"{', '.join(bits[:-1])} and {bits[-1]}" if len(bits) > 1 else bits[0]
    runtime = RUNTIMES.get(manifest.target, manifest.target)
    return f"{original} for {runtime} in {widths} bits, and measured against the original, text by text."


def _warnings(precisions: Mapping[str, Manifest]) -> list[str]:
    """What must be known before anything else."""
    lines = []
    for key, manifest in precisions.items():
        parity = manifest.parity
        if manifest.verdict == "unverified":
            lines += [f"**{key} is unverified.** Nobody has measured how near it is to the original."]
        if manifest.verdict == "fail":
            bar, short = parity.bar, not parity.bar.passes(parity.heads or {})
            reason = f"the {bar.on} cosine with the original does not reach {bar.cosine:g}"
            reason = reason if short else "; ".join(parity.notes or [])
            lines += [f"**{key} is below parity:** {reason}."]
    manifest = next(iter(precisions.values()))
    if non_commercial(manifest.license):
        link = _license_link(manifest)
        named = f"[{manifest.license}]({link})" if link else manifest.license
        lines += [f"**No commercial use.** The original's license, {named}, forbids it, of this conversion, too."]
    return ["> [!WARNING]", *(f"> {line}" for line in "\n\n".join(lines).split("\n"))] if lines else []


def _verdict(precisions: Mapping[str, Manifest], default: str) -> list[str]:
    """What was found of the precision that is loaded by default; nothing of one that did not pass."""
    manifest, parity = precisions[default], precisions[default].parity
    if manifest.verdict != "pass":
        return []
    heads = parity.heads or {}
    worst = ", ".join(f"**{cosine:.5f}**" + (f" ({head})" if len(heads) > 1 else "") for head, cosine in parity.worst.items())
    languages = {language for figures in heads.values() for language in figures.by_language} - {"code", "und"}
    texts = f"{parity.texts} texts" if manifest.task == "embed" else f"the rankings of {parity.texts} pairs"
    spoken = f" in {len(languages)} languages" if len(languages) > 1 else ""
    which = f", in {default}," if len(precisions) > 1 else ""
    library = f"{parity.witness.library} {parity.witness.version}" if parity.witness else "the upstream library by itself"
    original = f"what {library} computes from the original in fp32"
    return [
        f"**Verdict: pass.** The worst of {texts}{spoken} has{which} a cosine of {worst} with {original}; "
        f"the {parity.bar.on} must reach {parity.bar.cosine:g}. It was measured through the runtime that serves it. "
        "`artifact.json` holds the figures and the SHA-256 of every file, and `shim` loads nothing else."
    ]


def _pictures(pictures: Mapping[str, str], manifest: Manifest) -> list[str]:
    lines = []
    if HISTOGRAM in pictures:
        lines += [f"![Histogram of the cosines with the original, by language]({pictures[HISTOGRAM]})"]
    if CURVE in pictures:
        lines += ["", f"![Bits per weight against the cosine of the worst text]({pictures[CURVE]})"]
        others = rivals(manifest)
        lines += ["", f"Rivals were measured on {TEXTS}, this model on the texts above."] * bool(others)
    return lines


def _use(subject: Subject) -> list[str]:
    found = [("shim", usage.own(subject))]
    found += [(loader.title or loader.name, [loader.write(subject)]) for loader in usage.loaders(subject)]
    lines = ["## Use"]
    for title, codes in found:
        lines += ["", f"### {title}"]
        for language, code in codes:
            lines += ["", f"```{language}", code, "```"]
    return lines


def _model(manifest: Manifest) -> list[str]:
    """Dimensions, limits and prompts."""
    spec = manifest.model
    facts = {"Tokens at most": str(spec.max_tokens), "License": manifest.license}
    if manifest.task == "embed":
        length = "of length 1" if spec.normalized else "not normalised, as the original's are not"
        length = (
            "a weight of each word of the vocabulary" if spec.splade else f"of each token, {length}" if spec.colbert else length
        )
        made = {"Dimensions": str(spec.dimensions), "Heads": ", ".join(spec.heads), "Pooling": spec.pooling}
        facts = made | {"Vectors": length, "Compared by": spec.similarity} | facts
    lines = ["## What it takes", "", *tables.table(list(facts), [list(facts.values())])]
    if manifest.task == "rerank":
        pair, asked = spec.prompts.get(PAIR), spec.prompts.get(DEFAULT)
        lines += ["", "A pair is put into this text:", "", "```", pair.strip("\n"), "```"] if pair else []
        return [*lines, "", f"Where no instruction is given, it is `{asked}`"] if asked else lines
    prompts = {task: prompt_of(spec, task) for task in ROLES} | {k: v for k, v in spec.prompts.items() if k != TEMPLATE}
    prompts |= {f"prompt_name={name}": text for name, text in spec.prompt_names.items()}
    shown = [(task, f"`{_inline(text)}`") for task, text in prompts.items() if text]
    if not shown:
        return [*lines, "", "It takes no prompts: nothing goes before a text."]
    template = [("instruction", f"`{_inline(spec.prompts[TEMPLATE])}`")] if TEMPLATE in spec.prompts else []
    return [*lines, "", *tables.table(("Task", "What `shim` puts before a text"), shown + template)]


def _inline(text: str) -> str:
    """A prompt inside a table: line breaks are shown as in Python."""
    return text.replace("\\", "\\\\").replace("\n", "\\n").replace("|", "\\|")


def _proof(manifest: Manifest) -> list[str]:
    """How it was measured, and what else was."""
    parity, lines = manifest.parity, []
    for head, figures in (parity.heads or {}).items():
        if figures.by_dimensions:
            told = ", ".join(f"{worst:.5f} at {size}" for size, worst in figures.by_dimensions.items())
            lines += [f"- {head}: cut to fewer dimensions, and the original likewise, the worst is {told}."]
        if figures.centred:
            lines += [
                f"- {head}: less the mean of the original's vectors, the worst is {figures.centred.worst:.5f}; "
                f"of the ten nearest neighbours {figures.neighbours:.1%} are the same."
            ]
        if figures.kendall:
            lines += [
                f"- The best document is the same for {figures.top1:.1%} of the queries; Kendall's tau is at worst "
                f"{figures.kendall['worst']:.3f}; a probability changes by {figures.probability:.5f} at most."
            ]
    if parity.runtime:
        lines += [f"- Measured on {parity.runtime} ({parity.device}, {parity.kernels})."]
    for name, other in (manifest.runtimes or {}).items():
        worst = ", ".join(f"{cosine:.5f} ({head})" for head, cosine in other.worst.items())
        lines += [f"- Measured on {name} ({other.device}, {other.kernels}), too: {other.verdict}, the worst is {worst}."]
    if packed := parity.packed_kernels:
        lines += [f"- The kernels that a GPU uses, against these: {packed.worst:.5f} on {packed.texts} texts."]
    if witness := parity.witness:
        lines += [
            f"- Witness: {witness.library} {witness.version} reads the original by itself as it was read here: the same "
            f"tokens, and the same outputs to {witness.worst:.1e}, on {witness.texts} telling texts."
        ]
        told = ", ".join(witness.given)
        lines += [f"- It was told, as the original's files do not say so: {told}."] if told else []
    lines += [f"- Note: {note}." for note in parity.notes or []]
    overrides = manifest.source.get("overrides") or {}
    lines += [f"- Otherwise than the original's files say, {key}: {reason}" for key, reason in overrides.items()]
    return ["## How it was measured", "", *lines] if lines else []


def _made(precisions: Mapping[str, Manifest]) -> list[str]:
    """The commands, the versions, and the hashes of the original's weights."""
    manifest = next(iter(precisions.values()))
    commands = [each.tool["command"] for each in precisions.values() if "command" in each.tool]
    lines = ["## Make it again"]
    lines += ["", "```bash", *commands, "```"] if commands else []
    packages = ", ".join(f"{name} {version}" for name, version in manifest.tool["packages"].items())
    lines += ["", f"With sealport {manifest.tool['version']} ({packages}), from these weights:"]
    found = {name: entry for name, entry in manifest.source["files"].items() if name.endswith(WEIGHTS)}
    rows = [(f"`{name}`", f"`{entry['sha256']}`") for name, entry in found.items()]
    return [*lines, "", *tables.table(("File", "SHA-256"), rows)]
