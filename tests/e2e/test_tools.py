# SPDX-License-Identifier: GPL-2.0-or-later
"""The tools as they are called: by fsck(8), at a terminal, by programs; usage, and what they print."""

import contextlib
import json
import os
import pty
import re
import select
import shutil
import signal
import subprocess

import pytest

from rvl import BUILD, CTL, REVERLAY, TOP, run
from test_check import use
from trees import write

pytestmark = pytest.mark.reverlay_only("the tools are of reverlay")

NO_TERMINAL = {"stdin": subprocess.DEVNULL, "timeout": 120, "check": False}


def call(*args, program="reverlayctl", **kwargs):
    """(exit code, stdout and stderr) of the tool by any of its names."""
    done = subprocess.run([program, *map(str, args)], executable=CTL, text=True, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, **{**NO_TERMINAL, **kwargs})
    return done.returncode, done.stdout


def fsck(*args):
    return call(*args, program="fsck.reverlay")


@pytest.fixture
def damaged(ov):
    """An overlay that was stopped cleanly, with one thing wrong that -p mends."""
    use(ov)
    ov.umount()
    os.removexattr(ov.upper / "file", "trusted.overlay.ino")
    return ov


def is_damaged(ov):
    return "trusted.overlay.ino" not in os.listxattr(ov.upper / "file")


# -- fsck(8) --------------------------------------------------------------------------------


@contextlib.contextmanager
def fstab(scratch, *lines):
    """Another /etc/fstab, in this mount namespace only."""
    path = scratch / "fstab"
    path.write_text("".join(line + "\n" for line in lines))
    run("mount", "--bind", path, "/etc/fstab")
    try:
        yield
    finally:
        run("umount", "/etc/fstab")


@pytest.fixture(scope="session")
def installed(scratch):
    """The names of the tool that an installation makes, as links in a directory."""
    run("meson", "install", "-C", BUILD, "--no-rebuild", "--quiet", "--destdir", scratch / "root")
    found = scratch / "installed"
    found.mkdir()
    for directory, _, names in os.walk(scratch / "root"):
        for name in names:
            path = os.path.join(directory, name)
            if os.path.islink(path) and os.readlink(path).endswith("/reverlayctl"):
                os.symlink(CTL, found / name)
    return found


def test_fsck8(damaged, scratch, installed):
    """fsck(8) finds the program by the type that fstab has, and hands its exit code on."""
    def fsck8(*args):
        done = subprocess.run(["fsck", *map(str, args)], text=True, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, **NO_TERMINAL,
                              env={**os.environ, "PATH": f"{installed}:{os.environ['PATH']}"})
        return done.returncode, done.stdout

    ov = damaged
    options = ov.option_string()
    with fstab(scratch, f"ovl {ov.mnt} fuse.reverlay {options},noauto 0 2"):
        for args in (["-t", "fuse.reverlay", "-n", ov.mnt], ["-A", "-n"], [ov.mnt, "--", "-n"]):
            code, text = fsck8(*args)
            assert code == 4 and "stamp-wrong" in text, (args, text)
        assert fsck8(ov.mnt, "--", "-f", "-p")[0] == 1
    with fstab(scratch, f"ovl {ov.mnt} reverlay {options},noauto 0 2"):
        assert fsck8("-A", "-n")[0] == 0
        assert "objects in upper" in fsck8("-A", "-n")[1]


def test_fstab(damaged, scratch):
    """A line of fstab, by mount point or source; a source that two lines have is none."""
    ov = damaged
    options = ov.option_string()
    with fstab(scratch, f"none {ov.base} fuse.reverlay lowerdir=/nowhere 0 2",
               f"none {ov.mnt} fuse.reverlay {options} 0 2", f"{ov.work} /x ext4 rw 0 0"):
        for operand, code, word in ((ov.mnt, 4, "stamp-wrong"), ("none", 8, "2 overlays"), (ov.work, 4, "stamp-wrong")):
            found = fsck("-n", operand)
            assert found[0] == code and word in found[1], found
    with fstab(scratch, f"ovl {ov.mnt} fuse.reverlay {options} 0 2"):
        assert fsck("-n", "ovl")[0] == 4
        assert call("check", "ovl")[0] == 4
        for command in ("rebind", "import"):
            code, text = call(command, "ovl")
            assert code in (1, 16) and "-o lowerdir=" in text


