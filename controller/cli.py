"""The command ``pangu``: a table of verbs, each loaded when it is used. Never loads torch."""

import difflib
import importlib
import os
import sys
import traceback
from collections.abc import Sequence
from typing import Final

import click

from pangu_core import __version__
from pangu_core.errors import EXIT_UNEXPECTED, ConfigError, PanguError

# Verb -> where its click command is, and its line in the list. The one place to add a verb.
VERBS: Final[dict[str, tuple[str, str]]] = {
    "validate": ("controller.file_commands:validate", "Check a job file and say what it would do."),
    "render": ("controller.file_commands:render", "Print the manifests of a job file."),
    "run": ("controller.run_command:run", "Run a job file on this machine."),
    "submit": ("controller.cluster_commands:submit", "Hand a job file to a cluster."),
    "status": (
        "controller.status_command:status",
        "Show the jobs and services here, or one in full.",
    ),
    "logs": ("controller.logs_command:logs", "Print what the pods of a job or service print."),
    "suspend": ("controller.cluster_commands:suspend", "Let a job save and give its pods back."),
    "resume": ("controller.cluster_commands:resume", "Let a suspended job go on where it was."),
    "scale": (
        "controller.cluster_commands:scale",
        "Give a job other nodes, or a service other pods.",
    ),
    "cancel": ("controller.cluster_commands:cancel", "End a job for good; its results stay."),
    "rerun": ("controller.cluster_commands:rerun", "Run a job again from one of its stages."),
    "delete": ("controller.cluster_commands:delete", "Delete a job or service; its results stay."),
    "cp": ("controller.copy_command:cp", "Copy files into a workspace, or out of it."),
    "doctor": ("controller.doctor.command:doctor", "Look for what a cluster lacks for our jobs."),
    "controller": (
        "controller.controller_command:controller",
        "Watch PanguJobs and PanguServices, and do as they ask.",
    ),
    "preprocess": ("controller.data_plane:preprocess", "Turn text into token files."),
    "convert": ("controller.data_plane:convert", "Turn other programs' weights into ours."),
    "split": ("controller.data_plane:split", "Cut a checkpoint into tensor-parallel shards."),
    "merge": ("controller.data_plane:merge", "Make one whole checkpoint out of shards."),
    "export": ("controller.data_plane:export", "Turn our weights into other programs'."),
    "verify": ("controller.data_plane:verify", "Check every byte of a checkpoint."),
    "generate": ("controller.data_plane:generate", "Write Chinese, going on from a prompt."),
    "serve": ("controller.data_plane:serve", "Serve a model to OpenAI's clients."),
    "report": ("controller.data_plane:report", "Write a page about a run: losses, speed, text."),
    "legacy": ("controller.data_plane:legacy", "The original's commands, with their flags."),
}
DEBUG_VARIABLE: Final = "PANGU_DEBUG"
EXIT_INTERRUPTED: Final = 130


class VerbGroup(click.Group):
    """A group whose commands are imported when they are used, not when they are listed."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Every verb, in the table's order."""
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import one verb's command."""
        if cmd_name not in VERBS:
            return None
        module, _, attribute = VERBS[cmd_name][0].partition(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the verbs from the table alone."""
        with formatter.section("Commands"):
            formatter.write_dl([(verb, text) for verb, (_, text) in VERBS.items()])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find a verb, or refuse it with the nearest one."""
        if args[0] not in VERBS:
            close = difflib.get_close_matches(args[0], VERBS, n=1)
            raise ConfigError(
                "pangu",
                seen=args[0],
                rule="is no command",
                fix=f"did you mean {close[0]}?" if close else "see pangu --help",
            )
        return super().resolve_command(ctx, args)


@click.group(cls=VerbGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--debug", is_flag=True, help="Show tracebacks.")
@click.version_option(__version__, message="%(version)s")
def pangu(debug: bool) -> None:
    """Fine-tune and serve PanGu-alpha, on this machine and on Kubernetes."""
    if debug:
        os.environ[DEBUG_VARIABLE] = "1"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code. Every error ends here, as one line."""
    # pydantic would look through every installed package for plugins, which takes 25 ms.
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    try:
        result = pangu.main(arguments, prog_name="pangu", standalone_mode=False)
    except PanguError as error:
        return _complain(str(error), error.exit_code)
    except click.UsageError as error:
        # Loaded here, so that --help does not pay for it.
        from pangu_core.entry.process import as_config_error

        return _complain(str(as_config_error(error)), ConfigError.exit_code)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # The reader has seen enough; keep Python from complaining about it at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_UNEXPECTED
    except Exception as error:  # the border: a bug of ours, not the user's fault
        what = f"{type(error).__name__}: {error}: not expected; run pangu --debug to see where"
        return _complain(what, EXIT_UNEXPECTED)
    return result if isinstance(result, int) else 0


def _complain(what: str, exit_code: int) -> int:
    click.echo(f"error: {what}", err=True)
    if os.environ.get(DEBUG_VARIABLE):
        traceback.print_exc()
    return exit_code
