"""Recipes: what is accepted, what is refused and in which words, and what --set does."""

import pytest
import yaml

from tests.data.trees import put_text, refusal
from weakseg.pipeline import build
from weakseg.pipeline.recipe import Recipe, load_recipe
from weakseg.pipeline.steps import refiner_steps


def tree(**more):
    return {"name": "tiny", "data": {"root": "photos"}, **more}


def nested(key, value):
    """``a.b.c`` -> a minimal recipe with that key."""
    found = tree()
    *sections, last = key.split(".")
    below = found
    for section in sections:
        below = below.setdefault(section, {})
    below[last] = value
    return found


def look(recipe, key):
    for part in key.split("."):
        recipe = getattr(recipe, part)
    return recipe


@pytest.mark.parametrize(
    ("given", "settings", "expected"),
    [
        ("runs/a", [], ("runs/a", {})),
        ({"run": "runs/a", "names": {"x": "y"}}, ["localize.trained.run=runs/b"], ("runs/b", {"x": "y"})),
        ("runs/a", ["localize.trained.names.x=y"], ("runs/a", {"x": "y"})),
        (None, ["localize.trained=runs/a b"], ("runs/a b", {})),
        (None, ["localize.trained.run=runs/a", "localize.trained.names={x: null}"], ("runs/a", {"x": None})),
        ("runs/a", ["localize.trained=none"], None),
        ("runs/a", ["localize.trained=null"], None),
    ],
)
def test_a_taken_localiser_in_its_short_and_long_forms(given, settings, expected):
    found = load_recipe(tree(localize={"trained": given}), settings).localize.trained
    assert (found and (found.run, found.names)) == expected


def test_a_minimal_recipe_takes_the_defaults_of_its_parts():
    recipe = load_recipe(tree())
    assert recipe.localize.method.name == "cam"
    assert [step.name for step in recipe.refine] == ["power", "crf"]
    assert recipe.segment.network.name == "deeplabv3plus"
    assert recipe.segment.backbone is None
    assert recipe.run.folder == "runs/tiny"
    assert (recipe.data.train, recipe.data.val) == ("train", "val")
    assert build.method_options(recipe.localize.method)["pooling"] == "mean"


def test_a_file_and_a_mapping_give_the_same(tmp_path):
    file = put_text(tmp_path / "r.yaml", yaml.safe_dump(tree(seed=3)))
    assert load_recipe(file) == load_recipe(str(file)) == load_recipe(tree(seed=3))


def test_the_mapping_given_is_left_as_it_is():
    given = tree(localize={"train": {"epochs": 2}})
    load_recipe(given, ["localize.train.epochs=5", "data.root=x"])
    assert given == tree(localize={"train": {"epochs": 2}})


@pytest.mark.parametrize(
    ("override", "key", "value"),
    [
        ("seed=7", "seed", 7),
        ("data.root=my photos", "data.root", "my photos"),
        ("data.val=null", "data.val", None),
        ("localize.train.epochs=5", "localize.train.epochs", 5),
        ("localize.train.lr=1e-3", "localize.train.lr", 0.001),
        ("localize.scales=[1.0, 0.5]", "localize.scales", (1.0, 0.5)),
        ("localize.flip=false", "localize.flip", False),
        ("localize.train.augment.scale=[0.5, 2]", "localize.train.augment.scale", (0.5, 2.0)),
        ("localize.method=cam", "localize.method.name", "cam"),
        ("localize.method.dropout=0.5", "localize.method.options", {"dropout": 0.5}),
        ("segment.network.name=unet", "segment.network.name", "unet"),
        ("segment.network=unet", "segment.network.name", "unet"),
        ("segment=none", "segment", None),
        ("segment=null", "segment", None),
        ("run.folder=a=b", "run.folder", "a=b"),
        ("localize.backbone.options={pad_type: same}", "localize.backbone.options", {"pad_type": "same"}),
        ("localize.backbone.options.pad_type=same", "localize.backbone.options", {"pad_type": "same"}),
        ("data.root=2024", "data.root", "2024"),
        ("data.root=007", "data.root", "007"),
        ("data.root=yes", "data.root", "yes"),
        ("data.root=[red] x: y", "data.root", "[red] x: y"),
        ("data.root=photos #1", "data.root", "photos #1"),
        ("data.root=#1", "data.root", "#1"),
        ("data.root='photos #1'", "data.root", "photos #1"),
        ('data.root="2024"', "data.root", "2024"),
        ("data.val=2012", "data.val", "2012"),
        ("localize.backbone.sha256=0123", "localize.backbone.sha256", "0123"),
        ("localize.scales.1=0.25", "localize.scales", (1.0, 0.25, 1.5, 2.0)),
        ("segment.loss.label_smoothing=0.1", "segment.loss.options", {"label_smoothing": 0.1}),
    ],
)
def test_set(override, key, value):
    start = tree(localize={"method": "cam"}, segment={"network": "fpn"})
    assert look(load_recipe(start, [override]), key) == value