def test_one_mode(damaged):
    """As e2fsck: one of -n, -p (or -a) and -y. What contradicts itself changes nothing, and calls nothing clean."""
    ov = damaged
    options = ov.option_string()
    for args in (["-n", "-p"], ["-p", "-n"], ["-np"], ["-n", "-a"], ["-y", "-n"], ["-p", "-y"], ["-a", "-y"]):
        for code, text in (fsck(*args, "-o", options), call("repair", *args, "-o", options)):
            if "-a" not in args:
                assert code == 16 and "only one of" in text, (args, code, text)
            assert code == 16, (args, code, text)
            assert is_damaged(ov)
    assert call("repair", "--preen", "--no", "-o", options)[0] == 16
    assert fsck("-a", "-p", "-o", options) == (0, "reverlay: clean\n")
    assert fsck("-n", "-n", "-o", options)[0] == 4
    assert fsck("-f", "-a", "-p", "-o", options)[0] == 1
    assert not is_damaged(ov)


# -- at a terminal --------------------------------------------------------------------------


class Terminal:
    """A tool whose standard input, output and errors are a terminal that is its own."""

    def __init__(self, *args, program="reverlayctl"):
        self.text = ""
        self.pid, self.fd = pty.fork()
        if not self.pid:
            os.execv(CTL, [program, *map(str, args)])

    def read(self):
        """Reads on. False: it has closed its terminal."""
        assert select.select([self.fd], [], [], 60)[0], self.text
        try:
            got = os.read(self.fd, 4096).decode()
        except OSError:
            got = ""
        self.text += got
        return bool(got)

    def expect(self, what, n=1):
        """Waits until it has printed `what` n times."""
        while self.text.count(what) < n:
            assert self.read(), self.text

    def type(self, text):
        os.write(self.fd, text.encode())

    def kill(self, number):
        os.kill(self.pid, number)

    def end(self):
        """(exit code, all that it has printed)."""
        while self.read():
            pass
        os.close(self.fd)
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1]), self.text


QUESTION = "(y/n/all)? "
ENDS = {"^C": lambda tool: tool.type("\3"), "SIGTERM": lambda tool: tool.kill(signal.SIGTERM)}


@pytest.fixture
def twice_damaged(damaged):
    os.removexattr(damaged.upper / "hard1", "trusted.overlay.ino")
    return damaged


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("answers", ["", "y", "n"])
def test_cancelled_at_a_question(twice_damaged, end, answers):
    """^C and SIGTERM at a question end the repair: no more questions, exit code 32; what was mended stays."""
    ov = twice_damaged
    tool = Terminal("-f", ov.work, program="fsck.reverlay")
    for i, answer in enumerate(answers):
        tool.expect(QUESTION, i + 1)
        tool.type(answer + "\n")
    tool.expect(QUESTION, len(answers) + 1)
    ENDS[end](tool)
    code, text = tool.end()
    assert (code, text.count(QUESTION)) == (32, len(answers) + 1), text
    assert "cancelled" in text
    assert len(ov.ctl("repair", "-y")[1]["problems"]) == 2 - answers.count("y")


def test_end_of_input_is_no(twice_damaged):
    """^D is no to all that is left, and asks nothing more."""
    tool = Terminal("repair", twice_damaged.work)
    tool.expect(QUESTION)
    tool.type("y\n")
    tool.expect(QUESTION, 2)
    tool.type("\4")
    code, text = tool.end()
    assert (code, text.count(QUESTION)) == (4, 2), text
    assert len(twice_damaged.ctl("repair", "-y")[1]["problems"]) == 1


