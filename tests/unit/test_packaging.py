"""The package as installed, the pinned versions, and what bin/setup says on a machine that cannot serve."""

import configparser
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from setuptools import find_packages

ROOT = Path(__file__).resolve().parents[2]
TOP_LEVEL = ("surgery", "vllm_refusal", "eval")


def setup_cfg() -> configparser.ConfigParser:
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    return config


def requirements(text: str) -> list[Requirement]:
    return [Requirement(line) for line in text.splitlines() if line.strip()]


def pins(path: Path) -> dict[str, str]:
    lines = [line for line in path.read_text().splitlines() if line and not line.startswith("#")]
    assert all("==" in line for line in lines), f"{path.name} holds something other than exact pins"
    return {canonicalize_name(line.split("==")[0]): line.split("==")[1] for line in lines}


# ---------------------------------------------------------------- packages and entry points


def test_the_vllm_entry_point_resolves():
    found = [e for e in metadata.entry_points(group="vllm.general_plugins") if e.dist.name == "vllm-refusal"]
    assert [e.value for e in found] == ["vllm_refusal:register"]
    assert callable(found[0].load())


def test_every_folder_with_python_files_is_an_installed_package():
    include = setup_cfg()["options.packages.find"]["include"].split()
    installed = set(find_packages(str(ROOT), include=include))
    on_disk = {
        ".".join(path.parent.relative_to(ROOT).parts) for top in TOP_LEVEL for path in (ROOT / top).rglob("*.py")
    }
    assert on_disk, "no package on disk at all"
    assert on_disk - installed == set(), "folders without __init__.py, or not under options.packages.find"
    assert {name.split(".")[0] for name in installed} <= set(TOP_LEVEL)


def test_the_packages_come_from_this_checkout():
    for name in TOP_LEVEL:
        module = __import__(name)
        assert Path(module.__file__).parent == ROOT / name


def test_every_data_file_is_declared_as_package_data():
    """A file that is not Python and matches no pattern would be missing from a wheel."""
    declared = setup_cfg()["options.package_data"]
    for top in TOP_LEVEL:
        for path in (ROOT / top).rglob("*"):
            if path.is_dir() or path.suffix in (".py", ".pyc"):
                continue
            patterns = []
            for package, globs in declared.items():
                base = ROOT / top if package == "*" else ROOT.joinpath(*package.split("."))
                patterns += [base.glob(glob if not glob.endswith("**") else f"{glob}/*") for glob in globs.split()]
            assert any(path in matches for matches in patterns), f"{path.relative_to(ROOT)} is in no package_data"


# ---------------------------------------------------------------- pinned versions


@pytest.mark.parametrize(("engine", "other"), [("cpu", "gpu"), ("gpu", "cpu")])
def test_constraints_pin_every_requirement_at_an_allowed_version(engine, other):
    config = setup_cfg()
    wanted = requirements(config["options"]["install_requires"])
    for extra, lines in config["options.extras_require"].items():
        wanted += requirements(lines) if extra != other else []
    pinned = pins(ROOT / "constraints" / f"{engine}.txt")
    for requirement in wanted:
        version = pinned.get(canonicalize_name(requirement.name))
        assert version, f"{requirement.name} has no pin in constraints/{engine}.txt"
        assert version in requirement.specifier, f"{requirement} against the pin {version}"


def test_cpu_constraints_leave_out_what_bin_setup_removes():
    pinned = pins(ROOT / "constraints" / "cpu.txt")
    assert not {"torchvision", "torchaudio", "torchcodec", "vllm-refusal", "vllm"} & set(pinned)
    assert "+" not in pinned["torch"]  # "==2.13.0" accepts 2.13.0+cpu, the reverse does not hold