@pytest.mark.parametrize("own", [True, False])
def test_what_is_frozen_in_the_backbone_is_frozen_in_the_encoder(own):
    body = {"name": "test_resnet", "weights": "none", "freeze": ["layer1"]}
    localize = {"backbone": {**body, "freeze": []} if own else body}
    recipe = load_recipe(tree(localize=localize, segment={"network": "unet", **({"backbone": body} if own else {})}))
    built = build.segmenter(recipe.segment, recipe.segment.backbone or recipe.localize.backbone, 2)
    parameters = dict(built.network.encoder.named_parameters())
    frozen = {name for name, parameter in parameters.items() if not parameter.requires_grad}
    assert frozen == {name for name in parameters if name.startswith("layer1.")} != set()


def refiners(recipe):
    return [(step.name, step.options) for step in recipe.refine]


@pytest.mark.parametrize(
    ("refine", "override", "expected"),
    [
        (None, "refine.1.params=D", [("power", {}), ("crf", {"params": "D"})]),
        (None, "refine.0=threshold", [("threshold", {}), ("crf", {})]),
        (["threshold", "crf"], "refine.1.params=D", [("threshold", {}), ("crf", {"params": "D"})]),
        ([{"name": "power", "alpha": 2}], "refine.0.alpha=1", [("power", {"alpha": 1})]),
        ([{"alpha": 2}], "refine.0.name=power", [("power", {"alpha": 2})]),
    ],
)
def test_set_of_one_refiner(refine, override, expected):
    given = tree() if refine is None else tree(refine=refine)
    before = yaml.safe_dump(given)
    assert refiners(load_recipe(given, [override])) == expected
    assert yaml.safe_dump(given) == before


@pytest.mark.parametrize("override", ["refine.2.params=A", "refine.crf.params=A", "refine.-1=crf", "refine.2=crf"])
def test_set_of_an_item_that_is_not_there(override):
    line = refusal(lambda: load_recipe(tree(), [override]), f"'--set {override}'", "a list of 2", "Count from 0")
    assert len(line) < 150


def test_set_takes_no_comments():
    refusal(lambda: load_recipe(tree(), ["seed=5 # five"]), "'seed' is '5 # five'")


@pytest.mark.parametrize(
    ("section", "choice", "name"),
    [("localize", "method", "cam"), ("segment", "network", "deeplabv3plus"), ("segment", "loss", "cross_entropy")],
)
def test_options_without_a_name_are_those_of_the_default(section, choice, name):
    recipe = load_recipe(tree(**{section: {choice: {"depth": 3}}}))
    chosen = look(recipe, f"{section}.{choice}")
    assert (chosen.name, chosen.options) == (name, {"depth": 3})


def test_set_of_a_list_of_refiners():
    recipe = load_recipe(tree(), ["refine=[threshold, {name: crf, params: D}]"])
    threshold, crf = refiner_steps(recipe)[0]
    assert (threshold.name, threshold.options) == ("threshold", {"value": 0.2})
    assert (crf.name, crf.options["params"]) == ("crf", "D")


def test_the_last_set_wins():
    assert load_recipe(tree(), ["seed=1", "seed=2"]).seed == 2


@pytest.mark.parametrize("section", ["localize", "segment", "detect"])
def test_set_enters_a_section_that_was_left_out(section):
    left_out = tree(**{section: "none"})
    assert getattr(load_recipe(left_out), section) is None
    assert getattr(load_recipe(left_out, [f"{section}.train.epochs=3"]), section).train.epochs == 3


@pytest.mark.parametrize("override", ["seed", "=3", ""])
def test_set_without_a_value(override):
    refusal(lambda: load_recipe(tree(), [override]), f"'--set {override}'", "--set section.key=value")


