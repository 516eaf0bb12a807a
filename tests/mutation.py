"""A mutation check: small changes to the package, each of which the tests have to notice.

::

    make mutation                                  # a sample of the default files
    python tests/mutation.py --sample 40 --seed 1 blendprune/structure/entries.py
    python tests/mutation.py --sample 0 blendprune/pruning/search/search.py    # every mutant

A mutant is the package with one operator, constant, condition or returned value replaced. For each
one the tests of that module run, in a temporary copy of the tree, until the first failure. A mutant
that no test notices survives. Each such mutant is listed with its line and the change::

    blendprune/structure/entries.py            38 of 40 caught
    ...
    blendprune/structure/entries.py:214: not a -> a | if not isinstance(struct, dict) or ...

The tests of a module are those that mirror it: ``tests/pruning/search/test_rounds.py`` for
``blendprune/pruning/search/rounds.py``, or all of ``tests/pruning/search/`` for a module without a
file of its own. Tests of whole models, which notice more, do not run: a sample takes minutes.
"""

import argparse
import ast
import contextlib
import copy
import importlib
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DEFAULT = (
    "blendprune/pruning/search",
    "blendprune/structure/entries.py",
    "blendprune/pruning/graph",
    "blendprune/pruning/cost",
)
# Imported once; each mutant's process is forked from this one and so has them already.
SHARED = (
    "torch",
    "torch_pruning",
    "fvcore.nn",
    "detectron2.modeling",
    "detectron2.engine",
    "detectron2.checkpoint",
    "detectron2.data",
    "pytest",
)
# Seconds that a mutant may take beyond three times what the tests take without it.
SLACK = 20

COMPARISONS = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}
ARITHMETIC = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Mult,
    ast.Pow: ast.Mult,
    ast.BitOr: ast.BitAnd,
    ast.BitAnd: ast.BitOr,
}
FUNCTIONS = {"min": "max", "max": "min", "any": "all", "all": "any"}


@dataclass
class Mutant:
    """One change.

    Attributes:
        path (str): of the module, relative to the root.
        line (int): first line of what is changed.
        change (str): what becomes of what.
        source (str): the module's text with the change.
    """

    path: str
    line: int
    change: str
    source: str


def mutants_of(path, text):
    """All mutants of a module.

    Args:
        path (str): of the module, relative to the root.
        text (str): its source.

    Returns:
        list[Mutant]: in the order of the source.
    """
    tree = ast.parse(text)
    found = []
    for node in _code(tree):
        for replacement in _replacements(node):
            kept = dict(vars(node)), node.__class__
            before = _shown(node)
            line = node.lineno
            node.__class__ = replacement.__class__
            vars(node).update(vars(ast.copy_location(replacement, node)))
            change = f"{before} -> {_shown(node)}"
            found.append(Mutant(path, line, change, ast.unparse(tree)))
            node.__class__ = kept[1]
            vars(node).clear()
            vars(node).update(kept[0])
    return found


def _code(node):
    """Nodes that decide what a module does: no texts, annotations, imports or decorators."""
    skipped = (ast.JoinedStr, ast.Import, ast.ImportFrom, ast.arg)
    for name, value in ast.iter_fields(node):
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST) and not isinstance(child, skipped):
                if name not in ("decorator_list", "annotation", "returns"):
                    if hasattr(child, "lineno"):
                        yield child
                    yield from _code(child)


def _replacements(node):
    """Nodes that may stand in the place of one."""
    other = copy.copy(node)
    if isinstance(node, ast.Compare) and len(node.ops) == 1 and type(node.ops[0]) in COMPARISONS:
        other.ops = [COMPARISONS[type(node.ops[0])]()]
        yield other
    elif isinstance(node, ast.Compare):
        for index, operator in enumerate(node.ops):
            if type(operator) in COMPARISONS:
                one = copy.copy(node)
                one.ops = list(node.ops)
                one.ops[index] = COMPARISONS[type(operator)]()
                yield one
    elif isinstance(node, (ast.BinOp, ast.AugAssign)) and type(node.op) in ARITHMETIC:
        other.op = ARITHMETIC[type(node.op)]()
        yield other
    elif isinstance(node, ast.BoolOp):
        other.op = ast.And() if isinstance(node.op, ast.Or) else ast.Or()
        yield other
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.Not, ast.USub)):
        yield copy.copy(node.operand)
    elif isinstance(node, ast.Constant) and isinstance(node.value, (bool, int, float)):
        value = node.value
        other.value = not value if isinstance(value, bool) else value + 1
        yield other
    elif isinstance(node, ast.Return) and node.value is not None:
        if not (isinstance(node.value, ast.Constant) and node.value.value is None):
            other.value = ast.Constant(None)
            yield other
    elif isinstance(node, (ast.If, ast.While, ast.IfExp)):
        if isinstance(node.test, (ast.Name, ast.Attribute, ast.Call, ast.NamedExpr)):
            other.test = ast.UnaryOp(ast.Not(), node.test)
            yield other
    elif isinstance(node, ast.Call) and getattr(node.func, "id", None) in FUNCTIONS:
        other.func = ast.copy_location(ast.Name(FUNCTIONS[node.func.id], ast.Load()), node.func)
        yield other
    elif isinstance(node, (ast.Break, ast.Continue)):
        yield ast.Continue() if isinstance(node, ast.Break) else ast.Break()


