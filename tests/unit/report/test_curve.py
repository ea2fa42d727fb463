from __future__ import annotations

import xml.etree.ElementTree as ET

from autoround.report.curve import Point, curve_svg

SVG = "{http://www.w3.org/2000/svg}"


def test_points_lie_where_they_belong() -> None:
    line = [Point("", 2.0, 1.0), Point("", 4.0, 0.01)]
    other, mine = Point("W4 <for all>", 4.0, 0.02), Point("chosen", 3.0, 0.1)
    root = ET.fromstring(curve_svg(line, chosen=[mine], others=[other]))
    circles = root.findall(f"{SVG}circle")
    assert len(circles) == 2
    right, middle = (float(c.attrib["cx"]) for c in circles)
    low, high = (float(c.attrib["cy"]) for c in circles)
    assert right > middle
    assert low > high  # a smaller loss is drawn further down
    assert "W4 <for all>" in [t.text for t in root.findall(f"{SVG}text")]
    corners = root.find(f"{SVG}polyline")
    assert corners is not None
    assert len(corners.attrib["points"].split()) == 2


def test_points_without_loss_are_left_out() -> None:
    root = ET.fromstring(curve_svg([Point("", 16.0, 0.0)]))
    assert root.findall(f"{SVG}polyline") == []
    one = ET.fromstring(curve_svg([], measured=[Point("only", 3.0, 0.5)]))
    assert len(one.findall(f"{SVG}circle")) == 1