def test_set_of_something_that_is_no_yaml():
    refusal(lambda: load_recipe(tree(), ["localize.scales=[1.0"]), "localize.scales=[1.0", "not YAML")


def test_set_of_one_network_leaves_the_other_alone(tmp_path):
    """In the file both are one YAML anchor."""
    text = (
        "name: tiny\ndata: {root: a}\nlocalize: {backbone: &body {name: resnet10t}}\nsegment:\n  backbone: *body\n"
        "  train: {epochs: 2}\n"
    )
    recipe = load_recipe(put_text(tmp_path / "r.yaml", text), ["segment.backbone.name=resnet50"])
    assert recipe.segment.backbone.name == "resnet50"
    assert recipe.localize.backbone.name == "resnet10t"


@pytest.mark.parametrize(
    ("key", "near"),
    [
        ("refin", "refine"),
        ("Seed", "seed"),
        ("data.rot", "root"),
        ("data.allow_untaged", "allow_untagged"),
        ("localize.scale", "scales"),
        ("localize.backbone.outputstride", "output_stride"),
        ("localize.train.epoch", "epochs"),
        ("localize.train.learning", None),
        ("localize.train.augment.cropp", "crop"),
        ("segment.losss", "loss"),
        ("segment.backbone.batch_norm", "batchnorm"),
        ("segment.train.augment.scales", "scale"),
        ("segment.predict.scale", "scales"),
        ("evaluate.seed", "seeds"),
        ("run.worker", "workers"),
    ],
)
def test_an_unknown_key_lists_near_ones(key, near):
    line = refusal(lambda: load_recipe(nested(key, 1)), "recipe", f"unknown key '{key}'")
    assert f"Did you mean '{near}'" in line or near is None or f" or '{near}'" in line
    assert "Known: ." not in line


@pytest.mark.parametrize(
    ("choose", "words"),
    [
        (lambda r: build.method_options(r.localize.method), ("localize.method.droput", "'dropout'")),
        (lambda r: refiner_steps(r), ("refine.1.parms", "'params'")),
        (build.check_settings, ("segment.loss.label_smothing", "'label_smoothing'")),
    ],
)
def test_an_unknown_option_lists_near_ones(choose, words):
    recipe = load_recipe(
        tree(
            localize={"method": {"name": "cam", "droput": 0.1}, "train": {"augment": {"scale": [1, 1]}}},
            refine=["power", {"name": "crf", "parms": "A"}],
            segment={
                "loss": {"name": "cross_entropy", "label_smothing": 0.1},
                "train": {"augment": {"scale": [1, 1]}},
            },
        )
    )
    refusal(lambda: choose(recipe), "unknown key", *words)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("seed", "many"),
        ("data", "photos"),
        ("data.root", 3),
        ("localize.train.epochs", 0),
        ("localize.train.epochs", 1.5),
        ("localize.train.batch", 1),
        ("localize.train.lr", 0),
        ("localize.train.lr", -1),
        ("localize.train.momentum", 2),
        ("localize.train.optimizer", "adam"),
        ("localize.train.workers", -1),
        ("localize.train.augment.crop", 0),
        ("localize.train.augment.resize", [3]),
        ("localize.backbone.output_stride", 4),
        ("localize.backbone.batchnorm", "off"),
        ("localize.backbone.mean", [0.5, 0.5]),
        ("localize.method", 3),
        ("localize.scales", [0]),
        ("localize.scales", []),
        ("localize.stride", 0),
        ("refine", "crf"),
        ("segment.predict.merge", "median"),
        ("segment.predict.scales", []),
        ("evaluate.seeds", ["test"]),
        ("evaluate.metrics", ["bleu"]),
        ("run.workers", 0),
    ],
)
def test_a_wrong_value_names_its_key_and_itself(key, value):
    line = refusal(lambda: load_recipe(nested(key, value)), "recipe", f"'{key}")
    shown = [value, *value] if isinstance(value, list) else [value]
    assert any(repr(part) in line for part in shown) or "is missing" in line


@pytest.mark.parametrize("missing", ["name", "data"])
def test_what_must_be_there(missing):
    given = {key: value for key, value in tree().items() if key != missing}
    refusal(lambda: load_recipe(given), f"'{missing}' is missing")


def test_a_refiner_without_a_name():
    refusal(lambda: load_recipe(tree(refine=[{"params": "A"}])), "refine.0.name", "missing")