@pytest.mark.parametrize("answer", ["n\n", "\3", "\4"])
def test_no_to_what_the_open_mends(ov, answer):
    """What is in work/ goes when a repair opens the index: a no, or none, keeps it, and the clean end."""
    use(ov)
    ov.umount()
    (ov.work / "work/left").write_bytes(b"")
    state = (ov.work / "inodes/state").read_bytes()
    tool = Terminal("repair", ov.work)
    tool.expect(QUESTION)
    tool.type(answer)
    code, text = tool.end()
    assert code == (32 if answer == "\3" else 0), text
    assert text.count(QUESTION) == 1 and "0 mended" in text or code == 32, text
    assert (ov.work / "work/left").exists()
    assert (ov.work / "inodes/state").read_bytes() == state


def test_yes_to_all(twice_damaged):
    """One answer for all."""
    tool = Terminal("repair", twice_damaged.work)
    tool.expect(QUESTION)
    tool.type("all\n")
    code, text = tool.end()
    assert (code, text.count(QUESTION)) == (1, 1), text


@pytest.fixture
def moved(ov):
    """Layers that were copied to another place: its options."""
    use(ov)
    ov.umount()
    copy = ov.base / "copy"
    copy.mkdir()
    run("rsync", "-aHAX", ov.upper, ov.work, copy)
    ov.upper, ov.work = copy / "upper", copy / "work"
    ov.check_clean = False
    yield ov
    ov.before = None


@pytest.mark.parametrize("end", [*ENDS, "^D"])
def test_rebind_cancelled(moved, end):
    """The end of the input, or a signal, at the question of a rebind is no answer: nothing is changed."""
    before = {path: path.read_bytes() for path in (moved.work / "inodes").iterdir() if path.is_file()}
    tool = Terminal("rebind", "-o", moved.option_string())
    tool.expect("[m/c] ")
    if end == "^D":
        tool.type("\4")
    else:
        ENDS[end](tool)
    code, text = tool.end()
    assert code == 1 and "cancelled" in text and "bound" not in text, text
    assert {path: path.read_bytes() for path in (moved.work / "inodes").iterdir() if path.is_file()} == before
    code, text = call("rebind", "-o", moved.option_string())
    assert code == 0 and "bound to these layers" in text


@pytest.mark.parametrize("answers,told", [("m\n", "layers\r"), ("\n", "layers\r"), ("x\nc\n", "of its own")])
def test_rebind_answered(moved, answers, told):
    """What is no answer is asked again; Enter is a move."""
    tool = Terminal("rebind", "-o", moved.option_string())
    for i, answer in enumerate(answers.splitlines()):
        tool.expect("[m/c] ", i + 1)
        tool.type(answer + "\n")
    code, text = tool.end()
    assert code == 0 and told in text.splitlines(keepends=True)[-1], text


# -- commands in messages -------------------------------------------------------------------


AWKWARD = "sp ace/o$t'her/a,b:c"


def paste(command):
    """A shell runs what a message says: the tool by its name."""
    return run("sh", "-c", f"reverlayctl() {{ '{CTL}' \"$@\"; }}; {command}", check=False)


def test_commands_can_be_pasted(ov):
    """The commands that refusals name, and the kernel's mount, work as they are, whatever is in the paths."""
    ov.upper, ov.work = ov.base / AWKWARD / "upper", ov.base / AWKWARD / "work"
    for path in (ov.upper, ov.work):
        path.mkdir(parents=True)
    use(ov)
    ov.umount()
    copy = ov.base / "it's a copy"
    run("cp", "-a", ov.base / AWKWARD, copy)
    ov.upper, ov.work = copy / "upper", copy / "work"
    ov.check_clean = False
    for refused in (call("check", "-o", ov.option_string()), mount_refused(ov)):
        assert "reverlayctl rebind -o '" in refused[1], refused
    done = paste(command_in(refused[1]))
    assert done.returncode == 0 and "bound to these layers" in done.stdout, done.stdout
    ov.mount()
    ov.umount()
    text = call("import", "--to-kernel", "-o", ov.option_string("copy_up=write,noauto".split(",")))[1]
    (command,) = [line for line in text.splitlines() if line.startswith("mount -t overlay")]
    done = paste(f"{command} overlay '{ov.mnt}'")
    assert not done.returncode, (command, done.stdout)
    assert (ov.mnt / "file").read_bytes() == b"changed\n"
    run("umount", ov.mnt)
    done = paste(command_in(mount_refused(ov)[1]))
    assert done.returncode == 0 and "imported" in done.stdout, done.stdout
    run("rm", "-r", ov.work / "inodes")
    refused = mount_refused(ov)[1]
    (rebuild,) = [line for line in refused.splitlines() if "reverlayctl repair --rebuild" in line]
    assert paste(command_in(rebuild)).returncode == 1
    ov.before = None