def _shown(node):
    text = " ".join(ast.unparse(getattr(node, "test", node)).split())
    return text if len(text) <= 60 else text[:57] + "..."


def tests_of(path):
    """The tests that mirror a module.

    Args:
        path (str): of the module, relative to the root.

    Returns:
        list[str]: its own file of tests; without one, all files of its folder.
    """
    own = Path("tests") / Path(path).relative_to("blendprune").with_name(f"test_{Path(path).name}")
    if (ROOT / own).exists():
        return [str(own)]
    return sorted(str(p.relative_to(ROOT)) for p in (ROOT / own.parent).glob("test_*.py"))


def run_tests(tree, tests, limit):
    """Run tests in a process forked from this one, until the first failure.

    Args:
        tree (Path): the copy that they run in.
        tests (list[str]): files in it.
        limit (float): seconds after which the process is ended.

    Returns:
        bool: whether all passed in time.
    """
    child = os.fork()
    if child == 0:
        os.setsid()
        status = 1
        with contextlib.suppress(BaseException):
            status = _run_here(tree, tests)
        os._exit(status)
    end = time.monotonic() + limit
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return status == 0
        time.sleep(0.02)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return False


def _run_here(tree, tests):
    import pytest

    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 1)
    os.dup2(nothing, 2)
    os.chdir(tree)
    os.environ["PYTHONPATH"] = str(tree)
    for name in [n for n in sys.modules if n.partition(".")[0] in ("tests", "blendprune")]:
        del sys.modules[name]
    sys.path[:] = [str(tree), *(p for p in sys.path if Path(p or ".").resolve() != ROOT)]
    return int(pytest.main(["-x", "-q", "-p", "no:cacheprovider", *tests]))


@contextlib.contextmanager
def tree_copy():
    """A temporary copy of what the tests need of the tree."""
    with tempfile.TemporaryDirectory(prefix="mutation-") as folder:
        tree = Path(folder)
        for name in ("blendprune", "tests"):
            shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "setup.cfg", tree)
        yield tree


def main(argv=None):
    """Check a sample of mutants and print what came of it.

    Returns:
        int: 0 unless the tests fail without any mutant.
    """
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("paths", nargs="*", default=DEFAULT, help="modules or folders of them")
    parser.add_argument("--sample", type=int, default=120, help="number of mutants; 0 for all")
    parser.add_argument("--seed", type=int, default=0, help="of the sample")
    parser.add_argument("--tests", nargs="+", help="test files to run for every mutant instead")
    args = parser.parse_args(argv)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    # A mutant may be of the size and the second of the module before it.
    sys.dont_write_bytecode = True
    os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
    modules = [
        str(module.resolve().relative_to(ROOT))
        for path in args.paths
        for module in (
            [ROOT / path] if path.endswith(".py") else sorted((ROOT / path).glob("*.py"))
        )
    ]
    mutants = [m for path in modules for m in mutants_of(path, (ROOT / path).read_text())]
    total = len(mutants)
    if args.sample and args.sample < total:
        chosen = random.Random(args.seed).sample(range(total), args.sample)
        mutants = [mutants[index] for index in sorted(chosen)]
    for name in SHARED:
        importlib.import_module(name)
    print(f"{len(mutants)} of {total} mutants of {len(modules)} modules", flush=True)
    with tree_copy() as tree:
        survivors = _check(tree, mutants, args.tests)
    if survivors is None:
        return 1
    _print_table(mutants, survivors)
    return 0


def _check(tree, mutants, tests_given):
    limits, survivors = {}, []
    for number, mutant in enumerate(mutants, 1):
        tests = tests_given or tests_of(mutant.path)
        if tuple(tests) not in limits:
            start = time.monotonic()
            if not run_tests(tree, tests, 1800):
                print(f"{' '.join(tests)} fail without any mutant", file=sys.stderr)
                return None
            limits[tuple(tests)] = 3 * (time.monotonic() - start) + SLACK
        module = tree / mutant.path
        original = module.read_text()
        module.write_text(mutant.source)
        start = time.monotonic()
        survived = run_tests(tree, tests, limits[tuple(tests)])
        module.write_text(original)
        if survived:
            survivors.append(mutant)
        seconds = time.monotonic() - start
        result = "SURVIVED" if survived else "caught"
        where = f"{mutant.path}:{mutant.line}"
        print(f"{number:4} {result:8} {seconds:5.1f} s  {where}: {mutant.change}", flush=True)
    return survivors


def _print_table(mutants, survivors):
    print()
    for path in dict.fromkeys(mutant.path for mutant in mutants):
        count = sum(mutant.path == path for mutant in mutants)
        lost = sum(mutant.path == path for mutant in survivors)
        print(f"{path:55} {count - lost:4} of {count:4} caught")
    caught = len(mutants) - len(survivors)
    print(f"{'all':55} {caught:4} of {len(mutants):4} caught ({caught / max(1, len(mutants)):.0%})")
    print()
    for mutant in survivors:
        line = (ROOT / mutant.path).read_text().splitlines()[mutant.line - 1].strip()
        print(f"{mutant.path}:{mutant.line}: {mutant.change} | {line}")


if __name__ == "__main__":
    sys.exit(main())