def test_references():
    recipe = load_recipe(
        tree(
            localize={"backbone": {"weights": "${data.root}/../w.pth"}},
            run={"folder": "runs/${name}-${seed}"},
            description="${data.root} and ${data.root}",
        ),
        ["data.root=/photos", "seed=4"],
    )
    assert recipe.localize.backbone.weights == "/photos/../w.pth"
    assert recipe.run.folder == "runs/tiny-4"
    assert recipe.description == "/photos and /photos"


def test_references_to_what_holds_references():
    recipe = load_recipe(tree(data={"root": "${run.folder}/scenes"}))
    assert recipe.data.root == "runs/tiny/scenes"


@pytest.mark.parametrize("chain", [{"data": {"root": "${data.root}"}}, {"name": "${seed}${run.folder}"}])
def test_references_in_a_circle(chain):
    refusal(lambda: load_recipe({**tree(), **chain}), "recipe", "refers to itself")


@pytest.mark.parametrize("key", ["data.rot", "nme", "data.root.x", "localize.scales.9"])
def test_a_reference_to_nothing(key):
    refusal(lambda: load_recipe(tree(description=f"${{{key}}}")), f"'${{{key}}}' refers to nothing")


@pytest.mark.parametrize(
    ("key", "near"),
    [("data.rot", "data.root"), ("root", "data.root"), ("localize.train.epoch", "localize.train.epochs")],
)
def test_a_reference_to_nothing_lists_near_ones_with_their_sections(key, near):
    refusal(lambda: load_recipe(tree(description=f"${{{key}}}")), f"Did you mean '{near}'")


def test_a_reference_like_nothing_lists_the_sections():
    refusal(lambda: load_recipe(tree(description="${xyz}")), "Known: data, description")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("name: [", ("is not YAML", "line 1")),
        ("a: 1\nb:\n\t- c", ("is not YAML", "line 3")),
        ("", ("no settings",)),
        ("- a\n- b", ("no settings",)),
        ("just text", ("no settings",)),
        ("a: !!python/object/apply:os.system ['true']", ("is not YAML",)),
    ],
)
def test_a_file_that_is_no_recipe(tmp_path, text, words):
    file = put_text(tmp_path / "r.yaml", text)
    refusal(lambda: load_recipe(file), file, *words)


def test_a_file_that_is_no_text(tmp_path):
    file = tmp_path / "r.yaml"
    file.write_bytes(b"\xff\xfe\x00binary")
    refusal(lambda: load_recipe(file), file, "is not YAML")


def test_a_file_that_is_missing(tmp_path):
    refusal(lambda: load_recipe(tmp_path / "r.yaml"), tmp_path / "r.yaml", "no such recipe")


@pytest.mark.parametrize("segment", ["none", None])
def test_no_segmenter(segment):
    recipe = load_recipe(tree(segment=segment))
    assert recipe.segment is None
    assert "segment: null" in recipe.to_yaml()


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"segment": None},
        {"refine": ["threshold", {"name": "crf", "params": "B", "unary": "labels"}]},
        {"localize": {"method": {"name": "cam", "dropout": 0.5}, "backbone": {"freeze": ["conv1"], "mean": [0, 0, 0]}}},
        {"environment": {"torch": "2.11"}, "description": "Größe: 3"},
    ],
)
def test_what_is_written_is_read_back(tmp_path, more):
    recipe = load_recipe(tree(**more))
    file = put_text(tmp_path / "recipe.yaml", recipe.to_yaml())
    assert load_recipe(file) == recipe
    assert load_recipe(file).to_yaml() == recipe.to_yaml()


def test_a_resolved_recipe_shows_every_setting():
    shown = yaml.safe_load(load_recipe(tree()).to_yaml())
    assert set(shown) == set(Recipe.model_fields)
    assert shown["localize"]["train"]["augment"]["flip"] == 0.5


def augmented(**augment):
    return load_recipe(tree(localize={"train": {"augment": augment}}, segment=None))


