"""Shell completion: artifact names, aliases and versions, and a bash script that keeps ``name:alias`` together.

Used by click while it completes, and by the command ``completion``. A completion that cannot be made is silently none.
"""

from __future__ import annotations

import contextlib
import os
import shlex
from typing import Any, ClassVar, Final

import click
from click.shell_completion import (
    CompletionItem,
    ShellComplete,
    add_completion_class,
    get_completion_class,
    shell_complete,
)

from artifactfs.cli.context import Context
from artifactfs.errors import ArtifactFSError

VARIABLE: Final = "_ARTIFACTFS_COMPLETE"

# bash splits words at ":", but a completion must see bike-dataset:latest whole; so the line itself is handed over, and what
# stands before the last ":" of the word is taken off the answers again, as readline replaces only what follows it.
_BASH: Final = """\
%(complete_func)s() {
    local line kind value word prefix=""
    word="${COMP_LINE:0:COMP_POINT}"
    word="${word##*[[:space:]]}"
    [[ "$COMP_WORDBREAKS" == *:* && "$word" == *:* ]] && prefix="${word%%:*}:"
    COMPREPLY=()
    while IFS=',' read -r kind value; do
        case "$kind" in
            dir) compopt -o dirnames ;;
            file) compopt -o default ;;
            plain) COMPREPLY+=("${value#"$prefix"}") ;;
        esac
        [[ "$value" == *: || "$value" == */ ]] && compopt -o nospace
    done < <(env ARTIFACTFS_LINE="${COMP_LINE:0:COMP_POINT}" %(complete_var)s=bash_complete %(prog_name)s 2>/dev/null)
    return 0
}
complete -o nosort -F %(complete_func)s %(prog_name)s
"""


class BashCompletion(ShellComplete):
    """bash 4.4 and newer."""

    name: ClassVar[str] = "bash"
    source_template: ClassVar[str] = _BASH

    def get_completion_args(self) -> tuple[list[str], str]:
        """Words before the cursor, and the one under it."""
        text = os.environ.get("ARTIFACTFS_LINE", "")
        try:
            words = shlex.split(text)
        except ValueError:  # an open quote
            words = text.split()
        incomplete = words.pop() if words and not text[-1:].isspace() else ""
        return words[1:], incomplete

    def format_completion(self, item: CompletionItem) -> str:
        """``kind,value``."""
        return f"{item.type},{item.value}"


def script(command: click.Command, shell: str) -> str:
    """What a shell must read to complete ``artifactfs``."""
    return _class_of(shell)(command, {}, "artifactfs", VARIABLE).source()


def complete(command: click.Command, instruction: str) -> int:
    """Answer a shell that asks, as its script does: ``bash_complete``; returns the exit status."""
    add_completion_class(BashCompletion)
    return shell_complete(command, {}, "artifactfs", VARIABLE, instruction)


def _class_of(shell: str) -> type[ShellComplete]:
    add_completion_class(BashCompletion)
    kind = get_completion_class(shell)
    assert kind is not None  # noqa: S101 - the command offers those that click has
    return kind


def complete_name(ctx: click.Context, incomplete: str) -> list[CompletionItem]:
    """Artifacts whose name begins so."""
    with contextlib.suppress(ArtifactFSError, OSError), _context(ctx).open() as repository:
        return [
            CompletionItem(artifact.name, help=artifact.type)
            for artifact in repository.registry.artifacts()
            if artifact.name.startswith(incomplete)
        ]
    return []


def complete_address(ctx: click.Context, incomplete: str) -> list[CompletionItem]:
    """Artifacts; after ``name:`` its aliases and versions, newest first."""
    name, mark, selector = incomplete.partition(":")
    if not mark:
        return complete_name(ctx, incomplete)
    with contextlib.suppress(ArtifactFSError, OSError), _context(ctx).open() as repository:
        aliases = sorted(repository.registry.aliases(name))
        numbers = [f"v{version.number}" for version in reversed(repository.registry.versions(name))]
        return [CompletionItem(f"{name}:{word}") for word in (*aliases, *numbers) if word.startswith(selector)]
    return []


def _context(ctx: click.Context) -> Context:
    """The options before the command; click parses them while completing but calls no command."""
    options = ctx.find_root().params
    names = ("repository", "project", "cache_dir", "cache_size", "timeout")
    given: dict[str, Any] = {name: options.get(name) for name in names}
    return Context(**given, direct=not options.get("no_direct"))
