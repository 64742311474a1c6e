"""What the documents say is so: every name, file, command and link in them is looked up. Nothing is run."""

import ast
import re
import shlex
from pathlib import Path

import pytest
import typer

from ergosphere.cli.app import app

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "src/ergosphere"
ROOMS = "cli sim control engines agent snapshots shim wire system core".split()
WRITTEN_BY_HAND = [ROOT / "README.md", ROOT / "ARCHITECTURE.md", *sorted((ROOT / "docs").rglob("*.md"))]
DOCUMENTS = [*WRITTEN_BY_HAND, ROOT / "examples/README.md"]
ARCHITECTURE = (ROOT / "ARCHITECTURE.md").read_text()
DECISIONS = sorted((ROOT / "docs/decisions").glob("[0-9]*.md"))

documents = pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))


def spans(text: str) -> list[str]:
    """What stands in back quotes outside of blocks."""
    prose = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    return [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", prose)]


def shell_lines(text: str) -> list[str]:
    blocks = re.findall(r"^```sh\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
    return [line for block in blocks for line in block.splitlines() if line.strip()]


# ── names ────────────────────────────────────────────────────────────────────────────────────────────────────────


def dotted_names(text: str) -> set[str]:
    pattern = re.compile(rf"(?:ergosphere\.)?((?:{'|'.join(ROOMS)})(?:\.\w+)+)")
    found = (pattern.fullmatch(span) for span in spans(text))
    return {match[1] for match in found if match and not match[1].endswith(".py")}


def is_there(name: str) -> bool:
    """Whether a dotted name below `ergosphere` is a folder, a module, or something defined in one."""
    words = name.split(".")
    for length in range(len(words), 0, -1):
        place = SOURCE.joinpath(*words[:length])
        module = place.with_suffix(".py") if place.with_suffix(".py").is_file() else place / "__init__.py"
        if module.is_file():
            return defines(ast.parse(module.read_text()).body, words[length:])
    return False


def defines(body: list[ast.stmt], words: list[str]) -> bool:
    if not words:
        return True
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name == words[0]:
            return len(words) == 1
        if isinstance(node, ast.ClassDef) and node.name == words[0]:
            return defines(node.body, words[1:])
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        if any(isinstance(target, ast.Name) and target.id == words[0] for target in targets):
            return len(words) == 1
    return False


@documents
def test_every_function_that_a_document_names_exists(document: Path) -> None:
    assert [name for name in sorted(dotted_names(document.read_text())) if not is_there(name)] == []


def test_the_journeys_are_told_by_function_names() -> None:
    for title in ("run my job", "make room", "a node dies"):
        told = ARCHITECTURE.split(f"## Journey: {title}")[1].split("\n## ")[0]
        assert len(dotted_names(told)) >= 10, title


@documents
def test_every_source_file_that_a_document_names_exists(document: Path) -> None:
    named = [span for span in spans(document.read_text()) if re.fullmatch(r"[\w./-]+/[\w.-]+\.(py|sh|c|md)", span)]
    places = (ROOT, SOURCE, SOURCE / "agent", document.parent)
    assert [name for name in named if not any((place / name).exists() for place in places)] == []


# ── the floor plan ───────────────────────────────────────────────────────────────────────────────────────────────


def floor_plan() -> tuple[set[str], set[str]]:
    """Modules and folders of the plan, relative to src/ergosphere. A folder without modules stands for all in it."""
    block = re.search(r"^```\nsrc/ergosphere/\n(.*?)^```", ARCHITECTURE, flags=re.MULTILINE | re.DOTALL)
    assert block is not None
    modules: set[str] = set()
    folders: list[tuple[int, str]] = []
    every: set[str] = set()
    for line in block[1].splitlines():
        depth = len(line) - len(line.lstrip())
        words = line.split()
        if words[0].endswith("/"):
            folders = [(deep, name) for deep, name in folders if deep < depth]
            folders.append((depth, words.pop(0)))
            every.add("".join(name for _, name in folders))
        inside = "".join(name for deep, name in folders if deep < depth or f"{name}" in line)
        names = []
        for word in words:
            if not word.endswith(".py"):
                break
            names.append(word)
        modules |= {inside + name for name in names}
    return modules, every


def test_the_floor_plan_names_only_what_is_there() -> None:
    modules, folders = floor_plan()
    assert [name for name in sorted(modules) if not (SOURCE / name).is_file()] == []
    assert [name for name in sorted(folders) if not (SOURCE / name).is_dir()] == []


def test_every_module_has_its_place_on_the_floor_plan() -> None:
    modules, folders = floor_plan()
    whole = [folder for folder in folders if not any(name.startswith(folder) for name in modules)]
    real = {str(path.relative_to(SOURCE)) for path in SOURCE.rglob("*.py") if path.name != "__init__.py"}
    assert sorted(name for name in real - modules if not name.startswith(tuple(whole))) == []


def test_the_architecture_fits_on_a_few_pages() -> None:
    assert len(ARCHITECTURE.splitlines()) < 300


def test_what_stands_beside_the_package_is_there() -> None:
    beside = ARCHITECTURE.split("Beside it:")[1].split("\n\n")[0]
    assert [name for name in spans(beside) if not (ROOT / name).exists()] == []


# ── commands ─────────────────────────────────────────────────────────────────────────────────────────────────────


def ergo_commands(text: str) -> list[str]:
    lines = [line.split("  #")[0].strip() for line in shell_lines(text)]
    return [command for command in (*spans(text), *lines) if re.match(r"ergo( |$)", command)]


def parse(command: str) -> None:
    """Parse a command line as `ergo` would. A lone `…` stands for whatever comes there."""
    words = [word for word in shlex.split(command)[1:] if word != "…"]
    group = typer.main.get_command(app)
    if not words or words == ["--help"]:
        return
    context = group.make_context("ergo", list(words), resilient_parsing=True)
    name, found, rest = group.resolve_command(context, list(words))  # type: ignore[attr-defined]
    assert found is not None, f"{command}: no such command"
    if len(words) > 1:  # a bare `ergo pause` only names the command
        found.make_context(name, rest, parent=context)


@documents
def test_every_ergo_command_in_a_document_is_one(document: Path) -> None:
    wrong = []
    for command in ergo_commands(document.read_text()):
        try:
            parse(command)
        except Exception as error:
            wrong.append(f"{command}: {error}")
    assert wrong == []


def test_the_readme_can_be_tried_by_hand() -> None:
    tried = {command.split()[1] for command in ergo_commands("\n".join(["```sh", *readme_lines(), "```"]))}
    assert {"up", "ps", "pause", "resume", "migrate", "verify", "down"} <= tried


def readme_lines() -> list[str]:
    return shell_lines((ROOT / "README.md").read_text())


def test_every_make_target_in_the_readme_exists() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    used = {line.split()[1] for line in readme_lines() if line.startswith("make ")}
    assert used and used <= targets


def test_every_example_in_the_readme_exists() -> None:
    named = re.findall(r"examples/\w+\.\w+", (ROOT / "README.md").read_text())
    assert named and [name for name in named if not (ROOT / name).is_file()] == []


# ── links, and what must not be there ────────────────────────────────────────────────────────────────────────────


@documents
def test_every_link_leads_somewhere(document: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]+)\)", document.read_text())
    assert [link for link in links if not (document.parent / link).exists()] == []


@documents
def test_no_document_names_a_host_or_a_path_of_one_machine(document: Path) -> None:
    text = document.read_text()
    assert re.findall(r"\w+://(?!127\.0\.0\.1|localhost)\S+", text) == []
    own = (str(ROOT), str(Path.home()), "/home/")
    assert [path for path in own if re.search(rf"{re.escape(path)}\b", text)] == []


@pytest.mark.parametrize("page", DECISIONS, ids=lambda path: path.stem)
def test_a_decision_says_problem_choice_alternatives_and_what_would_change_our_mind(page: Path) -> None:
    text = page.read_text()
    for part in ("**Problem.**", "**Choice.**", "**Alternatives.**", "**What would change our mind.**"):
        assert text.count(part) == 1, part
    assert len(text.splitlines()) <= 50, "a page or less"


def test_the_lists_of_pages_are_complete() -> None:
    for folder in ("decisions", "operations"):
        pages = {path.name for path in (ROOT / "docs" / folder).glob("*.md")} - {"README.md"}
        linked = set(re.findall(r"\]\(([^)]+)\)", (ROOT / "docs" / folder / "README.md").read_text()))
        assert pages == linked, folder