@pytest.mark.parametrize(
    ("augment", "words"),
    [
        ({"resize": [10, 20], "scale": [1, 2]}, "both 'resize' and 'scale'"),
        ({"resize": [10, 20], "area": [0.5, 1]}, "both 'resize' and 'area'"),
        ({"area": [0.5, 1.5]}, "from 0.5 to 1.5"),
        ({"resize": [20, 10]}, "from 20 to 10 is no range"),
        ({"scale": [0, 1]}, "from 0.0 to 1.0 is no range"),
        ({"scale": [-1, 1]}, "from -1.0 to 1.0 is no range"),
    ],
)
def test_an_augmentation_that_is_ambiguous(augment, words):
    trainings = {"localize.train": augmented(**augment).localize.train}
    refusal(lambda: build.check_trainings(trainings, images=16, devices=1), "localize.train.augment", words)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"segment": {"network": "unnet"}}, ("unknown network 'unnet'", "'unet'")),
        ({"segment": {"loss": "cross_entrop"}}, ("unknown loss", "'cross_entropy'")),
        ({"segment": {"predict": {"crf": "Z"}}}, ("unknown CRF parameter set 'Z'", "A")),
        ({"segment": None, "data": {"root": "a", "val": None}, "evaluate": {"seeds": ["val"]}}, ("data.val",)),
    ],
)
def test_settings_that_name_what_is_not_there(more, words):
    scale = {"train": {"augment": {"scale": [1, 1]}}}
    segment = {**scale, **more["segment"]} if more["segment"] else None
    recipe = load_recipe(tree(**{**more, "localize": scale, "segment": segment}))
    refusal(lambda: build.check_settings(recipe), *words)


def single_stage(**localize):
    return {"method": "single_stage", "train": {"augment": {"area": [0.9, 1]}}, **localize}


@pytest.mark.parametrize(
    ("localize", "segment", "words"),
    [
        ({"predict": {"crf": "zzz"}}, None, ("unknown CRF parameter set 'zzz'", "A")),
        ({"method": "cam", "predict": {"crf": "A"}}, None, ("'cam' is no segmenter", "localize.predict")),
        ({"predict": {"crf": "A"}}, {"network": "unet"}, ("segmenter of 'segment' that predicts", "localize.predict")),
    ],
)
def test_predictions_of_a_method_that_cannot_be(localize, segment, words):
    recipe = load_recipe(tree(localize=single_stage(**localize), segment=segment))
    refusal(lambda: build.check_settings(recipe), *words)


def test_predictions_of_a_method_are_made_as_its_maps_where_nothing_else_is_said():
    views = {"scales": [1.0, 0.5], "flip": False, "batch": 1, "precision": "32"}
    maps = {**views, "scales": (1.0, 0.5), "merge": "mean"}
    for predict, expected in (
        (None, {**maps, "crf": None}),
        ({"crf": "A"}, {**maps, "crf": "A"}),
        ({"flip": True, "scales": [1.0]}, {**maps, "crf": None, "flip": True, "scales": (1.0,)}),
    ):
        recipe = load_recipe(tree(localize=single_stage(**views, predict=predict), segment=None))
        assert build.predicting(recipe).model_dump() == expected


@pytest.mark.parametrize(
    ("more", "key"),
    [
        ({"localize": {"method": {"name": "cam", "dropout": 2}}}, "localize.method.dropout"),
        ({"localize": {"method": {"name": "cam", "pooling": "max"}}}, "localize.method.pooling"),
        ({"refine": [{"name": "crf", "gt_prob": 1.5}]}, "refine.0.gt_prob"),
        ({"refine": [{"name": "crf", "iterations": -1}]}, "refine.0.iterations"),
        ({"refine": [{"name": "power", "alpha": "strong"}]}, "refine.0.alpha"),
        ({"refine": [{"name": "power", "alpha": 0}]}, "refine.0.alpha"),
        ({"refine": [{"name": "threshold", "value": 1.5}]}, "refine.0.value"),
        ({"refine": [{"name": "threshold", "value": -0.1}]}, "refine.0.value"),
        ({"segment": {"loss": {"name": "cross_entropy", "label_smoothing": 2}}}, "segment.loss.label_smoothing"),
    ],
)
def test_options_out_of_range_are_found_before_anything_is_built(more, key):
    scale = {"train": {"augment": {"scale": [1, 1]}}}
    sections = {name: {**scale, **(more.get(name) or {})} for name in ("localize", "segment")}
    recipe = load_recipe(tree(**{**more, **sections}))

    def check():
        build.method_options(recipe.localize.method)
        refiner_steps(recipe)
        build.check_settings(recipe)

    refusal(check, "recipe", key)
