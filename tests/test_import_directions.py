"""The floors of the house: imports go down only, never in a circle, and what is heavy or optional stays where it belongs."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "dougong"

FLOORS = (  # from the ground up; what stands on one floor may import its own folder, and everything below
    ("core",),
    ("data", "layers"),
    ("metrics",),
    ("fields", "backbones"),
    ("model",),
    ("parallel",),
    ("training", "inference"),
    ("recipe",),
    ("assembly",),
    ("run_folder",),
    ("run",),
    ("evaluation", "proposal", "retrieval", "explanation", "planning", "exporting", "compression", "finetuning"),
    ("serving", "federated", "search"),
    ("lifecycle",),
    ("cli",),
)
FLOOR = {name: number for number, names in enumerate(FLOORS) for name in names}
EXTRAS = ("PIL", "av", "ftfy", "py3langid", "sentencepiece", "faster_coco_eval")  # each is imported by one file only
LIGHT_DATA = sorted(path.stem for path in (PACKAGE / "data").glob("*.py") if path.stem not in ("loader", "__init__"))


@cache
def modules() -> dict[str, ast.Module]:
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = ast.parse(path.read_text(encoding="utf-8"))
    return found


def imported(tree: ast.Module) -> list[str]:
    """What is imported anywhere in a module, in functions too; not what is only for type checkers."""
    skipped = {
        id(node)
        for condition in ast.walk(tree)
        if isinstance(condition, ast.If) and ast.unparse(condition.test) == "TYPE_CHECKING"
        for statement in condition.body
        for node in ast.walk(statement)
    }
    names: list[str] = []
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "imports are written in full, from dougong.…"
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return names


def module_of(name: str) -> str | None:
    """The module of dougong that an imported name is, or stands in."""
    while name and name not in modules():
        name = name.rpartition(".")[0]
    return name or None


@cache
def arrows() -> list[tuple[str, str]]:
    return sorted(
        {
            (source, target)
            for source, tree in modules().items()
            for name in imported(tree)
            if (target := module_of(name)) and target != source
        }
    )


def part(module: str) -> str:
    """dougong.data.loader -> data; the package itself is named by its own name."""
    return (module.split(".") + ["dougong"])[1] if "." in module else "dougong"


def test_every_part_stands_on_a_floor() -> None:
    unknown = {part(module) for module in modules()} - set(FLOOR) - {"dougong"}
    assert not unknown, f"say in FLOORS of this test (and in design.md section 3) where these stand: {sorted(unknown)}"


def test_imports_go_down_only() -> None:
    wrong = []
    for source, target in arrows():
        here, there = part(source), part(target)
        if here == there or (here, there) in (("dougong", "lifecycle"), ("cli", "dougong")):  # the verbs, when used
            continue
        if "dougong" in (here, there) or FLOOR[there] >= FLOOR[here]:
            wrong.append(f"{source} imports {target}")
    assert not wrong, "these arrows go up or sideways:\n" + "\n".join(wrong)


def test_no_module_imports_itself_through_others() -> None:
    targets: dict[str, set[str]] = {}
    for source, target in arrows():
        if "dougong" not in (source, target):
            targets.setdefault(source, set()).add(target)
    done: set[str] = set()

    def visit(module: str, path: list[str]) -> None:
        assert module not in path, "a circle: " + " -> ".join([*path[path.index(module) :], module])
        if module not in done:
            for target in sorted(targets.get(module, ())):
                visit(target, [*path, module])
            done.add(module)

    for module in modules():
        visit(module, [])


def test_a_registry_is_the_only_way_to_load_by_name() -> None:
    """An import that is computed has no arrow: only the registry, and what restores a field in a process, has one."""
    computed = [
        module
        for module, tree in modules().items()
        if any(name in ("importlib.import_module", "importlib") for name in imported(tree))
    ]
    assert set(computed) <= {"dougong.core.registry", "dougong.data.rows", "dougong.core.doctoring"}


@pytest.mark.parametrize("extra", EXTRAS)
def test_every_extra_package_is_imported_in_one_file_only(extra: str) -> None:
    users = [
        module for module, tree in modules().items() if any(name.split(".")[0] == extra for name in imported(tree))
    ]
    assert len(users) == 1, f"{extra} is imported in {users}"


PICKLERS = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}
READS_ANYTHING = {"torch.load", "torch.jit.load", "np.load", "numpy.load", "pd.read_pickle", "os.system", "os.popen"}
READS_ANYTHING |= {"yaml.load", "yaml.load_all", "yaml.full_load", "yaml.unsafe_load"}
EXECUTES = {"eval", "exec", "compile", "__import__"}
BETWEEN_RANKS = {
    "broadcast_object_list",
    "all_gather_object",
    "gather_object",
    "scatter_object_list",
}  # they pickle, from one rank of a job to the next


def dangers(tree: ast.Module) -> list[str]:
    """What could run code out of text or bytes, wherever these come from."""
    found = [name for name in imported(tree) if name.split(".")[0] in PICKLERS]
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        if name in READS_ANYTHING | EXECUTES or name.split(".")[-1] in BETWEEN_RANKS:
            found.append(name)
        given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
        found += [
            f"{name}({key}={given[key]})" for key in ("shell", "allow_pickle") if given.get(key, "False") != "False"
        ]
    return found


def test_a1_d12_nothing_in_the_package_unpickles_or_runs_text() -> None:
    found = {(module, danger) for module, tree in modules().items() for danger in dangers(tree)}
    # Errors and states pass between the ranks of one job, which run the same code on the same trust; never from a file.
    allowed = {("dougong.training.ranks", f"dist.{name}") for name in BETWEEN_RANKS}
    assert found <= allowed, found - allowed


@pytest.mark.parametrize(
    "line",
    [
        "import pickle", "from joblib import load", "torch.load(path)", "yaml.load(text)", "np.load(path)", "eval(text)",
        "exec(text)", "subprocess.run(text, shell=True)", "np.save(path, x, allow_pickle=True)", "__import__(name)",
    ],
)  # fmt: skip
def test_a1_d12_the_search_for_what_unpickles_finds_each_way(line: str) -> None:
    assert len(dangers(ast.parse(line))) == 1
    assert not dangers(ast.parse("model.eval(); re.compile(x); yaml.dump(x); read(path, shell=False)"))


def heavy_after(*names: str) -> list[str]:
    """Which heavy packages stand in sys.modules of a fresh process after these imports."""
    code = f"import json, sys, {', '.join(names)}\nprint(json.dumps([n for n in {HEAVY!r} if n in sys.modules]))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    found: list[str] = json.loads(done.stdout)
    return found


HEAVY = ["torch", "transformers", "sklearn", "matplotlib", *EXTRAS]


def test_importing_the_package_and_the_command_line_imports_nothing_heavy() -> None:
    assert heavy_after("dougong", "dougong.cli") == []


def test_data_does_not_import_torch_but_for_the_loader() -> None:
    assert heavy_after(*(f"dougong.data.{name}" for name in LIGHT_DATA)) == []
