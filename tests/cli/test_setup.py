"""The frame around the commands: help, completion, doctor, configuration, exit statuses, and how failures look."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from importlib.resources import files

import pytest

from artifactfs.cli.fstab import translate
from artifactfs.cli.main import COMMANDS, OTHER_COMMANDS
from artifactfs.cli.setup import TASKS
from artifactfs.errors import InvalidInput

NAMES = [name for _, _, names in COMMANDS for name in names]
HEAVY = ("sqlalchemy", "rich", "pyfastcdc", "zstandard", "mfusepy", "sqlite3", "ctypes")


def test_help_lists_every_command_and_topic(cli):
    text = cli("--help").stdout
    for name in NAMES:
        assert f"\n  {name} " in text
    assert cli("help").stdout.startswith(text.rstrip("\n"))
    assert cli("-h").stdout == text
    assert cli("--version").stdout.startswith("artifactfs 0.")


@pytest.mark.parametrize("name", NAMES)
def test_every_command_explains_itself_with_an_example(cli, name):
    text = cli(name, "--help").stdout
    assert text.startswith(f"Usage: artifactfs {name} ")
    assert f"\n    artifactfs {name}" in text or f"artifactfs {name} " in text.partition("Example:")[2]
    said = cli("help", name)
    if said.stdout.startswith("# "):  # a document has the name, too
        assert said.stderr == f"options of the command: artifactfs {name} --help\n"
    else:
        assert said.stdout == text


def test_help_imports_nothing_heavy(cli):
    code = (
        "import sys; sys.argv = ['artifactfs', '--help']\n"
        "from artifactfs.cli.main import main\n"
        "try: main()\n"
        f"except SystemExit: print('HEAVY', [name for name in {HEAVY!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], env=cli.env, capture_output=True, text=True, check=True)
    assert done.stdout.endswith("HEAVY []\n")


def test_a_command_imports_no_other_database_and_looks_for_garbage_again(cli, tmp_path):
    code = (
        f"import gc, sys; sys.argv = ['artifactfs', '--repository', {str(tmp_path / 'new')!r}, 'init']\n"
        "from artifactfs.cli.main import main\n"
        "try: main()\n"
        "except SystemExit as end: code = end.code\n"
        "names = [name for name in sys.modules if name.startswith('sqlalchemy.dialects.postgresql')]\n"
        "print('STARTED', code, names, gc.isenabled(), gc.get_freeze_count() > 10_000)"
    )
    done = subprocess.run([sys.executable, "-c", code], env=cli.env, capture_output=True, text=True, check=True)
    assert done.stdout.endswith("STARTED 0 [] True True\n")


def test_help_shows_documents_as_they_are_when_piped(cli):
    documents = sorted(item.name.removesuffix(".md") for item in (files("artifactfs") / "docs").iterdir())
    listed = cli("help").stdout
    for topic in documents:
        assert f"\n  {topic} " in listed
        text = (files("artifactfs") / "docs" / f"{topic}.md").read_text("utf-8")
        assert cli("help", topic).stdout == text.rstrip("\n") + "\n"
    assert "no topic or command 'nope'" in cli.refuses("help", "nope")
    tasks = listed.partition("\nTasks (artifactfs help TASK):\n")[2].partition("\n\n")[0]
    assert [line.split()[0] for line in tasks.splitlines()] == list(TASKS)
    assert set(TASKS) <= set(documents)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nope"], "No such command 'nope'; see artifactfs --help"),
        (["comit"], "No such command 'comit'. Did you mean 'commit'? see artifactfs --help"),
        (["umount", "x"], "No such command 'umount'. Did you mean 'unmount'? see artifactfs --help"),
        (["push", "x"], "No such command 'push'. Did you mean 'put' or 'copy'? see artifactfs --help"),
        (["commit", "-m", "x"], "No such option '-m'. Did you mean '--description'? see artifactfs commit --help"),
        (
            ["put", "--message=x", "a"],
            "No such option '--message'. Did you mean '--description'? see artifactfs put --help",
        ),
        (["ls", "-m"], "No such option '-m'; see artifactfs ls --help"),
        (["ls", "a", "b"], "see artifactfs ls --help"),
        (["alias", "add", "x"], "Missing argument 'ALIAS...'; see artifactfs alias add --help"),
        (["put", "--typ", "x"], "Did you mean '--type'? see artifactfs put --help"),
        (["--project", "a/b", "ls"], "not a project name: 'a/b'; allowed are letters"),
        (["--project", "a/b", "ls"], "'a-b' would do"),
        (["ls", "a:b:c"], "not a"),
        (["log", "a/b"], "not an artifact name"),
        (["completion", "tcsh"], "'tcsh' is not one of"),
        (["verify", "a:v0/path"], "names a path"),
        (["stage", "a:v0", "--empty"], "must not name a version"),
        (["commit", "--metadata", "x"], "KEY=VALUE"),
        (["run", "--job-type", "t", "--config", "x", "true"], "KEY=VALUE, for example --config rate=0.01"),
        (["mount", "--pin", "x=3"], "NAME=vN"),
        (["--cache-size", "5x", "ls"], "not a size: '5x'; give bytes or a unit"),
        (["--timeout", "never", "mount"], "not a timeout: 'never'; give seconds"),
        (["--repository", "http://h:x", "ls"], "not a URL"),
    ],
)
def test_wrong_usage_is_one_line_and_status_2(cli, words, said):
    message = cli.refuses(*words, status=2)
    assert said in message
    assert "\n" not in message


def test_what_other_tools_call_a_command_names_one_that_is_there():
    assert set(OTHER_COMMANDS).isdisjoint(NAMES)
    assert {name for meant in OTHER_COMMANDS.values() for name in meant} <= set(NAMES)


def test_no_command_shows_help_as_wrong_usage(cli):
    finished = cli.run()
    assert finished.status == 2
    assert finished.stdout == ""
    assert finished.stderr == cli("--help").stdout
    assert "Missing command" in cli.refuses("alias", status=2)


# -- configuration -----------------------------------------------------------------------------------------------------


def test_command_line_environment_and_file_in_this_order(cli):
    for name in ("option", "environment", "file"):
        cli("init", cli.home / name)
    config = cli.home / ".config" / "artifactfs" / "config.toml"
    config.parent.mkdir(parents=True)
    config.write_text('repository = "~/file"\nproject = "bikes"\n')
    (cli.home / "data").write_text("x")

    def used(*words, **env):
        cli(*words, "put", "x", "data", env=env)
        return json.loads(cli(*words, "show", "x", "--json", env=env).stdout)

    assert used()["repository"] == str(cli.home / "file")
    assert used()["project"] == "bikes"
    environment = {"ARTIFACTFS_REPOSITORY": str(cli.home / "environment"), "ARTIFACTFS_PROJECT": "cars"}
    assert used(**environment)["repository"] == str(cli.home / "environment")
    assert used(**environment)["project"] == "cars"
    options = ["--repository", cli.home / "option", "--project", "boats"]
    assert used(*options, **environment)["repository"] == str(cli.home / "option")
    assert used(*options, **environment)["project"] == "boats"
    assert used(ARTIFACTFS_REPOSITORY="")["repository"] == str(cli.home / "file")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("repository = ", "not valid TOML"),
        ('reposotory = "x"', "unknown key 'reposotory'"),
        ("project = 3", "must be text in quotes"),
        ('cache_size = "5x"', "not a size"),
        ('project = "a b"', "'a-b' would do"),
        (b"project = '\xff'", "not valid TOML"),
    ],
)
def test_a_broken_configuration_is_named(cli, text, said):
    config = cli.home / ".config" / "artifactfs" / "config.toml"
    config.parent.mkdir(parents=True)
    config.write_bytes(text if isinstance(text, bytes) else text.encode())
    assert said in cli.refuses("ls", status=2)
    assert cli("--help").stdout
    finished = cli.run("doctor")
    assert finished.status == 1
    assert "fail  configuration" in finished.stdout


def test_xdg_directories_are_respected(cli):
    (cli.home / "data").write_text("x")
    env = {"XDG_DATA_HOME": str(cli.home / "d"), "XDG_STATE_HOME": "relative/ignored"}
    cli("put", "x", "data", env=env)
    assert (cli.home / "d" / "artifactfs" / "repository" / "repository.json").exists()
    # Not by its exit status: tests beside this one have dead mounts.
    assert f"{cli.home}/.local/state" in cli.run("doctor", env=env).stdout


# -- failures ----------------------------------------------------------------------------------------------------------


def test_an_unforeseen_failure_is_a_line_and_a_log(cli):
    (cli.home / "data").write_text("x")
    program = (
        "import artifactfs.repository\n"
        "from artifactfs.cli.main import main\n"
        "def broken(*_, **__): raise RuntimeError('surprise')\n"
        "artifactfs.repository.Repository.open = broken\n"
        "main()\n"
    )
    cli.program = (sys.executable, "-c", program)
    log = cli.home / ".local/state/artifactfs/error.log"
    assert cli.refuses("ls") == f"unexpected failure: RuntimeError: surprise; details in {log}"
    assert "Traceback" in log.read_text()
    with cli.start("ls", env={"ARTIFACTFS_DEBUG": "1"}) as process:
        assert "Traceback" in process.communicate()[1]
    assert process.returncode == 1


def test_an_interrupted_command_ends_quietly(cli):
    os.mkfifo(cli.home / "config")
    (cli.home / ".config/artifactfs").mkdir(parents=True)
    (cli.home / ".config/artifactfs/config.toml").symlink_to(cli.home / "config")
    # Once it could be opened for writing, the command waits for what it reads.
    with cli.start("ls") as process, open(cli.home / "config", "wb"):
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate(timeout=30)
    assert (process.returncode, stdout, stderr) == (130, "", "")


def test_a_command_interrupted_while_it_is_loaded_ends_quietly(cli, tmp_path):
    (tmp_path / "click.py").write_text("raise KeyboardInterrupt")
    ended = cli.run("ls", env={"PYTHONPATH": f"{tmp_path}:{cli.env['PYTHONPATH']}"})
    assert (ended.status, ended.stdout, ended.stderr) == (130, "", "")


def test_a_reader_that_goes_away_is_no_error(cli):
    for number in range(3000):
        (cli.home / "many" / f"{number:0100}").mkdir(parents=True)
    cli("put", "many", "many")
    with cli.start("ls", "many:v0") as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr is not None
        assert process.stderr.read() == ""
    assert process.returncode == 141


def test_output_in_a_poor_encoding_is_escaped(cli):
    (cli.home / "größe").write_text("x")
    cli("put", "x", "größe")
    env = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii:strict"}
    assert "gr\\xf6\\xdfe" in cli("ls", "x:v0", env=env).stdout


# -- doctor, completion, fstab -----------------------------------------------------------------------------------------


def test_doctor_says_what_is_right_and_what_is_not(cli):
    finished = cli.run("doctor", "--json")
    findings = json.loads(finished.stdout)
    checks = {item["check"]: item for item in findings}
    assert set(checks) >= {
        "python", "chunking", "kernel", "/dev/fuse", "fusermount3", "allow-other", "libfuse", "configuration",
        "repository", "free space", "workspaces", "cache", "mount",
    }  # fmt: skip
    assert f"{cli.home}/.cache/artifactfs (takes a tenth of the disk" in checks["cache"]["found"]
    assert finished.status == int(any(item["state"] == "fail" for item in findings))
    assert "none yet" in checks["repository"]["found"]
    (cli.home / "notes").mkdir()
    (cli.home / "notes" / "file").write_text("x")
    finished = cli.run("--repository", cli.home / "notes", "doctor")
    assert finished.status == 1
    assert f"fail  repository     {cli.home}/notes is not an ArtifactFS repository" in finished.stdout


def test_doctor_looks_at_the_cache_that_is_named(cli):
    (cli.home / "file").touch()
    finished = cli.run("--cache-dir", cli.home / "file" / "cache", "doctor")
    assert finished.status == 1
    assert f"fail  cache          {cli.home}/file cannot be written" in finished.stdout
    assert "200.0 MiB; free: " in cli.run("--cache-size", "200MiB", "doctor").stdout


def complete(cli, shell: str, line: str) -> list[str]:
    words = line.split(" ")
    env = {"_ARTIFACTFS_COMPLETE": f"{shell}_complete"}
    if shell == "bash":
        env["ARTIFACTFS_LINE"] = line
    else:
        env |= {"COMP_WORDS": line, "COMP_CWORD": words[-1] if shell == "fish" else str(len(words) - 1)}
    return cli("", env=env).stdout.split()


def test_completion_knows_commands_artifacts_and_aliases(cli):
    (cli.home / "data").write_text("x")
    cli("put", "bike-dataset", "data", "--alias", "best")
    cli("put", "bike-model", "data")
    assert complete(cli, "bash", "artifactfs un") == ["plain,unmount"]
    assert complete(cli, "bash", "artifactfs show bike-") == ["plain,bike-dataset", "plain,bike-model"]
    assert complete(cli, "bash", "artifactfs show bike-dataset:") == [
        "plain,bike-dataset:best", "plain,bike-dataset:latest", "plain,bike-dataset:v0"
    ]  # fmt: skip
    assert complete(cli, "bash", "artifactfs log bike-d") == ["plain,bike-dataset"]
    assert "plain,--recursive" in complete(cli, "bash", "artifactfs ls --r")
    assert complete(cli, "bash", f"artifactfs --repository {cli.home}/none show b") == []
    assert "bike-model" in complete(cli, "zsh", "artifactfs show bike-m")
    assert "plain,bike-model" in complete(cli, "fish", "artifactfs show bike-m")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_prints_a_script(cli, shell):
    text = cli("completion", shell).stdout
    assert f"_ARTIFACTFS_COMPLETE={shell}_complete" in text
    if shell == "bash":
        subprocess.run(["bash", "-n"], input=text, text=True, check=True)


def test_bash_completes_after_a_colon(cli):
    (cli.home / "data").write_text("x")
    cli("put", "bike-dataset", "data", "--alias", "best")
    script = cli("completion", "bash").stdout.replace("complete -o nosort", "complete")
    # What readline does: the word broken at ":", and the function called with the line.
    driver = f"""