def command_in(text):
    return text.strip().splitlines()[0].rsplit("un: ", 1)[1]


def mount_refused(ov):
    done = run(REVERLAY, "-f", "-o", ov.option_string(), ov.mnt, check=False)
    assert done.returncode == 1, done.stdout
    return 1, done.stdout


# -- usage ----------------------------------------------------------------------------------


KNOWN = "rw,noauto,x-systemd.automount,_netdev,copy_up=write,fsync=strict,xino=auto,io_uring=off,node_limit=100"


def test_wrong_options(damaged):
    """Options that cannot be meant so are wrong usage, and named; nothing is changed, and nothing else is advised."""
    ov = damaged
    lower, upper, work = f"lowerdir={ov.lowers[0]}", f"upperdir={ov.upper}", f"workdir={ov.work}"
    good = f"{lower},{upper},{work}"
    for options, word in (("", "lowerdir"), (f"{upper},{work}", "lowerdir"), (f"{lower},{upper}", "workdir"),
                          (f"{good},nonsense=1", "nonsense"), (f"{good},nonsense", "nonsense"),
                          (f"{lower},uperdir={ov.upper},{work}", "uperdir"), (f"{good},upperdir", "upperdir"),
                          (f"{lower},upperdir=,{work}", "upperdir"), ("lowerdir=", "lowerdir")):
        for args in (["check"], ["repair", "-y"], ["import"], ["rebind", "--move"]):
            code, text = call(*args, "-o", options)
            assert code == (1 if args[0] == "rebind" else 16), (args, options, code, text)
            assert word in text and len(text.splitlines()) == 1, (args, options, text)
        code, text = fsck("-fy", "-o", options)
        assert code == 16 and word in text, (options, code, text)
    for args in (["import"], ["repair", "--rebuild"]):
        code, text = call(*args, "-o", lower)
        assert code == 16 and "upperdir" in text, (args, code, text)
    assert is_damaged(ov)
    assert call("check", "-o", lower)[0] == 0
    assert call("check", "-o", f"{good},{KNOWN}")[0] == 4
    assert fsck("-fp", f"{KNOWN},{good}")[0] == 1


def test_options_in_parts(damaged):
    """-o given again adds to it, as for the mount."""
    parts = [part for option in damaged.option_string().split(",") for part in ("-o", option)]
    assert call("check", *parts)[0] == 4
    assert call("check", "-o", "rw", *parts, "-o", "rw")[0] == 4
    assert fsck("-fp", *parts)[0] == 1
    assert call("import", "--dry-run", *parts)[0] == 0
    assert call("rebind", "--dry-run", *parts)[0] == 0
    assert call("map", "--show", *parts)[0] == 0
    assert call("resolve", *parts, "1")[0] == 0
    assert call("dump", *parts, "1")[0] == 1  # a number that has no entry


def test_volatile_is_not_clean(ov):
    """What a volatile mount has used is looked at by fsck -p, since no mount takes it as it is."""
    use(ov)
    ov.umount()
    assert fsck("-p", ov.work) == (0, "reverlay: clean\n")
    ov.mount("volatile")
    ov.umount()
    code, text = fsck("-p", ov.work)
    assert code == 4 and "volatile-mark" in text, text
    assert fsck("-y", ov.work)[0] == 1
    assert fsck("-p", ov.work) == (0, "reverlay: clean\n")


