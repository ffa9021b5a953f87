"""Accounts, collections, and the check of a card."""

import re
import secrets

from support.hub.answers import Answer, Call, Refusal, as_json, route
from support.hub.cards import problems
from support.hub.rights import readable, writer
from support.hub.store import now

SLUG = r"(?P<slug>[^/]+/[^/]+)"


@route("GET", "/api/whoami-v2")
def whoami(call: Call) -> Answer:
    """Whose the token is."""
    if not call.account:
        raise Refusal(401, "Invalid username or password.")
    account = call.account
    organisations = [{"type": "org", "name": name, "roleInOrg": account.role} for name in account.organisations]
    token = {"type": "access_token", "accessToken": {"displayName": "test", "role": account.role}}
    return as_json({"type": "user", "id": account.name, "name": account.name, "orgs": organisations, "auth": token})


@route("POST", "/api/validate-yaml")
def validate(call: Call) -> Answer:
    """What is wrong with a card's front matter."""
    errors, warnings = problems(call.json["content"])
    told = {"errors": [{"message": text} for text in errors], "warnings": [{"message": text} for text in warnings]}
    return as_json(told, 400 if errors else 200)


@route("POST", "/api/collections")
def create(call: Call) -> Answer:
    """A collection; one title is there once in a namespace."""
    asked, account = call.json, writer(call)
    if not account.belongs_to(asked["namespace"]):
        raise Refusal(403, f'You don\'t have the rights to create a collection under "{asked["namespace"]}"')
    known = call.hub.store.read("collections.json") or {}
    for slug, collection in known.items():
        if (collection["title"], collection["owner"]["name"]) == (asked["title"], asked["namespace"]):
            raise Refusal(409, "This collection already exists", more={"slug": slug})
    name = re.sub(r"[^a-z0-9]+", "-", asked["title"].lower()).strip("-")
    slug = f"{asked['namespace']}/{name}-{secrets.token_hex(12)}"
    made = {"slug": slug, "title": asked["title"], "description": asked.get("description"), "private": asked["private"]}
    made |= {"owner": {"name": asked["namespace"]}, "items": [], "position": len(known), "theme": "green", "upvotes": 0}
    known[slug] = made | {"lastUpdated": now()}
    call.hub.store.save("collections.json", known)
    return as_json(known[slug])


def opened(call: Call, slug: str) -> tuple[dict, dict]:  # type: ignore[type-arg]
    """All collections, and the one that is meant."""
    known = call.hub.store.read("collections.json") or {}
    found = known.get(slug)
    known_here = call.account and found and call.account.belongs_to(found["owner"]["name"])
    if not found or (found["private"] and not known_here):
        raise Refusal(404, "Collection not found")
    return known, found


@route("GET", f"/api/collections/{SLUG}")
def show(call: Call, slug: str) -> Answer:
    """A collection with its items."""
    return as_json(opened(call, slug)[1])


@route("POST", f"/api/collections/{SLUG}/items?")
def add(call: Call, slug: str) -> Answer:
    """A model, last in a collection."""
    (known, collection), item = opened(call, slug), call.json["item"]
    if not writer(call).belongs_to(collection["owner"]["name"]):
        raise Refusal(403, "You don't have the rights to change this collection")
    readable(call, item["id"])
    if item["id"] in [there["id"] for there in collection["items"]]:
        raise Refusal(409, "This item is already in the collection")
    note = {"text": call.json["note"]} if "note" in call.json else None
    added = {"_id": secrets.token_hex(12), **item, "position": len(collection["items"]), "note": note}
    collection["items"].append(added)
    collection["lastUpdated"] = now()
    call.hub.store.save("collections.json", known)
    return as_json(collection)
