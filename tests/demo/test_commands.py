import errno
import os
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
import textwrap
import threading
import urllib.request
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import psutil
import pytest
from pymongo import MongoClient

from recommender.core import ports
from recommender.core.child_process import Guarded
from recommender.core.errors import ConfigurationError, DatabaseUnavailableError
from recommender.core.mongo import MongoDatabase
from recommender.core.settings import Settings
from recommender.demo import embedded_mongod as embedded
from recommender.demo.commands import PROJECT, main
from recommender.demo.embedded_mongod import EmbeddedMongo, find_mongod
from tests.mongods import MongodForTests
from tests.support import free_port
from tests.waiting import DEADLINE_SECONDS, until

SMALL_CITY = ["--users", "50", "--restaurants", "20", "--reviews", "200"]


def is_gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


@pytest.fixture
def no_mongod_on_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))


def executable(path: Path, text: str = "#!/bin/sh\n") -> Path:
    path.write_text(text)
    path.chmod(0o755)
    return path


class TestFindMongod:
    def test_path_wins(self, tmp_path: Path, no_mongod_on_path: None) -> None:
        own = executable(tmp_path / "mongod")
        assert find_mongod() == own

    @pytest.mark.usefixtures("no_mongod_on_path")
    def test_else_the_packages_with_its_run_bit_set(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        installed(tmp_path / "site", monkeypatch)
        mongod = tmp_path / "site" / "fiftyone" / "db" / "bin" / "mongod"
        mongod.parent.mkdir(parents=True)
        mongod.write_text("#!/bin/sh\n")
        mongod.chmod(0o644)
        assert find_mongod() == mongod
        assert mongod.stat().st_mode & stat.S_IXUSR
        assert "fiftyone" not in sys.modules

    @pytest.mark.usefixtures("no_mongod_on_path")
    def test_package_without_the_program(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        installed(tmp_path / "site", monkeypatch)
        with pytest.raises(ConfigurationError):
            find_mongod()

    @pytest.mark.usefixtures("no_mongod_on_path")
    def test_neither(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(embedded, "_PACKAGE", "no-such-package")
        with pytest.raises(ConfigurationError) as caught:
            find_mongod()
        assert caught.value.exit_code == 78


def installed(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make a package known under a name of its own, of which no real one is installed."""
    info = site / "a_test_mongod-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: a-test-mongod\nVersion: 1.0\n")
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.setattr(embedded, "_PACKAGE", "a-test-mongod")


class TestEmbeddedMongo:
    def test_answers_on_the_loopback_alone_and_ends(self, tmp_path: Path) -> None:
        with MongodForTests(tmp_path) as mongo:
            with MongoClient[dict[str, object]](mongo.uri) as client:
                client["x"]["y"].insert_one({"a": 1})
                options = client.admin.command("getCmdLineOpts")["parsed"]
            pid = mongo.pid
            listening = psutil.Process(pid).net_connections("tcp")
            assert {c.laddr.ip for c in listening if c.status == "LISTEN"} == {"127.0.0.1"}
            assert options["net"]["unixDomainSocket"]["enabled"] is False
        assert is_gone(pid)

    def test_folder_in_use(self, tmp_path: Path) -> None:
        with EmbeddedMongo(tmp_path) as mongo:
            with pytest.raises(ConfigurationError) as caught:
                EmbeddedMongo(tmp_path).start()
            assert str(tmp_path) in str(caught.value)
            with MongoClient[dict[str, object]](mongo.uri) as client:
                client.admin.command("ping")

    def test_a_failed_start_names_the_reason_of_mongod(self, tmp_path: Path) -> None:
        (tmp_path / "data" / "mongod.lock").mkdir(parents=True)
        with pytest.raises(DatabaseUnavailableError) as caught:
            EmbeddedMongo(tmp_path).start()
        assert "mongod.lock" in str(caught.value)

    @pytest.mark.usefixtures("no_mongod_on_path")
    def test_a_failed_start_names_what_the_program_printed(self, tmp_path: Path) -> None:
        executable(tmp_path / "mongod", "#!/bin/sh\necho libcrypto >&2\nexit 127\n")
        with pytest.raises(DatabaseUnavailableError, match=r": libcrypto$"):
            EmbeddedMongo(tmp_path).start()

    @pytest.mark.usefixtures("no_mongod_on_path")
    def test_a_program_that_never_answers_is_stopped(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        pid_file = tmp_path / "pid"
        program = f"#!/bin/sh\necho $$ > {pid_file}\nexec /bin/sleep 60\n"
        executable(tmp_path / "mongod", program)
        monkeypatch.setattr(embedded, "_START_SECONDS", 0.5)
        mongo = EmbeddedMongo(tmp_path)
        with pytest.raises(DatabaseUnavailableError):
            mongo.start()
        assert is_gone(int(pid_file.read_text()))

    def test_outlives_the_thread_that_started_it(self, tmp_path: Path) -> None:
        mongo = EmbeddedMongo(tmp_path)
        thread = threading.Thread(target=mongo.start)
        thread.start()
        thread.join()
        try:
            with MongoClient[dict[str, object]](mongo.uri) as client:
                client.admin.command("ping")
        finally:
            mongo.stop()

    def test_dies_with_a_killed_parent(self, tmp_path: Path) -> None:
        with python(
            """
            from pathlib import Path
            from tests.mongods import MongodForTests
            mongo = MongodForTests(Path()).start()
            print(mongo.pid, flush=True)
            input()
            """,
            tmp_path,
        ) as parent:
            assert parent.stdout
            pid = int(parent.stdout.readline())
            assert not is_gone(pid)
            parent.kill()
        until(lambda: is_gone(pid))


def python(code: str, folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(PROJECT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


class TestGuarded:
    def test_gives_back_the_exit_code_and_passes_the_environment(self) -> None:
        assert Guarded(["sh", "-c", "exit $N"], grace_seconds=1, env={"N": "7"}).wait() == 7
        assert Guarded(["sh", "-c", "kill -9 $$"], grace_seconds=1).wait() == 128 + 9
        assert Guarded(["/no/such/program"], grace_seconds=1).wait() == 127

    def test_output_goes_to_the_given_file(self, tmp_path: Path) -> None:
        with (tmp_path / "out").open("wb") as output:
            child = Guarded(["sh", "-c", "echo a; echo b >&2"], grace_seconds=1, output=output)
        assert child.wait() == 0
        assert (tmp_path / "out").read_text() == "a\nb\n"

    def test_stops_by_sigterm(self, tmp_path: Path) -> None:
        ready = tmp_path / "ready"
        script = f"trap 'exit 5' TERM; touch {ready}; while :; do sleep 0.01; done"
        child = Guarded(["sh", "-c", script], grace_seconds=DEADLINE_SECONDS)
        until(ready.exists)
        assert child.poll() is None
        assert child.stop() == 5
        assert child.stop() == 5

    def test_kills_what_does_not_stop(self, tmp_path: Path) -> None:
        pid = tmp_path / "pid"
        script = f"trap '' TERM; sleep 100 & echo $! > {pid}.new; mv {pid}.new {pid}; wait; wait"
        child = Guarded(["sh", "-c", script], grace_seconds=0.1)
        until(pid.exists)
        assert child.stop() == 128 + 9
        until(lambda: is_gone(int(pid.read_text())))

    def test_child_dies_with_a_killed_guard(self, tmp_path: Path) -> None:
        pid = tmp_path / "pid"
        script = f"echo $$ > {pid}.new; mv {pid}.new {pid}; exec sleep 100"
        child = Guarded(["sh", "-c", script], grace_seconds=1)
        until(pid.exists)
        child.kill()
        child.wait()
        until(lambda: is_gone(int(pid.read_text())))


SERVER = """
    import http.server, os, signal, sys
    address = "127.0.0.1", int(os.environ["PORT"])
    server = http.server.HTTPServer(address, http.server.BaseHTTPRequestHandler)
    print("serving", os.environ["MONGO_URI"], flush=True)
    signal.signal(signal.SIGTERM, lambda *_: (print("stopped well", flush=True), os._exit(0)))
    server.serve_forever()
"""
TRAINING = """
    import os
    from pymongo import MongoClient
    db = MongoClient(os.environ["MONGO_URI"])["Google-Maps-Restaurant"]
    print("trained on", db["Reviews"].count_documents({}), "reviews", flush=True)
    db["Recommendations"].insert_one({"user_id": db["Reviews"].find_one()["user_id"]})
"""


@pytest.fixture
def scripts(clean_environment: Path) -> Path:
    """A folder with stand-ins for the two scripts that the demo starts."""
    folder = clean_environment / "scripts"
    folder.mkdir()
    write_script(folder, "model.py", SERVER)
    write_script(folder, "als_training.py", TRAINING)
    return folder


def write_script(folder: Path, name: str, code: str) -> None:
    (folder / name).write_text(textwrap.dedent(code))


class Command:
    """The demo as a person starts it, but for the scripts."""

    def __init__(self, scripts: Path, *arguments: str, **environment: str) -> None:
        self.port = free_port()
        self.printed = ""
        code = (
            "import sys; from pathlib import Path; from recommender.demo.commands import main;"
            "from recommender.core.script import run_script;"
            f"sys.exit(run_script(lambda argv: main(None, Path({str(scripts)!r}))))"
        )
        self._process = subprocess.Popen(
            [sys.executable, "-c", code, *arguments, *SMALL_CITY],
            env={**os.environ, "PYTHONPATH": str(PROJECT), "PORT": str(self.port), **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def read_until(self, text: str) -> str:
        assert self._process.stdout
        while text not in self.printed:
            line = self._process.stdout.readline()
            assert line, f"ended before it printed {text!r}: {self.printed}"
            self.printed += line
        return self.printed

    def signal(self, signum: int) -> None:
        self._process.send_signal(signum)

    def end(self) -> int:
        out, _ = self._process.communicate(timeout=DEADLINE_SECONDS)
        self.printed += out
        return self._process.returncode

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def close(self) -> None:
        self.kill()
        assert self._process.stdout
        self._process.stdout.close()


@pytest.fixture
def start(scripts: Path) -> Iterator[Callable[..., Command]]:
    started: list[Command] = []

    def start(*arguments: str, **environment: str) -> Command:
        started.append(Command(scripts, *arguments, **environment))
        return started[-1]

    yield start
    for command in started:
        command.close()


Start = Callable[..., Command]
RunDemo = Callable[..., int]


@pytest.fixture
def run_demo(run_here: Callable[..., int], scripts: Path) -> RunDemo:
    """Run the demo in this process, with the tests' MongoDB and a server that ends at once."""
    write_script(scripts, "model.py", "print('serving')")
    return partial(run_here, partial(main, scripts=scripts), PORT=str(free_port()))


def mongod_of(folder: Path) -> int:
    return int((folder / "var" / "demo" / "data" / "mongod.lock").read_text())


class TestRun:
    @pytest.mark.parametrize(
        "signum", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.nightly)]
    )
    def test_trains_serves_and_stops_in_order(
        self, start: Start, clean_environment: Path, signum: int
    ) -> None:
        command = start("run")
        printed = command.read_until("clus_test.py")
        assert printed.index("trained on") < printed.index("serving mongodb://127.0.0.1:")
        uri = printed.partition("serving ")[2].split()[0]
        for path in ("/health/ready", "/next-training", "-X POST", "/train", "/runs"):
            assert path in printed
        with MongoClient[dict[str, object]](uri) as client:
            user = client["Google-Maps-Restaurant"]["Recommendations"].find_one()
        assert user
        assert f"MONGO_URI={uri} " in printed
        assert printed.rstrip().endswith(f"clus_test.py {user['user_id']}")
        with pytest.raises(urllib.error.HTTPError):
            urllib.request.urlopen(f"http://127.0.0.1:{command.port}/")
        mongod = mongod_of(clean_environment)
        command.signal(signum)
        assert command.end() == 0
        assert "stopped well" in command.printed
        assert is_gone(mongod)

    def test_failed_training_is_said_and_not_served(
        self, run_demo: RunDemo, scripts: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        write_script(scripts, "als_training.py", "raise SystemExit(65)")
        assert (run_demo("train"), run_demo("run")) == (65, 65)
        printed = capfd.readouterr().out
        assert re.search(r"\b65\b", printed)
        assert "serving" not in printed

    def test_after_a_rejected_training_what_was_there_is_served(
        self, run_demo: RunDemo, scripts: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        write_script(scripts, "als_training.py", "raise SystemExit(76)")
        assert run_demo("run") == 0
        assert re.search(" gate .*serving", capfd.readouterr().out, re.DOTALL)

    def test_server_that_fails_gives_its_exit_code(self, run_demo: RunDemo, scripts: Path) -> None:
        write_script(scripts, "als_training.py", "")
        write_script(scripts, "model.py", "raise SystemExit(78)")
        assert run_demo("run") == 78

    def test_stopped_while_training(
        self, start: Start, scripts: Path, clean_environment: Path
    ) -> None:
        write_script(
            scripts, "als_training.py", "import time; print('busy', flush=True); time.sleep(100)"
        )
        command = start("run")
        command.read_until("busy")
        mongod = mongod_of(clean_environment)
        command.signal(signal.SIGINT)
        assert command.end() == 130
        assert is_gone(mongod)
        assert "serving" not in command.printed

    @pytest.mark.parametrize("from_file", [False, True])
    def test_database_named_is_used_and_not_shown(
        self, start: Start, db_settings: Settings, clean_environment: Path, from_file: bool
    ) -> None:
        uri = db_settings.mongo.uri.get_secret_value() + "?appname=hush"
        if from_file:
            (clean_environment / ".env").write_text(f"MONGO_URI={uri}\n")
        with MongoClient[dict[str, object]](uri) as client:
            client.drop_database("Google-Maps-Restaurant")
            client["Google-Maps-Restaurant"]["Reviews"].insert_one({"user_id": "a user"})
            command = start("run") if from_file else start("run", MONGO_URI=uri)
            printed = command.read_until("clus_test.py")
            client.drop_database("Google-Maps-Restaurant")
        command.signal(signal.SIGTERM)
        assert command.end() == 0
        assert "trained on 1 reviews" in printed
        assert "clus_test.py 'a user'" in printed
        assert "Generating" not in printed
        assert f"MONGO_URI={uri}" not in printed
        assert not (clean_environment / "var").exists()

    def test_port_in_use_is_said_before_the_training(
        self, run_demo: RunDemo, capfd: pytest.CaptureFixture[str]
    ) -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = str(taken.getsockname()[1])
            assert run_demo("run", PORT=port) == 78
        printed = capfd.readouterr()
        assert f"127.0.0.1:{port}: {os.strerror(errno.EADDRINUSE)}" in printed.err
        assert printed.out == ""

    def test_the_city_is_used_by_one_demo_at_a_time_and_alone_survives_a_kill(
        self, start: Start, clean_environment: Path
    ) -> None:
        first = start("run")
        assert "Generating a city of 50 " in first.read_until("clus_test.py")
        mongod = mongod_of(clean_environment)
        second = start("train")
        assert second.end() == 78
        assert f"error: {clean_environment / 'var' / 'demo'} " in second.printed
        first.kill()
        until(lambda: is_gone(mongod))
        until(lambda: not ports.listens("127.0.0.1", first.port))
        third = start("train")
        assert third.end() == 0, third.printed
        assert "Generating" not in third.printed
        trained = [line for line in first.printed.splitlines() if "trained on" in line]
        assert trained[0] in third.printed


def test_city_command_fills_an_empty_database_once(
    run_here: Callable[..., int], db: MongoDatabase
) -> None:
    contents = []
    for seed in ("1", "2"):
        assert run_here(main, "city", *SMALL_CITY, "--seed", seed) == 0
        contents.append(list(db["Reviews"].find()))
    assert contents[0] == contents[1]
    assert len(contents[0]) > 100


@pytest.mark.usefixtures("clean_environment", "signals_and_logging_stay_as_they_are")
@pytest.mark.parametrize(
    "arguments", [[], ["fly"], ["run", "--users", "0"], ["run", "--seed", "x"]]
)
def test_usage(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert "error:" in capsys.readouterr().err


def test_mongod_of_the_package_is_found_here() -> None:
    assert os.access(find_mongod(), os.X_OK)
    assert shutil.which(str(find_mongod()))