# -- what they print ------------------------------------------------------------------------


def test_json_of_failures(damaged):
    """Where it was not done the JSON has the message and the exit code, as standard error has."""
    ov = damaged
    options = ov.option_string()
    other = options.replace(str(ov.upper), str(ov.base / "other"))
    (ov.base / "other").mkdir()
    for args in (["check", "-o", "nonsense"], ["check", "/nowhere"], ["check"], ["check", "--nonsense"],
                 ["repair", "-y", "-n", "-o", options], ["repair", "-o", options], ["check", "-o", other],
                 ["repair", "-y", "-o", other], ["import", "-o", other], ["import", "-o", "lowerdir=/nowhere"],
                 ["rebind", "-o", "lowerdir=/nowhere"], ["rebind"], ["stat", "/"], ["map", "/"],
                 ["map", "-o", other], ["resolve", "/", "1"], ["dump", "/nowhere"], ["export", "/"]):
        done = subprocess.run([CTL, args[0], "--json", *args[1:]], capture_output=True, text=True, **NO_TERMINAL)
        assert done.returncode in (1, 8, 16), (args, done)
        found = json.loads(done.stdout)
        assert found["exit"] == done.returncode, (args, found)
        assert ("problems" in found) == (args[0] in ("check", "repair", "import")), (args, found)
        lines = [line.removeprefix("reverlayctl: ") for line in done.stderr.splitlines()]
        if "--nonsense" not in args:
            assert set(found["error"].splitlines()) <= set(lines), (args, found, done.stderr)
        assert found["error"], args
    assert "error" not in ov.ctl("check")[1]
    assert ov.ctl("repair", "-y")[1]["exit"] == 1
    assert ov.ctl("rebind", "--dry-run")[1]["exit"] == 0


def test_full_output(damaged):
    """Output that cannot be written is an error, with a word about it."""
    ov = damaged
    options = ov.option_string()
    for args, code in ((["check", "-o", options], 8), (["check", "--json", "-o", options], 8),
                       (["rebind", "--dry-run", "-o", options], 1), (["import", "--dry-run", "-o", options], 8),
                       (["rebind", "--dry-run", "--json", "-o", options], 1), (["check", "--help"], 8),
                       (["rebind", "--move", "-o", options], 1)):
        with open("/dev/full", "w", encoding="ascii") as full:
            done = subprocess.run([CTL, *args], stdout=full, stderr=subprocess.PIPE, text=True, **NO_TERMINAL)
        assert done.returncode == code, (args, done)
        assert done.stderr.count("cannot write the output: No space left on device") == 1, (args, done)


# -- rebind ---------------------------------------------------------------------------------


N_MANY = 3000