def test_what_is_installed_is_what_is_pinned():
    engine = "gpu" if has_distribution("vllm") else "cpu"
    pinned = pins(ROOT / "constraints" / f"{engine}.txt")
    # This folder alone: setuptools puts copies of its own on the path.
    found = metadata.distributions(path=[sysconfig.get_path("purelib")])
    installed = {canonicalize_name(d.name): d.version.split("+")[0] for d in found}
    assert "torch" in installed
    wrong = {n: (v, pinned[n]) for n, v in installed.items() if n in pinned and v != pinned[n].split("+")[0]}
    unpinned = set(installed) - set(pinned) - {"pip", "vllm-refusal"}
    assert (wrong, unpinned) == ({}, set())


def has_distribution(name: str) -> bool:
    try:
        return bool(metadata.version(name))
    except metadata.PackageNotFoundError:
        return False


@pytest.mark.skipif(has_distribution("vllm"), reason="the trap is a CPU torch beside CUDA companions")
def test_the_cpu_environment_is_free_of_cuda_companions():
    assert [n for n in ("torchvision", "torchaudio", "torchcodec") if has_distribution(n)] == []


# ---------------------------------------------------------------- scripts


def scripts() -> list[str]:
    return sorted(path.name for path in (ROOT / "bin").iterdir() if path.is_file())


