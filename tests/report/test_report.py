"""The report page and its pictures."""

import base64
import html
import io
import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from weakseg.data.classes import voc_palette
from weakseg.errors import UserError
from weakseg.report import (
    Panel,
    ReportData,
    charts,
    contact_sheet,
    overlays,
    pictures,
    render,
    report,
    write_report,
)

NASTY = '<b>&"'
CHROMIUM = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
)
NEEDS_CHROMIUM = pytest.mark.skipif(CHROMIUM is None, reason="no chromium, chromium-browser or google-chrome found")
VOID = {"meta", "img", "br", "hr", "input", "link"}


def a_panel(name: str = "photo-1", size: tuple[int, int] = (60, 80), **left_out: None) -> Panel:
    height, width = size
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    mask = np.zeros(size, dtype=np.uint8)
    mask[height // 4 : height // 2, width // 4 : width // 2] = 1
    mask[-height // 4 :, :] = 255
    heat = np.linspace(0, 1, height * width, dtype=np.float32).reshape(size)
    made = {"map_": heat, "mask": mask, "prediction": mask, "truth": mask} | left_out
    return Panel(name, 0.625, ("cat", NASTY), image, **made)


def an_entry(miou: float, **more: object) -> dict[str, object]:
    flags = {"gt_tags": True, "crf": False, "multi_scale": True, "threshold_swept": 0.45}
    of_class = {"background": 0.812, "cat": 0.377, NASTY: None}
    return {
        "miou": miou,
        "per_class": of_class,
        "flags": flags,
        "supervision": "tags+saliency",
        "images": 219,
        "backbone": "resnet50",
        "weights": "imagenet-1k",
        "absent": [NASTY],
    } | more


def rich() -> ReportData:
    return ReportData(
        title=f"EPS {NASTY}",
        recipe=f"method: eps\nnote: '{NASTY}'\n" + "long: " + "x" * 300,
        classes=("background", "cat", NASTY),
        metrics={
            "seed@train": an_entry(0.4351),
            "mask@train": an_entry(0.5512, contour_f=0.4812),
            "seg@val": an_entry(0.5734, images=111, flags={"gt_tags": False, "crf": True}),
        },
        curve=[(0.4, 0.431), (0.2, 0.287), (0.6, 0.333)],
        seed_threshold=0.4,
        stages=[
            ("train", [a_panel(prediction=None)], [a_panel("w" * 120, truth=None)]),
            ("val", [a_panel(NASTY)], []),
        ],
        timings={
            "localize": {"seconds": 83.2, "images_per_second": 2.63, "peak_memory_mb": 812.0},
            "segmenter": {"seconds": 4120.0, "images_per_second": None, "peak_memory_mb": None, "epochs": 20},
        },
        environment={"torch": "2.11.0", "device": f"GPU {NASTY}"},
        warnings=[f"class {NASTY} has no positives"],
    )


def minimal() -> ReportData:
    return ReportData(title="minimal", recipe="", classes=("background", "cat"), metrics={})


class Reader(HTMLParser):
    """Collects tags, text and references; knows whether every tag is closed in order."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text, self.tags, self.references, self.images = "", [], [], []
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        values = dict(attrs)
        self.references += [values[name] for name in ("src", "href", "srcset", "action") if name in values]
        self.images += [values] if tag == "img" else []
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data if self.open and self.open[-1] != "style" else ""


@pytest.mark.parametrize("data", [rich(), minimal()], ids=["rich", "minimal"])
def test_page_is_balanced_and_asks_for_nothing(data):
    page = render(data)
    read = Reader(page)
    assert page.startswith("<!DOCTYPE html>")
    assert all(reference.startswith(("data:image/jpeg;base64,", "#")) for reference in read.references)
    assert not re.search(r"https?://|url\(|@import", page)
    assert not {"script", "link", "iframe", "object"} & set(read.tags)
    assert "default-src 'none'; img-src data:; style-src 'unsafe-inline'" in page
    assert read.tags.count("h1") == 1
    assert all(image["alt"] for image in read.images)


def test_every_inner_link_has_its_target():
    page = render(rich())
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    targets = re.findall(r'href="#([^"]+)"|aria-labelledby="([^"]+)"', page)
    assert {one or other for one, other in targets} <= set(ids)


def test_every_number_stands_with_its_protocol():
    text = _spaced(rich())
    for number in ("43.5 %", "55.1 %", "57.3 %", "48.1 %", "81.2 %", "37.7 %", "43.1 %", "28.7 %", "62.5 %"):
        assert number in text
    assert all(number in text for number in ("1 min 23 s", "1 h 08 min", "812 MB", "2.6", "219", "111"))
    for word in ("seed@train", "mask@train", "seg@val", "Seeds on train", "tags + saliency", "resnet50", "imagenet-1k"):
        assert word in text
    assert "Classes in the mean 2 of 3" in text
    assert "True tags given yes CRF no Several scales yes Threshold swept yes, 0.45" in text
    assert "True tags given no CRF yes Several scales not recorded Threshold swept not recorded" in text


def _spaced(data: ReportData) -> str:
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", render(data))).split())


def test_a_flag_that_is_not_known_is_told_under_its_own_name():
    entry = an_entry(0.5, flags={"gt_tags": True, "tta": 3})
    assert "tta yes, 3" in _spaced(ReportData("t", "", ("background",), {"other": entry}))


def test_a_ratio_is_no_share():
    entry = an_entry(0.5, confusion_boat_water=1.134, confusion_train_rails=None, soft_recall=0.75)
    text = _spaced(ReportData("t", "", ("background",), {"seed@train": entry}))
    assert "confusion_boat_water 1.13 confusion_train_rails n/a soft_recall 75.0 %" in text


def test_user_data_are_escaped():
    page = render(rich())
    assert NASTY not in page
    assert "&lt;b&gt;&amp;&#34;" in page
    assert Reader(page).text.count(NASTY) > 8


def test_absent_class_is_not_a_zero():
    page = render(ReportData("t", "", ("background", "cat", NASTY), {"seg@val": an_entry(0.5)}))
    assert "n/a" in page
    assert "left out of the mean: &lt;b&gt;" in page
    assert page.count('<svg class="bar"') == 2


def test_missing_parts_leave_no_section():
    page = render(minimal())
    assert "Nothing was measured" in page
    for section in ("classes", "threshold", "pictures", "times", "recipe", "warnings"):
        assert f'id="{section}"' not in page


def test_mean_without_a_value_is_shown_as_such():
    page = render(
        ReportData("t", "", ("background",), {"seg@val": an_entry(float("nan"), per_class={"background": 0.5})})
    )
    assert "n/a" in page
    assert 'class="mark"' not in page


def test_a_threshold_off_the_curve_is_not_called_a_line():
    page = render(ReportData("t", "", ("background",), {}, curve=[(0.4, 0.3)], seed_threshold=0.7))
    assert "dashed line" not in page
    assert 'class="chosen"' not in page


def test_name_that_no_encoding_explains_is_still_written(tmp_path):
    path = write_report(tmp_path, ReportData("caf\udce9", "", ("background",), {}))
    assert "caf?" in path.read_text(encoding="utf-8")


def test_written_page_is_the_rendered_page(tmp_path):
    path = write_report(tmp_path / "report", rich())
    assert path == tmp_path / "report" / "index.html"
    assert path.read_text(encoding="utf-8") == render(rich())
    assert sorted(file.name for file in path.parent.iterdir()) == ["index.html", "train.png", "val.png"]


def test_unwritable_folder_is_an_error_of_one_line(tmp_path):
    (tmp_path / "report").write_text("a file")
    with pytest.raises(UserError, match=r"index\.html"):
        write_report(tmp_path / "report", minimal())


def test_heat_colours_rise_in_luminance():
    colours = overlays.heat_colours(np.linspace(0, 1, 256)) / 255
    linear = np.where(colours <= 0.04045, colours / 12.92, ((colours + 0.055) / 1.055) ** 2.4)
    luminance = linear @ np.array([0.2126, 0.7152, 0.0722])
    assert (np.diff(luminance) > 0).all()
    assert luminance[0] < 0.001
    assert luminance[-1] > 0.9


def test_heat_colours_clip_and_forgive():
    low, high, unknown = overlays.heat_colours(np.array([-1.0, 2.0, np.nan]))
    assert (low == unknown).all()
    assert (high == overlays.heat_colours(np.array(1.0))).all()


def test_overlay_of_a_mask_shows_class_colours_and_hatches_what_is_ignored():
    image = np.full((40, 40, 3), 60, dtype=np.uint8)
    mask = np.zeros((40, 40), dtype=np.uint8)
    mask[:20, :20], mask[:20, 22:] = 3, 255
    drawn = overlays.overlay_mask(image, mask)
    inside = drawn[5, 5].astype(float) - 60
    assert np.corrcoef(inside, voc_palette()[3])[0, 1] == pytest.approx(1, abs=1e-3)
    assert drawn[2:18, 24:38].min() > 60
    assert len(np.unique(drawn[2:18, 24:38, 0])) == 2
    assert (drawn[35, 35] == 60).all()
    assert (drawn[5, 19] == 255).all()  # the border


def test_edges_are_where_a_neighbour_differs():
    mask = np.array([[0, 0, 1], [0, 0, 1], [2, 2, 2]], dtype=np.uint8)
    slow = [
        [any(mask[y, x] != mask[j, i] for j, i in ((y + 1, x), (y, x + 1)) if j < 3 and i < 3) for x in range(3)]
        for y in range(3)
    ]
    assert overlays.edges(mask).tolist() == slow


@pytest.mark.parametrize("size", [(480, 640), (640, 480), (1, 900), (7, 5)])
def test_pictures_are_of_modest_size(size):
    for kind in pictures.KINDS:
        things = {kind: [overlays.Outlined(NASTY, np.ones(size, dtype=bool), 0.75)] for kind in pictures.OBJECTS}
        drawn = pictures.draw(replace(a_panel(size=size), objects=things), kind)
        assert max(drawn.shape[:2]) == min(max(size), pictures.LONGEST_SIDE)
        assert min(drawn.shape[:2]) >= 1


def test_a_map_at_stride_resolution_is_enlarged():
    panel = a_panel(map_=None)
    small = Panel(panel.id, 0.5, (), panel.image, map_=np.eye(5, dtype=np.float16))
    assert pictures.draw(small, "map").shape == panel.image.shape
    assert pictures.draw(panel, "map") is None


def test_labels_and_kinds_that_occur():
    panels = [a_panel(), a_panel(map_=None, prediction=None)]
    assert pictures.labels_of(panels) == [1, 255]
    assert pictures.kinds_of(panels[1:]) == ("image", "mask", "truth")
    assert pictures.label_name(1, ["background", "cat"]) == "cat"
    assert pictures.label_name(9, ["background", "cat"]) == "class 9"


def test_contact_sheet(tmp_path):
    panels = [a_panel(), a_panel("n" * 400, prediction=None), a_panel("caf\udce9\n", map_=None)]
    path = contact_sheet(panels, tmp_path / "sheet.png", ("background", "cat"))
    step = pictures.CELL_WIDTH + pictures.GAP
    rows = 3 * (pictures.LINE + pictures.CELL_HEIGHT + pictures.GAP)
    with Image.open(path) as sheet:
        assert sheet.format == "PNG"
        legend = pictures.LINE + pictures.GAP
        assert sheet.size == (pictures.GAP + 5 * step, pictures.GAP + pictures.LINE + rows + legend)
        assert len(sheet.getcolors(1 << 24)) > 100


@pytest.mark.parametrize(("size", "filled"), [((30, 40), (168, 224)), ((9, 36), (56, 224)), ((600, 300), (168, 84))])
def test_pictures_fill_their_cell_of_the_contact_sheet(tmp_path, size, filled):
    panel = Panel("a", 0.5, (), np.zeros((*size, 3), dtype=np.uint8))
    sheet = np.asarray(Image.open(contact_sheet([panel], tmp_path / "sheet.png")))
    top, left = pictures.GAP + 2 * pictures.LINE, pictures.GAP
    black = (sheet[top : top + pictures.CELL_HEIGHT, left : left + pictures.CELL_WIDTH] == 0).all(-1)
    assert (black.any(1).sum(), black.any(0).sum()) == filled


def test_contact_sheet_breaks_a_long_legend(tmp_path):
    mask = np.arange(60, dtype=np.uint8).reshape(6, 10)
    panel = Panel("a", 0.5, (), np.zeros((6, 10, 3), dtype=np.uint8), mask=mask)
    names = [f"class number {index}" for index in range(59)] + ["x" * 300]
    many = Image.open(contact_sheet([panel], tmp_path / "many.png", names))
    none = Image.open(contact_sheet([panel], tmp_path / "none.png"))
    assert many.width == none.width
    assert many.height > none.height + 5 * pictures.LINE


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (0.05, 0.95), (0.0, 0.013), (0.3, 0.3)])
def test_ticks_are_round_and_inside(low, high):
    found = charts.ticks(low, high)
    assert len(found) <= 6
    assert all(low - 1e-9 <= tick <= high + 1e-9 for tick in found)


def test_curve_marks_the_best_point():
    drawn = charts.curve([(0.1, 0.2), (0.3, 0.5), (0.5, 0.4)], chosen=0.3)
    best = re.search(r'class="best" cx="([\d.]+)"', drawn)
    assert best is not None
    assert f'class="dot" cx="{best[1]}"' in drawn
    assert "best 50.0 % at 0.3" in drawn
    assert drawn.count('class="dot"') == 3


@pytest.mark.parametrize("points", [[(0.5, 0.4)], [(0.5, 0.0), (0.6, 0.0)]])
def test_curve_of_almost_nothing_is_drawn(points):
    assert "nan" not in charts.curve(points)


def test_what_a_network_taught_itself_stands_in_the_page():
    buffer = io.BytesIO()
    Image.new("RGB", (3, 2), "red").save(buffer, format="PNG")
    page = render(ReportData("t", "", ("background",), {}, lessons=buffer.getvalue()))
    sheet = re.search(r'src="data:image/png;base64,([^"]+)"', page)
    assert sheet is not None
    assert base64.b64decode(sheet[1]) == buffer.getvalue()
    assert 'href="#lessons"' in page
    assert 'id="lessons"' not in render(ReportData("t", "", ("background",), {}))


def test_bar_stays_inside():
    assert 'width="100.00"' in charts.bar(1.7)
    assert 'width="0.00"' in charts.bar(-0.2)


@pytest.mark.parametrize(
    ("seconds", "text"), [(None, "–"), (3.21, "3.2 s"), (83.2, "1 min 23 s"), (4120, "1 h 08 min")]
)
def test_duration(seconds, text):
    assert report.duration(seconds) == text


def chromium(tmp_path, *arguments: str) -> str:
    quiet = ("--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync")
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", *quiet, "--hide-scrollbars"]
    done = subprocess.run(
        [*command, f"--user-data-dir={tmp_path / 'profile'}", *arguments], capture_output=True, timeout=120, check=True
    )
    return done.stdout.decode()


@NEEDS_CHROMIUM
@pytest.mark.slow
@pytest.mark.parametrize("size", [(390, 844), (1280, 900)])
def test_browser_paints_the_page(tmp_path, size):
    page, shot = write_report(tmp_path, rich()), tmp_path / "shot.png"
    chromium(tmp_path, f"--window-size={size[0]},{size[1]}", f"--screenshot={shot}", page.as_uri())
    pixels = Image.open(io.BytesIO(shot.read_bytes())).convert("RGB")
    assert pixels.height == size[1]
    assert len(pixels.getcolors(1 << 24)) > 50


@NEEDS_CHROMIUM
@pytest.mark.slow
@pytest.mark.parametrize("width", [320, 390, 1280])
def test_browser_needs_no_sideways_scrolling(tmp_path, width):
    """In a frame of that width, since a window has a smallest one; the page itself is left as it is."""
    page = render(rich()).replace("<details", "<details open")
    measure = "document.title = 'width ' + document.querySelector('iframe').contentDocument.documentElement.scrollWidth"
    frame = f'<iframe style="width:{width}px;height:844px;border:0" onload="{measure}" srcdoc="{html.escape(page)}">'
    (tmp_path / "frame.html").write_text(f"<!DOCTYPE html><title>-</title>{frame}</iframe>", encoding="utf-8")
    dom = chromium(tmp_path, "--dump-dom", (tmp_path / "frame.html").as_uri())
    assert f"<title>width {width}</title>" in dom
