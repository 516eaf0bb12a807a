"""Charts as SVG for a page: in its colours, by day and by night, with words to hover for."""

import io
import re
import xml.etree.ElementTree as ET

_SVG = "http://www.w3.org/2000/svg"
_LINK = "{http://www.w3.org/1999/xlink}href"
# Drawn in these colours, and shown in those of the page's style sheet.
_INK, _FAINT = "#010101", "#020202"
SERIES = ("#030303", "#040404", "#050505", "#060606", "#070707")
_SHOWN = {_INK: "var(--ink)", _FAINT: "var(--line)"}
_SHOWN |= {color: f"var(--series-{i})" for i, color in enumerate(SERIES)}


def bars(name, rows, series, unit="", width=5):
    """Horizontal bars: for each row, one bar of each series.

    Args:
        name (str): of the chart; no other on the page has it.
        rows (dict[str, list[float | None]]): label → a value for each series.
        series (Sequence[str]): names of the series.
        unit (str): behind each value.
        width (float): in inches; the same size of letters needs as many as the place on the page.

    Returns:
        str: an ``<svg>`` element.
    """
    height = 0.8 / len(series)
    figure, axes = _figure(width, 0.4 + 0.26 * len(series) * len(rows))
    tips = {}
    for i, (label, values) in enumerate(rows.items()):
        for j, value in enumerate(values):
            if value is None:
                continue
            at = i + (j - (len(series) - 1) / 2) * height
            [bar] = axes.barh(at, value, 0.9 * height, color=_color(j))
            axes.text(value, at, f" {value:.4g}{unit}", va="center", fontsize=9, color=_INK)
            bar.set_gid(f"bar{i}-{j}")
            tips[f"bar{i}-{j}"] = f"{label}, {series[j]}: {value:.4g}{unit}"
    axes.set_yticks(range(len(rows)), list(rows))
    axes.invert_yaxis()
    axes.margins(x=0.25)
    axes.set_xticks([])
    return _svg(figure, name, tips)


def widths(name, layers):
    """Channels of each layer, before and after.

    Args:
        name (str): of the chart.
        layers (dict[str, dict]): layer → ``"before"`` and ``"after"``, in the model's order.

    Returns:
        str: an ``<svg>`` element.
    """
    figure, axes = _figure(max(10, 0.1 * len(layers)), 3)
    tips = {}
    for i, (layer, each) in enumerate(layers.items()):
        words = f"{layer}: {each['before']} → {each['after']} channels"
        for j, key in enumerate(("before", "after")):
            [bar] = axes.bar(i, each[key], 0.8, color=SERIES[j])
            bar.set_gid(f"layer{i}-{j}")
            tips[f"layer{i}-{j}"] = words
    axes.set_xlim(-1, len(layers))
    axes.set_ylabel("channels", color=_INK)
    axes.set_xlabel("layers, as the model lists them", color=_INK)
    axes.set_xticks([])
    return _svg(figure, name, tips)


def curve(name, series, label, unit, metric="AP", joined=True):
    """AP over a cost.

    Args:
        name (str): of the chart.
        series (dict[str, list[tuple[str, float, float]]]): name → words, cost and AP of each point.
        label (str): what the cost is.
        unit (str): of the cost.
        metric (str): what is measured, such as ``"mask AP"``.
        joined (bool): draw a line through the points of a series; else write their words beside
            them.

    Returns:
        str: an ``<svg>`` element.
    """
    figure, axes = _figure(5, 3)
    tips = {}
    for i, points in enumerate(series.values()):
        points = sorted(points, key=lambda point: point[1])
        costs, scores = zip(*((cost, ap) for _, cost, ap in points))
        if joined:
            axes.plot(costs, scores, color=_color(i), linewidth=1.2)
        for j, (words, cost, ap) in enumerate(points):
            [mark] = axes.plot(cost, ap, "o", markersize=7, color=_color(i))
            mark.set_gid(f"point{i}-{j}")
            tips[f"point{i}-{j}"] = f"{words}: {cost:.4g}{unit}, AP {ap:.1f}"
            if not joined:
                # Neighbours have theirs above and below.
                place = (6, 5 if j % 2 else -13)
                axes.annotate(words, (cost, ap), place, textcoords="offset points", color=_INK)
    axes.set_xlabel(label, color=_INK)
    axes.set_ylabel(metric, color=_INK)
    axes.margins(x=0.25, y=0.2)
    axes.set_xlim(left=0)
    axes.grid(color=_FAINT, linewidth=0.5)
    return _svg(figure, name, tips)


def _color(number):
    return SERIES[number % len(SERIES)]


def _figure(width, height):
    # Not pyplot: it would choose a window system, and keep the figure.
    from matplotlib.figure import Figure

    figure = Figure((width, height), layout="constrained")
    axes = figure.subplots()
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(_FAINT)
    axes.tick_params(colors=_INK, labelsize=9, length=0)
    axes.patch.set_alpha(0)
    return figure, axes


def _svg(figure, name, tips):
    import matplotlib

    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    ET.register_namespace("", _SVG)
    root = ET.fromstring(buffer.getvalue())
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag in (f"{{{_SVG}}}metadata", f"{{{_SVG}}}style"):
                parent.remove(child)
    for element in root.iter():
        tip = tips.get(element.get("id"))
        if tip is not None:
            title = ET.Element(f"{{{_SVG}}}title")
            title.text = tip
            element.insert(0, title)
        # One page has several charts, and an id only once.
        if element.get("id"):
            element.set("id", f"{name}-{element.get('id')}")
        if element.get(_LINK):
            element.set("href", f"#{name}-{element.attrib.pop(_LINK)[1:]}")
        if element.get("clip-path"):
            element.set("clip-path", element.get("clip-path").replace("#", f"#{name}-"))
    for key in ("width", "height"):
        del root.attrib[key]
    root.set("class", "chart")
    text = ET.tostring(root, encoding="unicode")
    return re.sub("#0[1-7]0[1-7]0[1-7]", lambda found: _SHOWN[found[0]], text)
