"""The house rules, as tests: what a style guide says and nobody checks is soon not true."""

from __future__ import annotations

import ast
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src" / "falaj"
FILE_LINES_MAX = 500
FUNCTION_LINES_MAX = 70
BANNED_NAMES = {"utils", "util", "common", "helpers", "helper", "misc", "manager", "managers"}
UNFINISHED = re.compile(r"\b(TODO|FIXME|XXX|HACK)\b|coming soon|NotImplementedError")
#: Modules whose behaviour is tested where it shows: the wire types and kind rows through what uses them.
MIRROR_EXEMPT = {"__init__.py", "__main__.py", "kinds.py", "interface.py", "wire.py"}


def tracked(pattern: str) -> list[Path]:
    """The files of the repository that match, tracked or about to be."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", pattern]
    names = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True, timeout=30).stdout.split("\n")
    return [ROOT / name for name in names if name and (ROOT / name).is_file()]


PYTHON = tracked("*.py")
MARKDOWN = tracked("*.md")


def short(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", PYTHON, ids=short)
def test_files_and_functions_are_short(path: Path) -> None:
    text = path.read_text()
    lines = text.count("\n")
    assert lines <= FILE_LINES_MAX, f"{short(path)} has {lines} lines: it wants a second room"
    long = [
        f"{node.name} ({node.end_lineno - node.lineno + 1})"
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.end_lineno is not None
        and node.end_lineno - node.lineno + 1 > FUNCTION_LINES_MAX
    ]
    assert not long, f"{short(path)}: too long: {', '.join(long)}"


@pytest.mark.parametrize("path", PYTHON, ids=short)
def test_names_say_what_they_are(path: Path) -> None:
    parts = {part.removesuffix(".py") for part in path.relative_to(ROOT).parts}
    assert not parts & BANNED_NAMES, f"{short(path)}: a name that says nothing"
    assert not re.search(r"_v\d+\.py$|^base_", path.name), f"{short(path)}: replace, do not fork"


@pytest.mark.parametrize("path", [path for path in PYTHON if path != Path(__file__)], ids=short)
def test_nothing_is_left_unfinished(path: Path) -> None:
    found = [line for line in path.read_text().splitlines() if UNFINISHED.search(line)]
    assert not found, f"{short(path)}: {found}"


@pytest.mark.parametrize("path", [p for p in PYTHON if SOURCE in p.parents], ids=short)
def test_every_module_has_its_test(path: Path) -> None:
    if path.name in MIRROR_EXEMPT:
        return
    place = ROOT / "tests" / path.relative_to(SOURCE).parent
    of_package = place.parent / f"test_{place.name}.py"
    mirrors = [place / f"test_{path.stem}.py", of_package]
    assert any(mirror.is_file() for mirror in mirrors), f"{short(path)} has no {short(mirrors[0])}"


@pytest.mark.parametrize("path", [p for p in PYTHON if SOURCE in p.parents], ids=short)
def test_the_root_of_every_broad_except_is_explained(path: Path) -> None:
    lines = path.read_text().splitlines()
    for node in ast.walk(ast.parse("\n".join(lines))):
        if isinstance(node, ast.ExceptHandler) and (
            node.type is None or (isinstance(node.type, ast.Name) and node.type.id in {"Exception", "BaseException"})
        ):
            assert "#" in lines[node.lineno - 1], (
                f"{short(path)}:{node.lineno}: catches everything and does not say why"
            )


def anchors(path: Path) -> set[str]:
    """The anchors of a Markdown file's headings, as forges derive them."""
    headings = re.findall(r"^#+\s+(.*)$", path.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", MARKDOWN, ids=short)
def test_links_in_documents_lead_somewhere(path: Path) -> None:
    prose = re.sub(r"```.*?```", "", path.read_text(), flags=re.DOTALL)
    for target in re.findall(r"\[[^\]]*\]\(([^)\s]+)\)", prose):
        if re.match(r"[a-z]+:", target):
            continue
        file, _, anchor = target.partition("#")
        there = (path.parent / file).resolve() if file else path
        assert there.exists(), f"{short(path)} links to {target}, which does not exist"
        if anchor and there.suffix == ".md":
            assert anchor in anchors(there), f"{short(path)} links to {target}; there is no such heading"


@pytest.mark.parametrize("path", tracked("src/*.py") + MARKDOWN, ids=short)
def test_documents_named_in_text_exist(path: Path) -> None:
    for name in re.findall(r"\bdocs/[\w./-]+\.md\b", path.read_text()):
        assert (ROOT / name).is_file(), f"{short(path)} speaks of {name}, which does not exist"


def test_the_readme_names_commands_that_exist() -> None:
    text = (ROOT / "README.md").read_text()
    makefile = (ROOT / "Makefile").read_text()
    for target in set(re.findall(r"\bmake ([a-z-]+)", text)):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), f"README.md speaks of `make {target}`"
    falaj = ROOT / ".venv" / "bin" / "falaj"
    for command in sorted(
        set(re.findall(r"\bfalaj ([a-z]+(?: (?:create|list|revoke|pull|put|get|ls))?)\b", text_of_code(text)))
    ):
        run = subprocess.run(
            [falaj, *command.split(), "--help"], capture_output=True, text=True, timeout=60, check=False
        )
        assert run.returncode == 0, f"README.md speaks of `falaj {command}`: {run.stderr}"


def text_of_code(markdown: str) -> str:
    """What stands in code blocks and code spans."""
    blocks = re.findall(r"```.*?```", markdown, flags=re.DOTALL)
    return "\n".join(blocks + re.findall(r"`([^`\n]+)`", markdown))


def test_no_package_index_is_named() -> None:
    hosts = re.compile(r"pypi\.(org|python)|pythonhosted|registry\.npmjs|--(extra-)?index-url[= ]\S+://", re.IGNORECASE)
    for path in tracked("*"):
        if path == Path(__file__) or path.suffix in {".pdf", ".png"}:
            continue
        found = [line for line in path.read_text(errors="replace").splitlines() if hosts.search(line)]
        assert not found, f"{short(path)} names a package index: {found[:3]}"


@pytest.mark.parametrize("name", ["requirements.lock", "requirements-dev.lock"])
def test_every_pinned_file_has_a_hash(name: str) -> None:
    text = (ROOT / name).read_text()
    for entry in re.split(r"\n(?=\S)", text):
        if re.match(r"[A-Za-z0-9]", entry):
            assert "==" in entry.split("\n")[0], f"{name}: not pinned: {entry[:60]}"
            assert "--hash=sha256:" in entry, f"{name}: no hash: {entry[:60]}"
