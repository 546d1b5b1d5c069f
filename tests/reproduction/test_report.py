"""The report: one page that needs nothing else, as a parser and as a browser see it."""

import base64
import io
import re
import shutil
import subprocess
from html.parser import HTMLParser

import made_up
import pytest
from made_up import everything, experiment
from PIL import Image

from reproduction.experiment import remember
from reproduction.paper import PAPER
from reproduction.report import report

any_number_of_images = made_up.any_number_of_images

BROWSER = next(
    filter(
        None,
        map(
            shutil.which,
            ("chromium", "chromium-headless-shell", "chromium-browser", "google-chrome"),
        ),
    ),
    None,
)
VOID = {"meta", "img", "br", "hr", "link", "input"}


class Page(HTMLParser):
    """Elements with their attributes; raises where a tag is not closed in its turn or an id comes twice."""

    def __init__(self, text):
        super().__init__()
        self.open, self.elements, self.ids, self.words = [], [], [], []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        self.ids += [value for name, value in attributes if name == "id"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, text):
        self.words.append(text)

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """The report of two experiments, one with all tables and two figures, a curve and a gallery, and its text."""
    out = tmp_path_factory.mktemp("report")
    graph = everything(out, seeds=2, data_note='Images <compressed> & "decoded"')
    remember(graph.experiment)
    remember(experiment(out, dataset="digits"))
    folder = graph.nodes["seed1/linf/standard"].folder
    for name in ("curves.png", "images-pgd-40.png"):
        Image.new("RGB", (900, 200), "white").save(folder / name)
    graph.nodes["seed2/linf/wmim"].diverged_note.write_text("")
    path = report(out)
    return path, path.read_text()


def test_it_is_well_formed_and_its_links_lead_somewhere(page):
    parsed = Page(page[1])
    assert len(set(parsed.ids)) == len(parsed.ids)
    links = [each["href"] for each in parsed.all("a")]
    assert links and all(link.startswith("#") and link[1:] in parsed.ids for link in links)
    assert parsed.elements[0][0] == "html" and any(
        each.get("name") == "viewport" for each in parsed.all("meta")
    )


def test_nothing_is_fetched_and_every_picture_is_in_it(page):
    parsed = Page(page[1])
    assert (
        not parsed.all("script")
        and not parsed.all("link")
        and not parsed.all("iframe")
        and "http" not in page[1]
        and "url(" not in page[1]
    )
    assert len(parsed.all("img")) == 4  # two figures, a curve, a gallery
    for image in parsed.all("img"):
        assert image["alt"]
        kind, _, content = image["src"].partition(",")
        assert kind == "data:image/png;base64"
        Image.open(io.BytesIO(base64.b64decode(content))).verify()


def test_it_says_what_there_is_and_what_there_is_not(page):
    text = " ".join(Page(page[1]).words)
    for word in (
        "cifar10-tiny",
        "digits-tiny",
        "Table 1: white box",
        "Table 6: black box",
        "Figure 5",
        "Figure 7",
        "Not run: figure2, figure4",
        "Its numbers are among those of Table 1",
        'Images <compressed> & "decoded"',
        "an abacus",
        "c0ffeec0ffee",
        "diverged",
        "train_standard.py --dataset cifar10",
        "{:.2f} ± {:.2f}".format(*PAPER["white_box_linf"]["cifar10"]["namid"]["aa"]),
        "[1 of 2 seeds, 1 diverged]",
    ):
        assert word in text, word
    assert text.count("Not run: table1") == 1


def test_every_wide_thing_scrolls_in_a_box_of_its_own(page):
    boxes = re.findall(r'<div class="wide"[^>]*><table>', page[1])
    assert len(boxes) == page[1].count("<table>") and ".wide { overflow-x: auto" in page[1]


def test_a_report_of_nothing(tmp_path):
    assert report(tmp_path) is None and not list(tmp_path.iterdir())


@pytest.mark.skipif(
    BROWSER is None, reason="no Chromium here (chromium, chromium-headless-shell or google-chrome)"
)
@pytest.mark.parametrize("width", [1280, 390])
def test_in_a_browser_the_page_is_as_wide_as_its_window(width, page, tmp_path):
    """A copy in a frame of that width, since a headless window has a least width of its own, tells whether it scrolls sideways,
    which elements stick out, and whether the pictures are shown."""
    probe = """<script>addEventListener('load', () => { const wide = document.documentElement; parent.postMessage(
        JSON.stringify({window: innerWidth, page: wide.scrollWidth, scrolling: [...document.querySelectorAll('.wide')].some(
            each => each.scrollWidth > each.clientWidth), pictures: [...document.images].every(each => each.naturalWidth > 0)}), '*') })</script>"""
    frame = """<body><script>addEventListener('message', told => { document.body.innerText = told.data })</script>
        <iframe src="copy.html" style="width: %dpx; height: 900px; border: 0"></iframe></body>"""
    (tmp_path / "copy.html").write_text(
        page[1].replace("<details>", "<details open>").replace("</body>", probe + "</body>")
    )
    (tmp_path / "frame.html").write_text(frame % width)
    said = subprocess.run(
        [
            BROWSER,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            f"--user-data-dir={tmp_path / 'profile'}",
            "--window-size=1400,1000",
            "--virtual-time-budget=5000",
            "--dump-dom",
            (tmp_path / "frame.html").as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
    ).stdout
    found = re.search(r'\{"window":(\d+),"page":(\d+),"scrolling":(\w+),"pictures":(\w+)\}', said)
    assert found, said[-2000:]
    assert int(found[1]) == width and int(found[2]) <= width and found[4] == "true"
    assert found[3] == "true" or width == 1280  # on a phone the tables do scroll
