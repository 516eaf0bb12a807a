"""What was found, as a table."""

from tabulate import tabulate

HEADERS = ("Python", "PyTorch", "detectron2", "AdelaiDet", "other packages", "patches that apply")
HEADERS += ("tests passed", "failed", "skipped", "minutes")


def row(found):
    """One line of the table.

    Args:
        found (dict): of one combination, see :func:`tests.compat.__main__.examine`.

    Returns:
        list[str]: a cell for each of :data:`HEADERS`.
    """
    versions = found.get("versions", {})
    python = versions.get("python", found["python"])
    torch = versions.get("torch", "").partition("+")[0]
    packages = "oldest" if found["packages"] == "oldest" else "newest"
    upstream = "0.7.2" if found["detectron2"] == "wheel" else found["detectron2"]
    cells = [python, torch, upstream, "main" if found["adelaidet"] else "", packages]
    if "unavailable" in found:
        return [*cells, found["unavailable"], "", "", "", ""]
    states = found["patches"]
    applied = sum(state == "applied" for state in states.values())
    tests = found["tests"]
    failed = len(found["failures"])
    numbers = (tests.get("passed", 0), failed, tests.get("skipped", 0))
    applies = f"{applied} of {len(states)}" if states else "none: it does not import"
    return [*cells, applies, *map(str, numbers), f"{found['seconds'] / 60:.1f}"]


def markdown(results):
    """All lines, as Markdown.

    Args:
        results (list[dict]): of :func:`tests.compat.__main__.examine`.

    Returns:
        str: the table; below it, what failed and what was left out.
    """
    lines = [tabulate(map(row, results), HEADERS, tablefmt="github", disable_numparse=True)]
    for found in results:
        for name, state in found.get("patches", {}).items():
            if state != "applied":
                lines.append(f"- {found['name']}: patch {name} {state}")
        lines += [f"- {found['name']}: {test} failed" for test in found.get("failures", ())]
        for test, why in found.get("left_out", {}).items():
            lines.append(f"- {found['name']}: {test} left out: {why}")
    return "\n".join([lines[0], "", *lines[1:], ""] if lines[1:] else [lines[0], ""])
