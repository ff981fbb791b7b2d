"""The command line: parse, call, print. Everything heavy is imported by the command that needs it."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console

from weakseg.errors import UserError

if TYPE_CHECKING:
    from weakseg.data.audit import AuditReport
    from weakseg.pipeline.run import RunResult

app = typer.Typer(
    name="weakseg",
    help="Weakly-supervised segmentation: image tags, boxes or saliency in, a trained network and its report out.",
    epilog="Start with:  weakseg demo",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
INTERRUPTED = 130  # what typer makes of Ctrl-C
out = Console(highlight=False, emoji=False)

RecipeArgument = Annotated[
    str, typer.Argument(metavar="RECIPE", help="A YAML file, or the name of a recipe that comes along (cam).")
]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a setting, such as data.root=photos; may be repeated."),
]


@app.command(epilog="Example:  weakseg demo --folder runs/demo")
def demo(
    folder: Annotated[Path, typer.Option(help="Where the scenes and the results go.")] = Path("runs/demo"),
    seed: Annotated[int, typer.Option(help="Of the scenes and of the training.")] = 0,
) -> None:
    """Generate scenes, train on their tags, and write a report: the whole tool in a few minutes, without a download."""
    from weakseg.pipeline.demo import run_demo
    from weakseg.pipeline.progress import Terminal

    _summary(run_demo(folder, seed=seed, reporter=Terminal()))


@app.command(epilog="Example:  weakseg run cam --set data.root=photos --set run.folder=runs/photos")
def run(recipe: RecipeArgument, settings: Settings = None) -> None:
    """Do everything a recipe says, from the audit to the report, going on where an earlier run has stopped."""
    _run(recipe, settings, "report")


@app.command(epilog="Example:  weakseg localize cam --set data.root=photos")
def localize(recipe: RecipeArgument, settings: Settings = None) -> None:
    """Train the localisation method and write the maps of all images."""
    _run(recipe, settings, "localize")


@app.command(epilog="Example:  weakseg refine cam --set data.root=photos --set refine='\\[threshold]'")
def refine(recipe: RecipeArgument, settings: Settings = None) -> None:
    """Go on to the pseudo-masks."""
    _run(recipe, settings, "refine")


@app.command(epilog="Example:  weakseg segment cam --set data.root=photos --set segment.network=unet")
def segment(recipe: RecipeArgument, settings: Settings = None) -> None:
    """Go on to the trained segmenter, and the detector if the recipe has one."""
    _run(recipe, settings, "segment")


@app.command(epilog="Example:  weakseg evaluate cam --set data.root=photos")
def evaluate(recipe: RecipeArgument, settings: Settings = None) -> None:
    """Go on to the evaluation: seeds, pseudo-masks and segmenter against the true masks, as far as there are any."""
    _run(recipe, settings, "evaluate")


@app.command(epilog="Example:  weakseg audit photos --needs tags")
def audit(
    data: Annotated[Path, typer.Argument(help="The folder of the data set.")],
    kind: Annotated[str, typer.Option(help="auto, folder, voc or coco.")] = "auto",
    split: Annotated[list[str] | None, typer.Option(help="Splits to check; may be repeated.")] = None,
    needs: Annotated[list[str] | None, typer.Option(help="Labels that must be there; may be repeated.")] = None,
    allow_untagged: Annotated[
        bool, typer.Option("--allow-untagged", help="An image without tags shows none of the classes.")
    ] = False,
) -> None:
    """Check a data set before training on it: files, sizes, names, classes; says what to do about each finding."""
    from weakseg.pipeline.checks import audit_folder
    from weakseg.pipeline.progress import Terminal

    report = audit_folder(
        data,
        kind=kind,
        splits=split,
        needs=needs or ["tags"],
        allow_untagged=allow_untagged,
        reporter=Terminal(),
    )
    _findings(report)
    if report.errors:
        raise typer.Exit(2)


@app.command(epilog="Example:  weakseg saliency photos --provider background-connectivity --option superpixels=300")
def saliency(
    data: Annotated[Path | None, typer.Argument(help="The folder of the data set.")] = None,
    provider: Annotated[str, typer.Option(help="What makes the maps.")] = "background-connectivity",
    option: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="One of its options; may be repeated.")
    ] = None,
    kind: Annotated[str, typer.Option(help="auto, folder, voc or coco.")] = "auto",
    split: Annotated[list[str] | None, typer.Option(help="Splits to make maps of; may be repeated.")] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes; one a core if not given.")] = None,
    listing: Annotated[bool, typer.Option("--list", help="List the providers and their options instead.")] = False,
) -> None:
    """Make the saliency maps of a data set, beside it, for recipes with the same data.saliency."""
    from weakseg.pipeline.fill import fill_saliency
    from weakseg.pipeline.listing import describe_saliency
    from weakseg.pipeline.progress import Terminal

    if listing:
        _list(describe_saliency())
        return
    if data is None:
        raise UserError("which data set?", where="weakseg saliency", remedy="Name its folder, or use --list")
    folder, made = fill_saliency(
        data, provider, option or [], kind=kind, splits=split, workers=workers, reporter=Terminal()
    )
    out.print(f"{_counted(made, 'map')} made, in {folder}", markup=False, soft_wrap=True)


@app.command(epilog="Example:  weakseg predict runs/photos 'new/*.jpg' --output new/masks")
def predict(
    folder: Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a run with a trained network.")],
    images: Annotated[list[str], typer.Argument(help="Image files, folders of images, or globs.")],
    output: Annotated[Path, typer.Option(help="Where masks (PNG) and objects (JSON) go.")] = Path("predictions"),
    overlay: Annotated[bool, typer.Option("--overlay", help="Also write what is found laid over the images.")] = False,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
) -> None:
    """Segment new images, or find objects in them, with what a finished run has trained."""
    from weakseg.pipeline.predict import predict_files
    from weakseg.pipeline.progress import Terminal

    count = predict_files(folder, images, output, overlay=overlay, device=device, reporter=Terminal())
    out.print(f"{_counted(count, 'image')} predicted in {output}", markup=False)


@app.command(epilog="Example:  weakseg report runs/photos")
def report(
    folder: Annotated[Path, typer.Argument(metavar="RUN", help="The folder of an evaluated run.")],
) -> None:
    """Write the report page of a run again."""
    from weakseg.pipeline.run import rewrite_report

    out.print(f"report: {rewrite_report(folder)}", markup=False)


@app.command(epilog="Example:  weakseg methods")
def methods() -> None:
    """List the localisation methods and their options."""
    from weakseg.pipeline.listing import describe_methods

    _list(describe_methods())


@app.command(epilog="Example:  weakseg refiners")
def refiners() -> None:
    """List the refiners and their options."""
    from weakseg.pipeline.listing import describe_refiners

    _list(describe_refiners())


@app.command(epilog="Example:  weakseg networks --backbones 'resnet*'")
def networks(
    backbones: Annotated[str | None, typer.Option(metavar="PATTERN", help="List timm backbones instead.")] = None,
) -> None:
    """List the segmentation networks, or the backbones whose names match a pattern."""
    from weakseg.pipeline.listing import describe_backbones, describe_networks

    _list(describe_networks() if backbones is None else describe_backbones(backbones))


@app.command(epilog="Example:  weakseg recipes --show mini/cam")
def recipes(
    show: Annotated[str | None, typer.Option(metavar="NAME", help="Print this recipe.")] = None,
) -> None:
    """List the recipes that come along."""
    from weakseg.pipeline.shipped import describe_recipes, recipe_path

    if show is not None:
        out.print(recipe_path(show).read_text(encoding="utf-8"), markup=False, soft_wrap=True, end="")
    else:
        _list(describe_recipes())


def main() -> None:
    """Run the command line; what the user can put right is one line and exit status 2."""
    try:
        app(standalone_mode=True)
    except UserError as error:
        Console(stderr=True, highlight=False, soft_wrap=True, emoji=False).print(
            f"error: {error}", style="red", markup=False
        )
        sys.exit(2)
    except SystemExit as end:
        if end.code == INTERRUPTED:
            Console(stderr=True).print("stopped; the same command goes on from here")
        raise


def _run(
    recipe: str, settings: list[str] | None, until: Literal["localize", "refine", "segment", "evaluate", "report"]
) -> None:
    from weakseg.pipeline.progress import Terminal
    from weakseg.pipeline.run import run as run_recipe
    from weakseg.pipeline.shipped import recipe_path

    _summary(run_recipe(recipe_path(recipe), overrides=settings or [], until=until, reporter=Terminal()))


def _summary(result: "RunResult") -> None:
    from weakseg.metrics import ProtocolResult, protocol_line

    _per_class(result.metrics)
    for name, value in result.metrics.items():
        out.print(protocol_line(name, ProtocolResult.from_json(value)), markup=False, soft_wrap=True)
    out.print(f"run folder: {result.folder}", markup=False, soft_wrap=True)
    if result.report is not None:
        out.print(f"report: {result.report}", markup=False, soft_wrap=True)


def _per_class(metrics: dict[str, dict[str, dict[str, float | None]]]) -> None:
    from rich.table import Table

    of_class = {name: result["per_class"] for name, result in metrics.items() if result["per_class"]}
    if not of_class:
        return
    table = Table("class", *[f"{name} IoU %" for name in of_class], title="IoU per class")
    for name in next(iter(of_class.values())):
        values = [each[name] for each in of_class.values()]
        table.add_row(name, *["-" if value is None else f"{100 * value:.1f}" for value in values])
    out.print(table)


def _findings(report: "AuditReport") -> None:
    from rich.table import Table

    counts = Table("split", "class", "images with it", "without", "boxes", title="Classes")
    for row in report.classes:
        counts.add_row(row.split, row.name, str(row.positives), str(row.negatives), str(row.boxes))
    out.print(counts)
    for found in report.rows():
        more = f" ({found.count} images)" if found.count > 1 else ""
        line = f"{found.severity}: {found.where}: {found.problem}{more}. {found.remedy}."
        out.print(line, style="red" if found.severity == "error" else "yellow", markup=False, soft_wrap=True)
    splits = " and ".join(f"{_counted(count, 'image')} in {split}" for split, count in report.images.items())
    severities = f"{_counted(len(report.errors), 'error')}, {_counted(len(report.warnings), 'warning')}"
    out.print(f"{splits}: {severities}", markup=False)


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _list(rows: list[tuple[str, str]]) -> None:
    from rich.table import Table

    table = Table.grid(padding=(0, 3))
    for name, text in rows:
        table.add_row(f"[bold]{name}[/bold]", text)
    out.print(table)