@pytest.fixture
def large(ov):
    """A copy with many names in upper, of which a rebind has not been made."""
    with ov.lower() as low:
        write(low / "lower/file", b"x\n")
    mnt = ov.mount()
    for i in range(N_MANY):
        write(mnt / f"many/{i}")
    ov.umount()
    copy = ov.base / "copy"
    copy.mkdir()
    run("rsync", "-aHAX", ov.upper, ov.work, copy)
    ov.upper, ov.work = copy / "upper", copy / "work"
    ov.check_clean = False
    yield ov
    ov.before = None


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("is_rebuilt", [False, True])
def test_rebind_stopped(large, number, is_rebuilt):
    """A signal ends a rebind where it can be gone on with, and it says so; the mount is refused until it is run again."""
    options = large.option_string()
    if is_rebuilt:
        shutil.rmtree(large.work)
        large.work.mkdir()
    with subprocess.Popen([CTL, "rebind", "-C", "-o", options], text=True, stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stderr.readline().split()[1] == "1000"
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
    print(f"exit code {process.returncode}")
    # it may have been at its end by then
    if process.returncode:
        assert process.returncode == 1 and "run it again" in err and "bound" not in out, (process, out, err)
        assert "reverlayctl re" in mount_refused(large)[1]
        code, text = call("rebind", "-o", options)
        assert code == 0 and "bound to these layers" in text, text
    assert call("check", "-o", options)[0] == 0
    assert len(os.listdir(large.mount() / "many")) == N_MANY
    large.umount()


def test_rebind_stopped_in_lower(ov):
    """The walk of the lowers, which is most of it where they are large, ends at a signal too."""
    with ov.lower() as low:
        for i in range(100):
            write(low / f"{i}/file")
    write(ov.mount() / "born")
    ov.umount()
    copy, lower = ov.base / "copy", ov.lower_base / "copy"
    copy.mkdir()
    run("rsync", "-aHAX", ov.upper, ov.work, copy)
    run("cp", "-a", ov.lowers[0], lower)
    ov.upper, ov.work, ov.lowers, ov.before = copy / "upper", copy / "work", [lower], None
    options = ov.option_string()
    log = ov.base / "calls"
    done = run("strace", "-f", "-o", log, "-e", "trace=getdents64", "-e",
               "inject=getdents64:signal=SIGINT:when=120", CTL, "rebind", "-o", options, check=False)
    assert done.returncode == 1 and "run it again" in done.stdout and "bound" not in done.stdout, done
    assert log.read_text().split("--- SIGINT")[1].count("getdents64") < 10
    code, text = call("rebind", "-o", options)
    assert code == 0 and "bound to these layers" in text, text
    assert len(os.listdir(ov.mount())) == 101


def test_rebind_progress(large):
    """How far it is: a line on a terminal, which is gone at the end; else as fsck -C has it, if it is asked for."""
    options = large.option_string()
    done = subprocess.run([CTL, "rebind", "--dry-run", "-o", options], capture_output=True, text=True, **NO_TERMINAL)
    assert not done.stderr, done.stderr
    done = subprocess.run([CTL, "rebind", "--dry-run", "-C", "-o", options], capture_output=True, text=True,
                          **NO_TERMINAL)
    assert [line for line in done.stderr.splitlines() if line[0].isdigit()] == \
        [f"1 {n}" for n in range(1000, N_MANY + 1, 1000)], done.stderr
    code, text = Terminal("rebind", "--move", "-o", options).end()
    assert code == 0 and "\rPass 1: 2000 names" in text, text


# -- help and manual ------------------------------------------------------------------------


def test_help_and_manual():
    """What the manual says of fsck.reverlay its help says too, and what is removed in the end is told everywhere."""
    pages = {name: (TOP / "man" / f"{name}.8").read_text() for name in ("fsck.reverlay", "reverlayctl")}
    text = fsck("--help")[1]
    for option in "onpayfvqCV":
        assert re.search(rf"^  (-., )?-{option}\b", text, re.M), option
        assert re.search(rf"^\.It Fl (. , Fl )?{option}\b", pages["fsck.reverlay"], re.M), option
    for code in (0, 1, 4, 8, 16, 32):
        assert re.search(rf"\b{code} ", text.split("Exit code")[1]), code
        assert f".It {code}\n" in pages["fsck.reverlay"], code
    for told in (*pages.values(), call("repair", "--help")[1]):
        assert "entry-removed" in told


def test_progress_lines(damaged):
    """-C on a descriptor that is no terminal: the pass and its names, at each thousandth name."""
    for i in range(1500):
        write(damaged.upper / f"many/{i}")
    read_fd, write_fd = os.pipe()
    done = subprocess.run(["fsck.reverlay", "-fy", "-C", str(write_fd), str(damaged.work)], executable=CTL,
                          stdout=subprocess.DEVNULL, pass_fds=[write_fd], **NO_TERMINAL)
    os.close(write_fd)
    with open(read_fd, encoding="ascii") as file:
        lines = file.read().splitlines()
    assert done.returncode == 1
    assert lines and all(re.fullmatch(r"\d [1-9]\d*000", line) for line in lines), lines
