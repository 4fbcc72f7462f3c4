"""`completion`: the script with which a shell completes the commands of Jobdeck."""

from __future__ import annotations

import os
from typing import Final

import click
from click.shell_completion import BashComplete, ShellComplete, get_completion_class, split_arg_string

from jobdeck.core.cli import output
from jobdeck.core.cli.completing import COMPLETING
from jobdeck.core.cli.session import Session, Words, command

SHELLS: Final = ("bash", "zsh", "fish")


class Bash(BashComplete):
    """The line up to the cursor is split here, because bash splits the words of a filter at their colons."""

    source_template = """\
%(complete_func)s() {
    local IFS=$'\\n' line=${COMP_LINE:0:COMP_POINT} type value cut=
    local word=${line##* } quote=[\\"\\']*
    if [[ $COMP_WORDBREAKS == *:* && $word == *:* && $word != $quote && ${COMP_WORDS[COMP_CWORD]} != $quote ]]; then
        cut=${word%%"${word##*:}"}
    fi
    COMPREPLY=()
    for completion in $(env COMP_WORDS="$line" %(complete_var)s=bash_complete "$1"); do
        IFS=',' read -r type value <<< "$completion"
        case $type in
            dir) compopt -o dirnames ;;
            file) compopt -o default ;;
            *) COMPREPLY+=("${value#"$cut"}"); [[ $value == *[:\\>=] ]] && compopt -o nospace ;;
        esac
    done
}
complete -o nosort -F %(complete_func)s %(prog_name)s
"""

    def source(self) -> str:
        """The script. Unlike that of click it starts no other program to find the version of bash."""
        return self.source_template % self.source_vars()

    def get_completion_args(self) -> tuple[list[str], str]:
        line = os.environ["COMP_WORDS"]
        words = split_arg_string(line)[1:]
        return (words, "") if not words or (line[-1].isspace() and not _is_quoted(line)) else (words[:-1], words[-1])


@command("completion")
@click.argument("shell", type=Words(SHELLS))
def completion(session: Session, shell: str) -> None:
    """Print the completion script for bash, zsh or fish.

    For bash, put this into ~/.bashrc: eval "$(jobdeck completion bash)". For zsh the same with zsh, in ~/.zshrc. For
    fish: jobdeck completion fish > ~/.config/fish/completions/jobdeck.fish
    """
    script = _completer(click.get_current_context().find_root().command, shell).source()
    session.answer({"shell": shell, "script": script}, map(output.Verbatim, script.rstrip("\n").split("\n")))


def complete(program: click.Command, instruction: str) -> int:
    """Answers a shell's script: prints the completions of the command line in the environment."""
    shell, _, what = instruction.partition("_")
    if shell not in SHELLS or what != "complete":
        return 1
    output.write(map(output.Verbatim, _completer(program, shell).complete().split("\n")))
    return 0


def _completer(program: click.Command, shell: str) -> ShellComplete:
    kind = Bash if shell == "bash" else get_completion_class(shell)
    assert kind is not None  # noqa: S101 -- click has one for every word of SHELLS
    return kind(program, {}, "jobdeck", COMPLETING)


def _is_quoted(line: str) -> bool:
    """Whether the end of the line is inside quotes."""
    open_quote = ""
    for letter in line:
        if letter == open_quote:
            open_quote = ""
        elif not open_quote and letter in "\"'":
            open_quote = letter
    return bool(open_quote)