@pytest.mark.skipif(not (ROOT / ".venv").exists(), reason="bin/demo would install one into this checkout")
@pytest.mark.parametrize("name", scripts())
def test_every_script_is_executable_and_explains_itself(name):
    path = ROOT / "bin" / name
    assert os.access(path, os.X_OK), f"bin/{name} is not executable"
    done = subprocess.run([path, "--help"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Usage:"), done.stdout[:200]


# ---------------------------------------------------------------- bin/setup on other machines


FILES = ("setup.cfg", "pyproject.toml", "bin/setup", "constraints/cpu.txt", "constraints/gpu.txt")
TOOLS = "awk basename bash cat cp cut date df dirname env flock grep head ln ls mkdir mktemp mv rm sed sha256sum sleep tail timeout tr uname"


class Machine:
    """A copy of the set-up files beside a PATH of our own choice, so that nothing real is installed."""

    def __init__(self, folder: Path):
        self.root = folder / "checkout"
        self.path = folder / "path"
        self.path.mkdir()
        for name in FILES:
            (self.root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, self.root / name)
        for tool in TOOLS.split():
            (self.path / tool).symlink_to(shutil.which(tool))
        self.cpuinfo = folder / "cpuinfo"
        self.cpuinfo.write_text("flags : fpu sse4_2 avx avx2 avx512f\n")
        self.command("g++", "exit 0")
        self.python()

    def command(self, name: str, body: str) -> None:
        file = self.path / name
        file.unlink(missing_ok=True)
        file.write_text(f"#!/bin/bash\n{body}\n")
        file.chmod(0o755)

    def python(self, fault: str = "", pip: str = "exit 0", proof: str = "echo torch transformers vllm") -> None:
        """An interpreter whose fitness check prints `fault`, with a pip and an import proof of its own."""
        self.command(
            "python3",
            f"""
case $1 in
    -) cat >/dev/null; {f"echo '{fault}'" if fault else ":"} ;;
    --version) echo Python 3.11.0 ;;
    -c) {proof} ;;
    -m) shift
        case $1 in
            venv) mkdir -p "$2/bin"; cp "$0" "$2/bin/python"; echo 'version = 3.11.0' >"$2/pyvenv.cfg" ;;
            pip) shift 3; echo "$*" >>"{self.root}/pip-calls"; {pip} ;;
            compileall) echo "$*" >"{self.root}/compiled" ;;
        esac ;;
esac""",
        )

    def environ(self, **environ: str) -> dict[str, str]:
        return {
            "PATH": str(self.path),
            "VLLM_REFUSAL_CPUINFO": str(self.cpuinfo),
            "VLLM_REFUSAL_MIN_FREE_GB": "0",
            "HOME": str(self.root),
        } | environ

    def setup(self, *args: str, **environ: str) -> subprocess.CompletedProcess:
        command = [self.root / "bin" / "setup", *args]
        return subprocess.run(command, env=self.environ(**environ), capture_output=True, text=True, timeout=60)

    def pip_calls(self) -> list[str]:
        file = self.root / "pip-calls"
        return file.read_text().splitlines() if file.exists() else []

    @property
    def stamp(self) -> Path:
        return self.root / ".venv" / ".setup-done"


@pytest.fixture
def machine(tmp_path) -> Machine:
    return Machine(tmp_path)


def assert_one_line_error(done: subprocess.CompletedProcess, pattern: str, machine: Machine) -> None:
    lines = done.stderr.splitlines()
    assert (done.returncode, len(lines)) == (1, 1), done.stderr
    assert lines[0].startswith("setup: error: ") and re.search(pattern, lines[0]), lines[0]
    assert not (machine.root / ".venv").exists(), "nothing half-made may stay"
    assert machine.pip_calls() == []


def test_a_fit_machine_is_set_up(machine):
    """The control of the error cases below: the same machine without a fault."""
    done = machine.setup()
    assert done.returncode == 0, done.stderr
    assert "ready in" in done.stderr
    assert machine.stamp.exists()
    calls = machine.pip_calls()
    assert re.match(r"install --no-compile torch==[\d.]+\+cpu -c \S+/constraints/cpu.txt$", calls[0]), (
        "torch comes first"
    )
    assert f"-e {machine.root}[cpu,dev]" in calls[-1]
    assert not any("--extra-index-url" in call for call in calls)


def test_bytecode_is_written_ahead_only_where_no_import_would_keep_it(machine):
    assert machine.setup().returncode == 0 and not (machine.root / "compiled").exists()
    done = machine.setup("--force", PYTHONDONTWRITEBYTECODE="1")
    assert done.returncode == 0 and "setup: compiling" in done.stderr
    assert "-q" in (machine.root / "compiled").read_text()


def test_an_old_python_is_named(machine):
    old = "import sys, runpy; sys.version_info = (3, 9, 2); exec(sys.stdin.read())"
    machine.command("python3", f"exec {sys.executable} -c '{old}'")
    assert_one_line_error(machine.setup(), r"Python 3\.9, but Python 3\.11 to 3\.14", machine)


def test_a_python_without_venv_is_named(machine):
    blind = 'import sys; sys.modules["ensurepip"] = None; exec(sys.stdin.read())'
    machine.command("python3", f"exec {sys.executable} -c '{blind}'")
    assert_one_line_error(machine.setup(), "without the venv module", machine)


def test_a_python_without_headers_is_named(machine):
    bare = 'import sys, sysconfig; sysconfig.get_path = lambda name: "/nowhere"; exec(sys.stdin.read())'
    machine.command("python3", f"exec {sys.executable} -c '{bare}'")
    assert_one_line_error(machine.setup(), r"without its headers \(Python\.h\)", machine)


def test_no_python_at_all(machine):
    (machine.path / "python3").unlink()
    assert_one_line_error(machine.setup(), "no Python found", machine)
    assert_one_line_error(machine.setup(PYTHON="/opt/nowhere/python"), "looked for /opt/nowhere/python", machine)


def test_a_later_python_is_taken_when_the_first_is_unfit(machine):
    (machine.path / "python3").rename(machine.path / "python3.12")
    machine.command("python3", "cat >/dev/null; echo 'python3 is Python 3.9, but 3.11 is needed'")
    done = machine.setup()
    assert done.returncode == 0, done.stderr
    assert f"({machine.path}/python3.12)" in done.stderr


def test_no_compiler(machine):
    (machine.path / "g++").unlink()
    assert_one_line_error(machine.setup(), r"no C\+\+ compiler", machine)


def test_a_cpu_without_avx2(machine):
    if os.uname().machine != "x86_64":
        pytest.skip("AVX2 is a matter of x86_64")
    machine.cpuinfo.write_text("flags : fpu sse4_2 avx\n")
    assert_one_line_error(machine.setup(), "no AVX2", machine)
    assert machine.setup(VLLM_REFUSAL_ENGINE="gpu").returncode == 0, "a GPU does not need it"


def test_a_full_disk(machine):
    assert_one_line_error(machine.setup(VLLM_REFUSAL_MIN_FREE_GB="999999"), r"\d+ GB free .* 999999 GB are", machine)


def test_another_system(machine):
    machine.command("uname", "case $1 in -s) echo Darwin ;; *) echo arm64 ;; esac")
    assert_one_line_error(machine.setup(), "needs Linux, but this is Darwin", machine)


def test_wrong_usage_is_exit_code_2(machine):
    for done in (machine.setup("--nonsense"), machine.setup("--with"), machine.setup(VLLM_REFUSAL_ENGINE="tpu")):
        assert done.returncode == 2, done.stderr
        assert len(done.stderr.splitlines()) == 1


def test_a_device_selects_the_gpu_engine(machine):
    machine.command("nvidia-smi", 'echo "GPU 0: NVIDIA H100 (UUID: GPU-0)"')
    assert machine.setup().returncode == 0
    assert "[gpu,dev]" in machine.pip_calls()[-1]
    assert not any("+cpu" in call for call in machine.pip_calls())


def test_a_driver_without_a_device_selects_the_cpu_engine(machine):
    machine.command("nvidia-smi", 'echo "No devices found"')
    assert machine.setup().returncode == 0
    assert "[cpu,dev]" in machine.pip_calls()[-1]


# ---------------------------------------------------------------- bin/setup again and again


def test_a_second_run_has_nothing_to_do(machine):
    machine.setup()
    calls = machine.pip_calls()
    done = machine.setup()
    assert (done.returncode, machine.pip_calls()) == (0, calls)
    assert done.stderr == "setup: nothing to do: .venv is ready (cpu engine)\n"


@pytest.mark.parametrize("name", FILES)
def test_a_changed_file_is_installed_again(machine, name):
    machine.setup()
    calls = machine.pip_calls()
    with (machine.root / name).open("a") as file:
        file.write("\n# changed\n")
    done = machine.setup()
    assert "nothing to do" not in done.stderr
    assert len(machine.pip_calls()) > len(calls)
    assert "making .venv" not in done.stderr, "a change builds on the environment that is there"


def test_force_makes_the_environment_anew(machine):
    machine.setup()
    left_over = machine.root / ".venv" / "left-over"
    left_over.touch()
    assert "making .venv" in machine.setup("--force").stderr
    assert not left_over.exists()


def test_another_engine_makes_the_environment_anew(machine):
    machine.setup()
    done = machine.setup(VLLM_REFUSAL_ENGINE="gpu")
    assert "making .venv" in done.stderr and "(gpu engine)" in done.stderr


def test_extras_asked_for_once_stay(machine):
    machine.setup()
    machine.setup("--with", "benchmarks")
    assert "[cpu,dev,benchmarks]" in machine.pip_calls()[-1]
    assert "nothing to do" in machine.setup().stderr
    (machine.root / "setup.cfg").open("a").write("\n")
    machine.setup()
    assert "[cpu,dev,benchmarks]" in machine.pip_calls()[-1]


def test_a_failed_installation_leaves_no_stamp_and_shows_the_log(machine):
    machine.python(pip='case $* in *"-e "*) echo "ERROR: no such wheel"; exit 1 ;; esac')
    done = machine.setup()
    assert done.returncode == 1
    assert "ERROR: no such wheel" in done.stderr
    assert done.stderr.splitlines()[-1].startswith("setup: error: could not install the packages")
    assert not machine.stamp.exists()
    machine.python()
    shutil.copy(machine.path / "python3", machine.root / ".venv" / "bin" / "python")
    assert machine.setup().returncode == 0
    assert machine.stamp.exists()


def test_a_failed_update_takes_the_old_stamp_away(machine):
    machine.setup()
    machine.python(pip="exit 1")
    shutil.copy(machine.path / "python3", machine.root / ".venv" / "bin" / "python")
    (machine.root / "setup.cfg").open("a").write("\n")
    assert machine.setup().returncode == 1
    assert not machine.stamp.exists()


def test_an_installation_that_does_not_import_is_a_failure(machine):
    machine.python(proof="echo 'AttributeError: no register'; exit 1")
    done = machine.setup()
    assert done.returncode == 1
    assert "AttributeError: no register" in done.stderr
    assert not machine.stamp.exists()


def test_a_killed_installation_is_mended_by_the_next_run(machine):
    machine.python(pip="kill -9 $PPID; exit 1")  # the parent of pip is bin/setup
    assert machine.setup().returncode == -9
    assert not machine.stamp.exists()
    machine.python()
    shutil.copy(machine.path / "python3", machine.root / ".venv" / "bin" / "python")
    assert machine.setup().returncode == 0
    assert "nothing to do" in machine.setup().stderr


def test_pytorchs_index_is_asked_only_when_the_configured_ones_have_no_cpu_torch(machine):
    machine.python(pip='case $* in *"torch=="*--extra-index-url*) ;; *"torch=="*) exit 1 ;; esac')
    assert machine.setup().returncode == 0
    first, second = machine.pip_calls()[:2]
    assert "--extra-index-url" not in first
    assert second == f"{first} --extra-index-url https://download.pytorch.org/whl/cpu"


def test_a_torch_that_is_nowhere_to_be_had_is_an_error_that_says_so(machine):
    machine.python(pip='case $* in *"torch=="*) exit 1 ;; esac')
    done = machine.setup()
    assert done.returncode == 1
    assert re.search(r"neither the configured indexes nor https://\S+ gave torch 2\S+", done.stderr.splitlines()[-1])


def test_cuda_companions_are_removed_from_a_cpu_environment(machine):
    packages = '$(dirname "$0")/../lib/python3.11/site-packages'
    machine.python(
        pip=f'case $* in *"-e "*) mkdir -p "{packages}/torchvision" ;; uninstall*) rm -r "{packages}/torchvision" ;; esac'
    )
    assert "removing torchvision" in machine.setup().stderr
    assert machine.pip_calls()[-1] == "uninstall -y torchvision"
    assert "nothing to do" in machine.setup().stderr
    (machine.root / ".venv/lib/python3.11/site-packages/torchvision").mkdir()
    assert "removing torchvision" in machine.setup().stderr, "also when something brought it in later"


def test_a_gpu_environment_keeps_them(machine):
    packages = '$(dirname "$0")/../lib/python3.11/site-packages'
    machine.python(pip=f'case $* in *"-e "*) mkdir -p "{packages}/torchvision" ;; esac')
    assert machine.setup(VLLM_REFUSAL_ENGINE="gpu").returncode == 0
    assert not any(call.startswith("uninstall") for call in machine.pip_calls())


def test_a_second_run_at_the_same_time_waits(machine):
    machine.python(pip="sleep 0.5")
    command = [machine.root / "bin" / "setup"]
    runs = [subprocess.Popen(command, env=machine.environ(), stderr=subprocess.PIPE, text=True) for _ in range(2)]
    said = sorted((run.communicate(timeout=60)[1] for run in runs), key=len)
    assert [run.returncode for run in runs] == [0, 0]
    assert "waiting for it" in said[0] and "nothing to do" in said[0]
    assert "ready in" in said[1]
    assert len(machine.pip_calls()) == 3, "installed once"


# ---------------------------------------------------------------- bin/test and .ci/run


@pytest.fixture
def checkout(machine) -> Machine:
    """The machine with bin/test, .ci/run and a Python that prints what it was asked to do."""
    for name in ("bin/test", ".ci/run"):
        (machine.root / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, machine.root / name)
    python = machine.root / ".venv" / "bin" / "python"
    machine.setup()
    python.write_text('#!/bin/bash\necho "$HF_HUB_OFFLINE $*"\nexit 3\n')
    return machine


def run_script(checkout: Machine, name: str, *args: str, **environ: str) -> subprocess.CompletedProcess:
    command = [checkout.root / name, *args]
    return subprocess.run(command, env=checkout.environ(**environ), capture_output=True, text=True, timeout=60)


def test_bin_test_passes_its_arguments_and_the_exit_code_on(checkout):
    done = run_script(checkout, "bin/test", "-k", "two words")
    assert done.stdout == "1 -m pytest -n 2 -k two words\n"
    assert done.returncode == 3
    assert run_script(checkout, "bin/test", HF_HUB_OFFLINE="0").stdout.startswith("0 -m pytest")


def test_bin_test_fast_leaves_out_what_starts_an_engine_a_server_or_a_browser(checkout):
    asked = run_script(checkout, "bin/test", "--fast", "-x").stdout
    assert asked == "1 -m pytest -n 2 tests/unit -m not engine and not server and not browser -x\n"


def test_bin_test_says_when_there_is_no_browser(checkout):
    assert "no Chromium here" in run_script(checkout, "bin/test").stderr
    checkout.command("chromium", "exit 0")
    assert "Chromium" not in run_script(checkout, "bin/test").stderr


def test_bin_test_stops_when_set_up_fails(checkout):
    (checkout.root / "setup.cfg").open("a").write("\n")
    done = run_script(checkout, "bin/test", VLLM_REFUSAL_MIN_FREE_GB="999999")
    assert (done.returncode, done.stdout) == (1, "")


def test_ci_runs_the_slow_tests_after_the_others_but_not_the_long_ones(checkout):
    (checkout.root / ".venv" / "bin" / "python").write_text('#!/bin/bash\necho "$*"\n')
    done = run_script(checkout, ".ci/run")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["-m pytest -n 2", "-m pytest -n 2 -m slow and not long"]


def test_ci_says_so_when_its_time_is_over(checkout):
    done = run_script(checkout, ".ci/run", CI_MINUTES="0")
    assert done.returncode == 1 and "ci: stopped after 0 minutes, in: bin/test;" in done.stderr
    (checkout.root / ".venv" / "bin" / "python").write_text("#!/bin/bash\nsleep 5\n")
    body = (checkout.root / ".ci" / "run").read_text().replace("MINUTES * 60", "MINUTES * 1")
    (checkout.root / ".ci" / "run").write_text(body)
    done = run_script(checkout, ".ci/run", CI_MINUTES="2")
    assert done.returncode == 1 and "ci: stopped after 2 minutes, in: bin/test;" in done.stderr


def test_ci_installs_a_browser_where_it_may(checkout):
    checkout.command("id", "echo 0")
    checkout.command("apt-get", f'echo "$*" >>"{checkout.root}/apt-calls"')
    done = run_script(checkout, ".ci/run")
    assert done.returncode == 3 and "-m pytest" in done.stdout, done.stderr
    calls = (checkout.root / "apt-calls").read_text().splitlines()
    assert calls == ["update", "install -y --no-install-recommends chromium"]


def test_ci_goes_on_without_a_browser(checkout):
    checkout.command("id", "echo 0")
    checkout.command("apt-get", "echo 'E: no network'; exit 100")
    done = run_script(checkout, ".ci/run")
    assert done.returncode == 3 and "-m pytest" in done.stdout
    assert "E: no network" in done.stderr and "could not install Chromium" in done.stderr


def test_ci_leaves_a_machine_alone_that_has_a_browser(checkout):
    checkout.command("id", "echo 0")
    checkout.command("chromium", "exit 0")
    checkout.command("apt-get", f'touch "{checkout.root}/apt-calls"')
    assert run_script(checkout, ".ci/run").returncode == 3
    assert not (checkout.root / "apt-calls").exists()
