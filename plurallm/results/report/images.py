"""A figure as SVG inside a page, in the page's own colours, or as a picture by itself."""

import io
import re
from xml.etree import ElementTree

from markupsafe import Markup
from matplotlib.figure import Figure

from plurallm.results.report.colours import COLOURS
from plurallm.results.report.drawing import drawing

_SVG = "{http://www.w3.org/2000/svg}"
_LINK = "{http://www.w3.org/1999/xlink}href"


def inline_svg(figure: Figure, name: str, description: str, css_class: str) -> Markup:
    """Draw a figure as an ``<svg>`` element.

    Parameters
    ----------
    figure : Figure
        Drawn in the light colours of ``COLOURS``.
    name : str
        Makes the identities inside differ from those of the page's other figures.
    description : str
        What somebody who does not see it must know.
    css_class : str
        Class of the element.

    Returns
    -------
    Markup
        Colours are CSS variables, text is text in the page's font.
    """
    stream = io.StringIO()
    with drawing(name):
        figure.savefig(stream, format="svg", metadata={"Date": None})
    root = ElementTree.fromstring(stream.getvalue())
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag.removeprefix(_SVG) in ("metadata", "style"):
                parent.remove(child)
    used = set(re.findall(r"#([\w.]+)", " ".join(_references(root))))
    for element in root.iter():
        element.tag = element.tag.removeprefix(_SVG)
        if element.get("id") not in used:
            element.attrib.pop("id", None)
        if _LINK in element.attrib:
            element.set("href", element.attrib.pop(_LINK))
        if "style" in element.attrib:
            element.set("style", _themed(element.attrib["style"]))
    _, _, width, height = root.attrib["viewBox"].split()
    root.attrib.clear()
    root.attrib |= {
        "viewBox": f"0 0 {width} {height}",
        "style": f"max-width: {width}px",
        "class": css_class,
        "role": "img",
        "aria-label": description,
    }
    return Markup(ElementTree.tostring(root, encoding="unicode", short_empty_elements=False))


def png(figure: Figure) -> bytes:
    """Draw a figure on white, with two pixels for each of the page's."""
    stream = io.BytesIO()
    with drawing():
        figure.savefig(stream, format="png", dpi=144, facecolor="white")
    return stream.getvalue()


def _references(root: ElementTree.Element) -> list[str]:
    """Texts in which an element can name another."""
    return [
        value
        for element in root.iter()
        for key, value in element.attrib.items()
        if key in (_LINK, "clip-path") or "url(" in value
    ]


def _themed(style: str) -> str:
    """Colours by their names, and the page's font."""
    style = re.sub(r"font-family:[^;]*;?\s*", "", style)
    for name, (light, _) in COLOURS.items():
        style = style.replace(light, f"var(--{name})")
    return style
