"""Publishing with the unmodified client to a hub over loopback: one commit, what it holds, and what stays."""

from pathlib import Path

import pytest
from support.commands import one_line
from support.hub import STRANGER, Hub
from support.publishing import REPO, Precisions, Publish, commits, expected, sent, there, told

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # as in a process of the command's own


def test_a_repository_is_published_in_one_commit_and_the_same_again_in_none(
    hub: Hub, publish: Publish, precisions: Precisions, tmp_path: Path
) -> None:
    artifacts = [precisions(bits, "data") for bits in (8, 16)]  # the most exact graph has two names
    done = publish(*artifacts)
    (commit,) = commits(hub)
    assert there(hub) == expected(tmp_path, *artifacts)
    assert commit["message"] == "Add 16bit, 8bit"
    assert commit["description"].splitlines() == [f"+ {name}" for name in sorted(there(hub))]
    assert done.stdout.startswith(f"{REPO}: published\n  url      {hub.url}/{REPO}\n  commit   ")
    assert "16bit (pass), 8bit (pass)" in done.stdout
    assert set(sent(hub).values()) == {1}
    assert len(sent(hub)) == 5, "three graphs and two files of data; the third has the second's content"
    start = len(hub.log)
    again = told(publish(*reversed(artifacts), "--json"))
    assert (again["commit"], again["sent"], again["deleted"]) == (None, {}, [])
    assert {entry.method for entry in hub.log[start:]} == {"GET", "HEAD"}
    assert len(commits(hub)) == 1
    assert publish(*artifacts).stdout.startswith(f"{REPO}: nothing changed, no commit\n")


def test_other_precisions_stay_and_nothing_of_them_is_sent_again(
    hub: Hub, publish: Publish, precisions: Precisions, tmp_path: Path
) -> None:
    publish(precisions(8, "data"))
    hub.put("acme/other", {"config.json": b"{}"})
    start = len(hub.log)
    second = told(publish(precisions(32), "--json"))
    assert set(second["precisions"]) == {"32bit", "8bit"}
    assert there(hub) == expected(tmp_path, precisions(32), precisions(8, "data"))
    assert commits(hub)[0]["message"] == "Add 32bit"
    assert second["deleted"] == ["onnx/model.onnx_data"], "it was the 8-bit graph's second name, and 32 bits have no data"
    about = {"README.md", "assets/parity.svg", "assets/32bit/cosines.json"}
    assert second["sent"].keys() == {"artifact.json", "config.json", "onnx/model.onnx"} | about
    assert len(sent(hub, start)) == 1
    publish(precisions(4), "--allow-unverified")
    assert there(hub) == expected(tmp_path, precisions(32), precisions(8, "data"), precisions(4))
    third = told(publish(precisions(8), "--json"))  # the same bits, converted otherwise
    assert commits(hub)[0]["message"] == "Change 8bit"
    assert third["deleted"] == ["onnx/model_quantized.onnx_data"]
    assert there(hub) == expected(tmp_path, precisions(32), precisions(8), precisions(4))


def test_the_most_exact_of_what_stays_keeps_the_name_that_loaders_look_for(
    hub: Hub, publish: Publish, precisions: Precisions, tmp_path: Path
) -> None:
    hub.part = 100_000  # bytes: larger files go in parts
    publish(precisions(16, "data"))
    publish(precisions(8))
    assert there(hub) == expected(tmp_path, precisions(16, "data"), precisions(8))


def test_a_card_is_mended_and_a_signature_lasts_as_long_as_what_it_signs(
    hub: Hub, publish: Publish, precisions: Precisions
) -> None:
    publish(precisions(8))
    files = there(hub)
    hub.put(REPO, files | {"README.md": b"# By hand", "artifact.json.sig": b"signed"})
    publish(precisions(8))
    assert commits(hub)[0]["message"] == "Change README.md"
    assert commits(hub)[0]["description"] == "~ README.md"
    assert there(hub) == files | {"artifact.json.sig": b"signed"}
    publish(precisions(16))
    assert "artifact.json.sig" not in there(hub)


def test_a_branch_is_made_from_main(hub: Hub, publish: Publish, precisions: Precisions, tmp_path: Path) -> None:
    publish(precisions(8))
    publish(precisions(16), "--revision", "v2/next")
    assert there(hub) == expected(tmp_path, precisions(8))
    assert there(hub, ref="refs/heads/v2/next") == expected(tmp_path, precisions(8), precisions(16))
    publish(precisions(8), "--name", "new", "--revision", "v1")
    assert there(hub, "acme/new", "refs/heads/v1").keys() == expected(tmp_path, precisions(8)).keys()
    assert commits(hub, "acme/new") == []


def test_a_pull_request_of_a_stranger(
    hub: Hub, publish: Publish, precisions: Precisions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(precisions(8))
    monkeypatch.setenv("HF_TOKEN", STRANGER)
    assert "this token may not do that (403" in one_line(publish(precisions(16), check=3))
    proposed = told(publish(precisions(16), "--create-pr", "--json"))
    assert proposed["pull_request"] == f"{hub.url}/{REPO}/discussions/1"
    assert there(hub, ref="refs/pr/1") == expected(tmp_path, precisions(8), precisions(16))
    assert there(hub) == expected(tmp_path, precisions(8))
    publish(precisions(4), "--allow-unverified", "--revision", "refs/pr/1")
    assert len(commits(hub, ref="refs/pr/1")) == 3


def test_a_private_repository_and_a_collection(hub: Hub, publish: Publish, precisions: Precisions) -> None:
    first = told(publish(precisions(8), "--private", "--collection", "Good ones", "--json"))
    again = told(publish(precisions(8), "--private", "--collection", "Good ones", "--json"))
    assert first["collection"] == again["collection"]
    assert first["collection"].startswith(f"{hub.url}/collections/acme/good-ones-")
    stored = hub.store.repo(REPO)
    assert stored is not None
    assert stored["private"] is True
    (collection,) = hub.store.read("collections.json").values()
    assert ([item["id"] for item in collection["items"]], collection["private"]) == ([REPO], True)
    publish(precisions(8), "--name", "public")
    refused = one_line(publish(precisions(16), "--name", "public", "--private", check=2))
    assert "acme/public is there and public; --private is for a repository that is made" in refused
    publish(precisions(16))  # without the word it stays private
    assert (hub.store.repo(REPO) or {})["private"] is True
