"""Licenses: those that the hub knows, and the gate that an original's must pass to be converted, verified and published."""

import difflib
import re
from collections.abc import Collection
from typing import TypedDict

from shim.artifact import Manifest
from shim.errors import UsageError

# What a model card of the hub may name. Source: https://huggingface.co/docs/hub/repositories-licenses
_IDS = """
afl-3.0 agpl-3.0 apache-2.0 apple-amlr apple-ascl artistic-2.0 bigcode-openrail-m bigscience-bloom-rail-1.0
bigscience-openrail-m bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear bsl-1.0 c-uda cc cc-by-2.0 cc-by-2.5 cc-by-3.0
cc-by-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nc-nd-3.0 cc-by-nc-nd-4.0 cc-by-nc-sa-2.0 cc-by-nc-sa-3.0
cc-by-nc-sa-4.0 cc-by-nd-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc0-1.0 cdla-permissive-1.0 cdla-permissive-2.0 cdla-sharing-1.0
creativeml-openrail-m deepfloyd-if-license ecl-2.0 epl-1.0 epl-2.0 etalab-2.0 eupl-1.1 eupl-1.2
fair-noncommercial-research-license gemma gfdl gpl gpl-2.0 gpl-3.0 grok2-community h-research intel-research isc lgpl
lgpl-2.1 lgpl-3.0 lgpl-lr llama2 llama3 llama3.1 llama3.2 llama3.3 llama4 lppl-1.3c mit mpl-2.0 ms-pl ncsa odbl odc-by
ofl-1.1 openmdw-1.0 openrail openrail++ osl-3.0 other pddl postgresql unknown unlicense wtfpl zlib
"""
IDS = frozenset(_IDS.split())
OTHER, UNKNOWN = "other", "unknown"  # of IDS: one that has a name of its own; one that nobody states
RESEARCH = ("apple-amlr", "deepfloyd-if-license")  # of IDS: no commercial use, which the name does not say
COMMONS = re.compile(r"cc-(by(?:-nc)?(?:-nd|-sa)?)-(\d\.\d)")


class Terms(TypedDict, total=False):
    """What a manifest's `source` says of a license besides its name, where there is something to say."""

    license_link: str
    non_commercial: bool


def terms(license: str, link: str) -> Terms:
    """See Terms; link: "" where there is none."""
    found = Terms(license_link=link) if link else Terms()
    if non_commercial(license):
        found["non_commercial"] = True
    return found


def non_commercial(license: str) -> bool:
    """Whether a license forbids commercial use: a known one, or one whose own name says so or is of research."""
    return license in RESEARCH or bool(re.search(r"\bnc\b|non-?commercial|\bresearch\b", license.lower()))


def link_of(license: str, link: str, repo: str, revision: str = "main") -> str:
    """Where the license's text is: as stated, `link`, which may be a file of the original's; else what is known; else "".

    repo, revision: of the original, which is `ORG/NAME`, or `dir:NAME` or `pkg:NAME` where it is not on the hub.
    """
    page = f"https://huggingface.co/{repo}" if ":" not in repo else ""
    if link:
        return link if "://" in link or not page else f"{page}/blob/{revision or 'main'}/{link}"
    if commons := COMMONS.fullmatch(license):
        return f"https://creativecommons.org/licenses/{commons[1]}/{commons[2]}/"
    return page


def check_id(license: str) -> None:
    """Raise UsageError for a license that `--license` names and the hub does not know."""
    if license not in IDS or license == UNKNOWN:
        near = difflib.get_close_matches(license.lower(), IDS - {UNKNOWN}, n=1)
        hint = f"did you mean {near[0]}?" if near else f"{OTHER} stands for one of its own, which a recipe names"
        raise UsageError(f"--license {license}: not a license as the hub names it; {hint}")


def named(license: str, name: str, link: str, file: str) -> str:
    """What a recipe's license is called: by its id on the hub, or where that is `other`, by its own name. file: for errors."""
    if license not in IDS:
        raise UsageError(f'{file}: license "{license}" is no id of the hub; write "{OTHER}", license_name and license_link')
    if (license == OTHER) != bool(name) or (name and not link):
        raise UsageError(f'{file}: license "{OTHER}", license_name and license_link go together')
    return name or license


def check_known(name: str, license: str, link: str) -> None:
    """Raise UsageError where nobody says what the license is: no file states one, or one that is neither known to the hub nor
    has a link. name: of the model, for the error.
    """
    if license == UNKNOWN:
        how = f"--license ID says it as the hub names it (apache-2.0, or {OTHER} for one of its own), license in a recipe, too"
        raise UsageError(f"{name}: its license is unknown, as no file states one; {how}")
    if license not in IDS and not link:
        raise UsageError(
            f"{name}: its license, {license}, is none that the hub knows, and no link says what it is; "
            f'license = "{OTHER}", license_name and license_link in a recipe do'
        )


def check_accepted(name: str, license: str, link: str, accepted: Collection[str]) -> None:
    """Raise UsageError for a license that forbids commercial use and is not among those that were accepted by name."""
    if non_commercial(license) and license not in accepted:
        where = f" ({link})" if link else ""
        raise UsageError(
            f"{name}: its license, {license}{where}, forbids commercial use; --accept-license {_quoted(license)} accepts that"
        )


def accept(manifest: Manifest, accepted: Collection[str]) -> None:
    """`check_accepted` of an artifact's license."""
    source = manifest.source
    link = link_of(manifest.license, str(source.get("license_link", "")), str(source["repo"]), str(source["revision"]))
    check_accepted(manifest.name, manifest.license, link, accepted)


def check_license(manifest: Manifest, accepted: Collection[str]) -> None:
    """Both checks, of an artifact that is to be published. accepted: the licenses that `--accept-license` names."""
    check_known(manifest.name, manifest.license, str(manifest.source.get("license_link", "")))
    accept(manifest, accepted)


def _quoted(license: str) -> str:
    return license if re.fullmatch(r"[\w.+-]+", license) else f"'{license}'"
