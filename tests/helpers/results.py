"""Results of long runs, kept in a file after each."""

import gc
import json
import pathlib
import time


def run_and_keep(names, run, path, again=False):
    """Run what has no result yet, and print each result.

    Args:
        names (Sequence[str]): what to run.
        run (Callable): of a name; returns a dict with ``"result"``.
        path (str): JSON file with the results so far; rewritten after each run.
        again (bool): run also what is in the file.

    Returns:
        dict[str, dict]: everything in the file; ``"wall_s"`` is seconds.
    """
    file = pathlib.Path(path)
    results = json.loads(file.read_text()) if file.exists() else {}
    for name in names:
        if name in results and not again:
            continue
        start = time.perf_counter()
        found = run(name)
        results[name] = {**found, "wall_s": time.perf_counter() - start}
        file.write_text(json.dumps(results, indent=1))
        print(name, found["result"], f"{results[name]['wall_s']:.0f} s", flush=True)
        gc.collect()
    return results
