"""The house of the design, read from the imports: who may use whom, and what no module may do."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import artifactfs

PACKAGE = Path(artifactfs.__file__).parent

# Floors from the ground up. A package's modules share its floor; a module above its own package is named in full.
FLOORS = {
    "artifactfs": 0,
    "artifactfs.errors": 0,
    "artifactfs.buckets": 1,
    "artifactfs.credentials": 1,
    "artifactfs.forks": 1,
    "artifactfs.sealing": 1,
    "artifactfs.model": 1,
    "artifactfs.content": 2,
    "artifactfs.plan": 2,
    "artifactfs.keys": 2,
    "artifactfs.registry": 2,
    "artifactfs.ancestry": 2,
    "artifactfs.health": 3,
    "artifactfs.directory": 3,
    "artifactfs.placing": 3,
    "artifactfs.marking": 3,
    "artifactfs.references": 3,
    "artifactfs.remote": 3,
    "artifactfs.building": 4,
    "artifactfs.config": 4,
    "artifactfs.pruning": 4,
    "artifactfs.reachability": 4,
    "artifactfs.collector": 4,
    "artifactfs.repository": 4,
    "artifactfs.sending": 4,
    "artifactfs.checkup": 5,
    "artifactfs.mount": 5,
    "artifactfs.server": 5,
    "artifactfs.collect": 5,
    "artifactfs.draft": 5,
    "artifactfs.export": 5,
    "artifactfs.restoring": 5,
    "artifactfs.run": 5,
    "artifactfs.supervision": 5,
    "artifactfs.transfer": 5,
    "artifactfs.upkeep": 5,
    "artifactfs.filesystem": 6,
    "artifactfs.python": 6,
    "artifactfs.cli": 6,
    "artifactfs.__main__": 7,
}

# What neighbours on one floor may see of each other: contracts, and one check of the ground a directory stands on.
SHARED = {
    "artifactfs.content.store",
    "artifactfs.references.contract",
    "artifactfs.registry.contract",
    "artifactfs.registry.netfs",
    "artifactfs.remote.transport",  # one bounded HTTP request, for what is no server of ours as well
}

# What binds to the world outside is known to one file each: a FUSE binding, the HTTP client, the cache's container.
BINDING_LIBRARIES = {
    "mfusepy": {"artifactfs.mount.fusepy"},
    "requests": {"artifactfs.remote.transport"},
    "urllib3": {"artifactfs.remote.transport"},
    "diskcache": {"artifactfs.content.vault"},
    "matplotlib": {"artifactfs.cli.plotting"},
    "obstore": {"artifactfs.buckets.bucket"},
    "fsspec": {"artifactfs.filesystem.adapter"},
    "psycopg": {"artifactfs.registry.postgresql"},
    "alembic": {
        "artifactfs.registry.migrations",
        "artifactfs.registry.migrations.env",
        "artifactfs.registry.migrations.versions.format_2",
        "artifactfs.registry.migrations.versions.format_3",
    },
    "cryptography": {"artifactfs.sealing", "artifactfs.server.certificates"},
}

# mfusepy is told by a variable, at its import, which libfuse to load; obstore gets what the tools of object stores find there
# and it does not. No setting of ours is read from there.
TELLS_A_LIBRARY = {"artifactfs.mount.fusepy", "artifactfs.buckets.credentials"}

VAGUE = {"util", "utils", "helper", "helpers", "common", "base", "manager", "misc", "handler", "handlers"}
LONGEST_MODULE = 800  # lines

PUBLIC = [
    "Access",
    "Api",
    "Artifact",
    "ArtifactFSError",
    "ArtifactFinalizedError",
    "ArtifactNotLoggedError",
    "Conflict",
    "Format",
    "Integrity",
    "InvalidInput",
    "NoSpace",
    "NotFound",
    "ReadOnly",
    "Run",
    "Unavailable",
    "WaitTimeoutError",
    "__version__",
    "finish",
    "init",
    "prefetch",
]


def modules() -> dict[str, Path]:
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        if parts[-1] == "__init__":
            parts = parts[:-1]
        found[".".join(("artifactfs", *parts))] = path
    return found


MODULES = modules()


def tree_of(module: str) -> ast.Module:
    return ast.parse(MODULES[module].read_text("utf-8"))


def place_of(module: str) -> str:
    """The row of FLOORS that a module belongs to: itself, or the package that it lies in."""
    while module not in FLOORS:
        module = module.rpartition(".")[0]
        if not module:
            raise AssertionError("a module without a floor")
    return module


def imports_of(module: str) -> Iterator[str]:
    """Full names of everything that a module imports, also inside functions and for typing."""
    for node in ast.walk(tree_of(module)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} imports relatively, line {node.lineno}"
            assert node.module is not None
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                yield full if full in MODULES else node.module


def calls_of(module: str) -> Iterator[tuple[str, ast.Call]]:
    """Calls by dotted name, as written: ``os.system(…)``, ``print(…)``."""
    for node in ast.walk(tree_of(module)):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


@pytest.mark.parametrize("module", [name for name in MODULES if name != "artifactfs"])
def test_a_module_imports_from_lower_floors_only(module: str):
    place = place_of(module)
    assert place != "artifactfs", f"{module} has no floor: give it a row in FLOORS and in the design"
    for imported in imports_of(module):
        if imported.partition(".")[0] != "artifactfs":
            continue
        below = place_of(imported)
        if below == place or imported in SHARED:
            continue
        if imported == "artifactfs":
            # Only for __version__; anything else of the public surface lies on a higher floor.
            continue
        assert FLOORS[below] < FLOORS[place], (
            f"{module} (floor {FLOORS[place]}) imports {imported} (floor {FLOORS[below]})"
        )


@pytest.mark.parametrize("module", MODULES)
def test_the_package_itself_is_imported_for_its_version_only(module: str):
    for node in ast.walk(tree_of(module)):
        if isinstance(node, ast.ImportFrom) and node.module == "artifactfs":
            for alias in node.names:
                assert alias.name == "__version__" or f"artifactfs.{alias.name}" in MODULES, (
                    f"{module}, line {node.lineno}"
                )


def test_packages_have_no_circular_imports():
    """Within a package too, imports run one way at import time."""
    graph = {}
    for module in MODULES:
        targets = set()
        for node in tree_of(module).body:
            if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("artifactfs"):
                for alias in node.names:
                    full = f"{node.module}.{alias.name}"
                    targets.add(full if full in MODULES else node.module)
        graph[module] = targets - {module, "artifactfs"}
    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, " -> ".join((*path[path.index(module) :], module))
        if module not in done:
            for target in sorted(graph[module]):
                visit(target, (*path, module))
            done.add(module)

    for module in graph:
        visit(module, ())


@pytest.mark.parametrize("module", MODULES)
def test_a_binding_library_is_known_to_one_file(module: str):
    for imported in imports_of(module):
        owners = BINDING_LIBRARIES.get(imported.partition(".")[0])
        assert owners is None or module in owners, f"{module} imports {imported}"


@pytest.mark.parametrize(
    "module", [name for name in MODULES if place_of(name) not in {"artifactfs.cli", "artifactfs.config"}]
)
def test_only_the_command_line_prints_and_knows_environment_and_home(module: str):
    places = {"os.environ", "os.environb", "sys.stdout", "sys.argv"}
    forbidden = {
        "print",
        "input",
        "os.getenv",
        "os.path.expanduser",
        "Path.home",
        "pathlib.Path.home",
        "sys.exit",
        "exit",
    }
    for name, node in calls_of(module):
        assert name not in forbidden, f"{module}, line {node.lineno}: {name}"
        assert not name.endswith(".expanduser"), f"{module}, line {node.lineno}: {name}"
    for node in ast.walk(tree_of(module)):
        if isinstance(node, ast.Attribute):
            written = ast.unparse(node)
            allowed = written == "os.environ" and module in TELLS_A_LIBRARY
            assert allowed or written not in places, f"{module}, line {node.lineno}: {written}"


@pytest.mark.parametrize("module", MODULES)
def test_nothing_runs_text_as_code_or_as_a_shell(module: str):
    for imported in imports_of(module):
        assert imported.partition(".")[0] not in {"pickle", "cPickle", "dill", "marshal", "shelve"}, (
            f"{module}: {imported}"
        )
    for name, node in calls_of(module):
        assert name not in {"eval", "exec", "os.system", "os.popen", "compile"}, f"{module}, line {node.lineno}: {name}"
        for keyword in node.keywords:
            shell = keyword.arg == "shell" and not (
                isinstance(keyword.value, ast.Constant) and keyword.value.value is False
            )
            assert not shell, f"{module}, line {node.lineno}: shell="


@pytest.mark.parametrize("module", MODULES)
def test_a_module_owns_one_thing_and_says_which(module: str):
    path = MODULES[module]
    assert path.stem not in VAGUE, f"{path.name} names nothing"
    assert len(path.read_text("utf-8").splitlines()) <= LONGEST_MODULE, f"{path.name} owns too much"
    assert ast.get_docstring(tree_of(module)), f"{module} has no docstring"


def test_the_public_surface_is_exactly_this():
    assert sorted(artifactfs.__all__) == PUBLIC
    for name in PUBLIC:
        assert hasattr(artifactfs, name)