artifactfs() {{ :; }}
env() {{ command env "${{@:1:2}}" {sys.executable} -m artifactfs; }}
{script}
COMP_WORDBREAKS=$' \\t\\n:='
COMP_LINE="artifactfs show bike-dataset:b"; COMP_POINT=${{#COMP_LINE}}
_artifactfs_completion
printf '%s\\n' "${{COMPREPLY[@]}}"
"""
    done = subprocess.run(["bash", "-c", driver], env=cli.env, cwd=cli.home, capture_output=True, text=True, check=True)
    assert done.stdout == "best\n"


def test_fstab_options_become_a_command_line():
    options = "rw,nofail,ro,allow_other,share_references,pin=a=v3,project=bikes,x-systemd.automount"
    words = ["/data", "/mnt/x", "-s", "-o", options, "-n"]
    assert translate(words) == [
        "--repository", "/data", "--project", "bikes", "mount", "/mnt/x", "--read-only", "--allow-other",
        "--share-references", "--pin", "a=v3",
    ]  # fmt: skip
    options = "_netdev,cache_dir=/var/cache/a,cache_size=50GB,timeout=10,binding=fusepy"
    assert translate(["http://host:7420", "/mnt/x", "-o", options]) == [
        "--repository", "http://host:7420", "--cache-dir", "/var/cache/a", "--cache-size", "50GB", "--timeout", "10",
        "mount", "/mnt/x", "--binding", "fusepy",
    ]  # fmt: skip
    with pytest.raises(
        InvalidInput, match="unknown mount option 'big_writes'; there are allow_other, binding, cache_dir"
    ):
        translate(["/data", "/mnt/x", "-o", "big_writes"])
    with pytest.raises(InvalidInput, match="REPOSITORY MOUNTPOINT"):
        translate(["/data"])
