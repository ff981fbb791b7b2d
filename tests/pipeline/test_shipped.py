"""The recipes that come along are good ones."""

from pathlib import Path

import pytest
import timm
import yaml

from tests.data.trees import put_text, refusal
from weakseg.data.catalog import open_dataset
from weakseg.pipeline import build, demo
from weakseg.pipeline.progress import Silent
from weakseg.pipeline.recipe import load_recipe
from weakseg.pipeline.shipped import describe_recipes, recipe_names, recipe_path, recipes_folder
from weakseg.pipeline.steps import refiner_steps

NAMES = recipe_names()


def test_there_are_some():
    assert "mini/cam" in NAMES
    assert len(NAMES) == len(list(recipes_folder().rglob("*.yaml")))


@pytest.mark.parametrize("name", NAMES)
def test_a_shipped_recipe_can_be_built(name):
    recipe = load_recipe(recipe_path(name))
    build.check_settings(recipe)
    refiner_steps(recipe)
    if recipe.localize is not None:
        build.method_options(recipe.localize.method)
        assert build.needs(recipe.localize.method)
    segment = recipe.segment and recipe.segment.backbone
    assert all(timm.is_model(backbone.name) for backbone in (recipe.backbone, segment) if backbone)
    assert "$" not in recipe.to_yaml()


@pytest.mark.parametrize("name", NAMES)
def test_a_shipped_recipe_says_what_it_is(name):
    assert len(dict(describe_recipes())[name]) > 20
    assert "environment" not in yaml.safe_load(recipe_path(name).read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", NAMES)
def test_the_users_data_and_folder_go_with_every_recipe(name):
    recipe = load_recipe(recipe_path(name), ["data.root=/my/photos", "run.folder=/my/run"])
    assert (recipe.data.root, recipe.run.folder) == ("/my/photos", "/my/run")


def test_names_and_paths():
    path = recipes_folder() / "mini/cam.yaml"
    assert recipe_path("mini/cam") == recipe_path("recipes/mini/cam.yaml").resolve() == path
    assert recipe_path(str(path)) == path


def test_a_file_of_the_same_name_does_not_hide_a_recipe(tmp_path, monkeypatch):
    put_text(tmp_path / "mini/cam", "name: mine")
    put_text(tmp_path / "mini/mine.yaml", "name: mine")
    monkeypatch.chdir(tmp_path)
    assert recipe_path("mini/cam") == recipes_folder() / "mini/cam.yaml"
    assert recipe_path("mini/mine.yaml") == Path("mini/mine.yaml")


def test_the_demo_draws_scenes_and_runs_its_recipe_on_them(tmp_path, monkeypatch):
    monkeypatch.setattr(demo, "TRAIN", 4)
    monkeypatch.setattr(demo, "VAL", 2)
    monkeypatch.setattr(demo, "run", lambda path, overrides, reporter: load_recipe(path, overrides))
    chosen = demo.run_demo(tmp_path / "run: #1", seed=5, reporter=Silent())
    assert chosen.seed == 5
    assert Path(chosen.run.folder) == tmp_path / "run: #1"
    train = open_dataset(chosen.data.kind, chosen.data.root, "train")
    assert (len(train), len(open_dataset(chosen.data.kind, chosen.data.root, "val"))) == (4, 2)
    assert train.sample(train.ids[0]).tags.any()


def test_an_unknown_recipe_lists_near_ones():
    refusal(lambda: recipe_path("mini/cma"), "mini/cma", "'mini/cam'")
