"""The recipes that come along are good ones."""

from pathlib import Path

import pytest
import timm
import yaml

from tests.data.trees import put_text, refusal
from weakseg.pipeline import build
from weakseg.pipeline.recipe import load_recipe
from weakseg.pipeline.shipped import describe_recipes, recipe_names, recipe_path, recipes_folder
from weakseg.refine.registry import create_chain

NAMES = recipe_names()


def test_there_are_some():
    assert "mini/cam" in NAMES
    assert len(NAMES) == len(list(recipes_folder().rglob("*.yaml")))


@pytest.mark.parametrize("name", NAMES)
def test_a_shipped_recipe_can_be_built(name):
    recipe = load_recipe(recipe_path(name))
    build.check_settings(recipe)
    build.method_options(recipe.localize.method)
    create_chain(build.refiner_steps(recipe.refine))
    assert build.needs(recipe.localize.method)
    segment = recipe.segment and recipe.segment.backbone
    assert all(timm.is_model(backbone.name) for backbone in (recipe.localize.backbone, segment) if backbone)
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


def test_a_file_in_the_working_folder_goes_first(tmp_path, monkeypatch):
    put_text(tmp_path / "mini/cam", "name: mine")
    monkeypatch.chdir(tmp_path)
    assert recipe_path("mini/cam") == Path("mini/cam")


def test_an_unknown_recipe_lists_near_ones():
    refusal(lambda: recipe_path("mini/cma"), "mini/cma", "'mini/cam'")
