"""Which stages are done, from which inputs."""

import json

import pytest

from tests.data.trees import put_text, refusal
from weakseg.pipeline.manifest import MANIFEST, TIMINGS, Manifest, fingerprint


def test_a_fingerprint_depends_on_content_and_names_alone():
    one = fingerprint(a={"x": 1, "y": [1, 2]}, b="t")
    assert one == fingerprint(b="t", a={"y": [1, 2], "x": 1})
    others = [fingerprint(a={"x": 1, "y": [2, 1]}, b="t"), fingerprint(c={"x": 1, "y": [1, 2]}, b="t"), fingerprint()]
    assert len({one, *others}) == 4


@pytest.fixture
def folder(tmp_path):
    put_text(tmp_path / "maps/a.npz", "old")
    put_text(tmp_path / "model.bin", "old")
    put_text(tmp_path / "mine.txt", "the user's own")
    return tmp_path


def began(folder, inputs, *others):
    manifest = Manifest(folder)
    manifest.begin("maps", inputs, ("maps", "model.bin", "nothing"))
    return manifest


def test_what_was_made_from_other_inputs_is_removed(folder):
    began(folder, "one")
    assert sorted(path.name for path in folder.iterdir()) == [MANIFEST, "mine.txt"]


def test_what_was_made_from_the_same_inputs_is_kept(folder):
    put_text(folder / MANIFEST, json.dumps({"maps": {"inputs": "one", "done": False}}))
    began(folder, "one")
    assert (folder / "maps/a.npz").read_text() == "old"
    assert (folder / "model.bin").exists()


def test_a_stage_is_done_once_it_is_finished_and_for_these_inputs_only(folder):
    manifest = began(folder, "one")
    assert not Manifest(folder).done("maps", "one")
    manifest.finish("maps", "one", {"seconds": 1.5})
    again = Manifest(folder)
    assert again.done("maps", "one")
    assert not again.done("maps", "two")
    assert not again.done("masks", "one")
    assert again.timings == {"maps": {"seconds": 1.5}}


def test_beginning_anew_undoes_it(folder):
    manifest = began(folder, "one")
    manifest.finish("maps", "one", {})
    began(folder, "two")
    assert not Manifest(folder).done("maps", "one")


def test_a_removal_that_was_stopped_half_way_does_not_pass_for_done(folder, monkeypatch):
    """The power fails while the old results are removed, and the user goes back to the old recipe."""
    put_text(folder / MANIFEST, json.dumps({"maps": {"inputs": "old", "done": True}}))

    def fails(_):
        raise KeyboardInterrupt

    monkeypatch.setattr("weakseg.pipeline.manifest._remove", fails)
    with pytest.raises(KeyboardInterrupt):
        began(folder, "new")
    assert not Manifest(folder).done("maps", "old")
    monkeypatch.undo()
    began(folder, "old")
    assert not (folder / "maps").exists()


def test_what_another_process_has_written_is_read_again(folder):
    manifest, other = Manifest(folder), Manifest(folder)
    manifest.stages["audit"] = {"inputs": "mine", "done": True}
    other.stages["audit"] = {"inputs": "theirs", "done": True}
    other.finish("maps", "two", {"seconds": 2})
    assert not manifest.done("maps", "two")
    manifest.reload(kept=("audit",))
    assert manifest.done("maps", "two")
    assert manifest.done("audit", "mine")
    assert manifest.timings == {"maps": {"seconds": 2}}


@pytest.mark.parametrize("name", [MANIFEST, TIMINGS])
@pytest.mark.parametrize("content", ["", "{", "[]", '"text"', '{"maps": 3}'])
def test_a_damaged_manifest(tmp_path, name, content):
    put_text(tmp_path / name, content)
    refusal(lambda: Manifest(tmp_path), tmp_path / name, "damaged")


def test_a_folder_that_is_not_there_is_empty_and_stays_so(tmp_path):
    manifest = Manifest(tmp_path / "run")
    assert not manifest.done("maps", "one")
    assert not (tmp_path / "run").exists()
