# ruff: noqa: E501
"""Bad plugins of every kind, installed side by side: each costs one line, none leaves a trace, and every command lives."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import textwrap
import threading
import time
from contextlib import nullcontext
from pathlib import Path

import click
import pytest

import diffcore as dc
from diffcore.declare import containing
from diffcore.declare.containing import contained
from diffcore.declare.discovery import MANY, unmet
from diffcore.declare.state import LIBRARIES, of_python

HOOK = "import diffcore as dc\nAPI_VERSION = 1\n@dc.hookimpl\ndef diffcore_solvers():\n    "
GOOD = HOOK + "yield dc.Component('step-of-{name}', 'nowhere:Step')\n"
COMPONENT = HOOK + "yield dc.Component({})\n"

BROKEN = {
    # what is raised, at import and in a hook
    "keyboard": ("raise KeyboardInterrupt", "KeyboardInterrupt"),
    "keyboard-hook": (HOOK + "raise KeyboardInterrupt", "KeyboardInterrupt"),
    "generator-exit": ("raise GeneratorExit('over')", "GeneratorExit: over"),
    "generator-exit-hook": (HOOK + "raise GeneratorExit", "GeneratorExit"),
    "base-exception": ("class Own(BaseException): pass\nraise Own('mine')", "Own: mine"),
    "skip": ("import pytest\npytest.skip('not here', allow_module_level=True)", "Skipped: not here"),
    "pytest-exit": ("import pytest\npytest.exit('all')", "Exit: all"),
    "cancelled": ("import asyncio\nraise asyncio.CancelledError", "CancelledError"),
    "exit": ("raise SystemExit(0)", "SystemExit: 0"),
    "exit-hook": (HOOK + "raise SystemExit('bye')", "SystemExit: bye"),
    "stop-iteration": ("raise StopIteration('x')", "StopIteration: x"),
    "group": ("raise ExceptionGroup('several', [ValueError(1)])", "ExceptionGroup: several"),
    "base-group": ("raise BaseExceptionGroup('several', [KeyboardInterrupt()])", "BaseExceptionGroup: several"),
    "memory": ("raise MemoryError", "MemoryError"),
    "recursion": ("def f(): return f()\nf()", "RecursionError"),
    "bad-str": (
        "class E(Exception):\n    def __str__(self): raise ValueError\nraise E",
        "E: its message cannot be shown, ValueError",
    ),
    "bad-str-exit": (
        "class E(Exception):\n    def __str__(self): raise SystemExit\nraise E",
        "E: its message cannot be shown, SystemExit",
    ),
    "str-of-number": (
        "class E(Exception):\n    def __str__(self): return 3\nraise E",
        "E: its message cannot be shown, TypeError",
    ),
    "bad-repr": (
        HOOK + "yield type('R', (), {'__repr__': lambda self: 1 / 0})()",
        "an object of the class R whose repr raises ZeroDivisionError",
    ),
    "long-message": ("raise ValueError('x' * 100000)", "..."),
    "lines": ("raise ValueError('one\\ntwo\\nthree')", "ValueError: one two three"),
    "terminal": ("raise ValueError('\\x1b[2J\\u202egnp')", "\\x1b[2J\\u202egnp"),
    "surrogate": ("raise ValueError('\\ud800')", "\\ud800"),
    "assertion": ("assert False, 'no'", "AssertionError: no"),
    "no-module": ("import no_such_module_here", "No module named 'no_such_module_here'"),
    "syntax": ("def (:", "SyntaxError"),
    "null-byte": ("x = '\0'", "null bytes"),
    # ways out
    "os-exit": ("import os\nos._exit(0)", "it called os._exit, which ends the process"),
    "os-exit-hook": (HOOK + "import os; os._exit(3)", "it called os._exit"),
    "os-exit-name": ("from os import _exit\n_exit(1)", "it called os._exit"),
    "abort": ("import os\nos.abort()", "it called os.abort"),
    "exec": ("import os\nos.execv('/bin/true', ['true'])", "it called os.execv"),
    "kill": ("import os\nos.kill(os.getpid(), 9)", "it called os.kill"),
    "interrupt-main": ("import _thread\n_thread.interrupt_main()", "it called _thread.interrupt_main, which ends the process"),
    "raise-signal": ("import signal\nsignal.raise_signal(signal.SIGTERM)", "which ends the process"),
    # no end
    "loop": ("while True: pass", "not imported within 0.5 seconds"),
    "sleep": ("import time\ntime.sleep(1000)", "not imported within"),
    "hook-waits": (HOOK + "import threading; threading.Event().wait()", "not imported within"),
    "reads-input": ("input('your name? ')", "EOFError"),
    "waits-for-input": ("import os\nassert os.read(0, 1), 'nothing to read'", "nothing to read"),
    "endless-hook": (
        HOOK + "import itertools\n    for i in itertools.count(): yield dc.Component(f'a{i}', 'a:B')",
        f"more than {MANY} components",
    ),
    "registry-in-hook": (HOOK + "return dc.Registry.load().list()", "loads the registry while it is asked"),
    # what a hook gives
    "none": (HOOK + "return None", "diffcore_solvers must yield diffcore.Component(...), or return a list of them; got None"),
    "text": (HOOK + "return 'euler'", "got 'euler'"),
    "no-list": (HOOK + "return dc.Component('a', 'b:C')", "or return a list of them; got Component"),
    "number": (HOOK + "return 3", "got 3"),
    "text-in-list": (HOOK + "return ['euler']", "must yield diffcore.Component(...), got 'euler'"),
    "argument": ("import diffcore as dc\nAPI_VERSION = 1\n@dc.hookimpl\ndef diffcore_solvers(x): return []", "Argument(s) {'x'}"),
    "async": (
        "import diffcore as dc\nAPI_VERSION = 1\n@dc.hookimpl\nasync def diffcore_solvers():\n    yield 1",
        "got <async_generator",
    ),
    "id-capital": (COMPONENT.format("'Bad Id', 'b:C'"), "'Bad Id' cannot be an id: lower-case letters, digits and . + -"),
    "id-newline": (COMPONENT.format("'a\\nb', 'b:C'"), "'a\\nb' cannot be an id"),
    "id-number": (COMPONENT.format("3, 'b:C'"), "3 cannot be an id"),
    "id-long": (COMPONENT.format("'a' * 1000, 'b:C'"), "cannot be an id"),
    "target": (COMPONENT.format("'a', 'b.C'"), "target must be 'module:Class', got 'b.C'"),
    "target-number": (COMPONENT.format("'a', 7"), "target must be 'module:Class', got 7"),
    "summary": (COMPONENT.format("'a', 'b:C', 'one\\ntwo'"), "summary must be one line of text"),
    "summary-number": (COMPONENT.format("'a', 'b:C', 5"), "summary must be one line of text, got 5"),
    "alias-terminal": (COMPONENT.format("'a', 'b:C', aliases=[dc.Alias('x', '\\x1b[2J')]"), "aliases are diffcore.Alias"),
    "target-terminal": (COMPONENT.format("'a', 'b:\\x1b[2J'"), "target must be 'module:Class', got 'b:\\x1b[2J'"),
    "builtin-array": (
        "import builtins\nclass E:\n    def __eq__(self, other): raise ValueError\nbuiltins.open = E()\n1 / 0",
        "ZeroDivisionError",
    ),
    "alias": (COMPONENT.format("'a', 'b:C', aliases=['x']"), "aliases are diffcore.Alias"),
    "kind": (COMPONENT.format("'a', 'b:C', kind='slover'"), "cannot yield a slover ('a')"),
    "kind-list": (COMPONENT.format("'a', 'b:C', kind=[1]"), "cannot yield a [1]"),
    "api-text": ("API_VERSION = '1'", "its API_VERSION must be a whole number such as 1; got '1'"),
    "api-true": ("API_VERSION = True", "got True"),
    "api-float": ("API_VERSION = 1.0", "got 1.0"),
    "no-traceback": ("import traceback\ntraceback.format_exc = lambda *a: 1 / 0\n1 / 0", "ZeroDivisionError"),
    "not-itself": ("import sys\nsys.modules[__name__] = None", "must name a module; it names None"),
    "evil-value": (
        "API_VERSION = 1\nclass E:\n    def __getattr__(self, n): raise RuntimeError('mine')\ne = E()",
        "RuntimeError: mine",
    ),
}
ENDLESS = ("loop", "sleep", "hook-waits")
CHANGES = {
    # code after which the plugin is whole, and what it is named for; {} is what it is not named for
    "dtype": ("import torch\ntorch.set_default_dtype(torch.float64)", "default dtype"),
    "half": ("import torch\ntorch.set_default_dtype(torch.bfloat16)", "default dtype"),
    "device": ("import torch\ntorch.set_default_device('meta')", "default device"),
    "threads": ("import torch\ntorch.set_num_threads(torch.get_num_threads() + 1)", "threads of torch"),
    "grad": ("import torch\ntorch.set_grad_enabled(False)", "grad mode"),
    "deterministic": ("import torch\ntorch.use_deterministic_algorithms(True, warn_only=True)", "deterministic algorithms"),
    "cudnn": ("import torch\ntorch.backends.cudnn.benchmark = True\ntorch.backends.cudnn.enabled = False", "cudnn"),
    "precision": ("import torch\ntorch.set_float32_matmul_precision('medium')", "precision of float32 products"),
    "anomaly": ("import torch\ntorch.autograd.set_detect_anomaly(True)", "anomaly detection"),
    "denormal": ("import torch\ntorch.set_flush_denormal(True)", "denormal numbers"),
    "attention": ("import torch\ntorch.backends.cuda.enable_math_sdp(False)", "math attention"),
    "torch-seed": ("import torch\ntorch.manual_seed(3)", "random numbers of torch"),
    "numpy-seed": ("import numpy\nnumpy.random.seed(3)", "random numbers of numpy"),
    "numpy-errors": ("import numpy\nnumpy.seterr(all='raise')", "error handling of numpy"),
    "seed": ("import random\nrandom.seed(3)", "random numbers"),
    "warnings-error": ("import warnings\nwarnings.simplefilter('error')", "warnings filters"),
    "warnings-ignore": ("import warnings\nwarnings.filterwarnings('ignore')", "warnings filters"),
    "warnings-reset": ("import warnings\nwarnings.resetwarnings()", "warnings filters"),
    "showwarning": ("import warnings\nwarnings.showwarning = print", "display of warnings"),
    "sigint": ("import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)", "signal handlers"),
    "sigterm": ("import signal\nsignal.signal(signal.SIGTERM, lambda *a: None)", "signal handlers"),
    "alarm": ("import signal\nsignal.alarm(1)", ""),
    "chdir": ("import os\nos.chdir('/')", "working directory"),
    "umask": ("import os\nos.umask(0)", "umask"),
    "locale": (
        "import locale\nlocale.setlocale(locale.LC_ALL, 'POSIX' if 'UTF' in locale.setlocale(locale.LC_ALL) else 'C.UTF-8')",
        "",
    ),
    "environment": ("import os\nos.environ['OMP_NUM_THREADS'] = '77'\nos.environ.pop('PATH')", "environment variables"),
    "path": ("import sys\nsys.path.insert(0, 'elsewhere')", "sys.path"),
    "path-none": ("import sys\nsys.path = None\nsys.argv = ()", "lists of sys"),
    "finders-none": ("import sys\nsys.meta_path = None\nsys.path_hooks = 3", "lists of sys"),
    "finder-raises": (
        "import sys\nclass F:\n    def find_spec(self, *a): raise RuntimeError\nsys.meta_path.insert(0, F())",
        "import system",
    ),
    "hook-raises": ("import sys\ndef hook(path): raise RuntimeError\nsys.path_hooks.insert(0, hook)", "import system"),
    "environment-other": ("import os\nos.environ = {'A': 'b'}", "environment variables"),
    "environment-none": ("import os\nos.environ = None", "environment variables"),
    "json-dumps": ("import json\njson.dumps = json.loads = lambda *a, **k: 'mine'", "functions of other modules"),
    "click-echo": ("import click\nclick.echo = print\ndel click.style", "functions of other modules"),
    "clock": ("import time\ntime.monotonic = time.perf_counter = lambda: 0.0", "functions of other modules"),
    "of-diffcore": (
        "import diffcore.declare.errors as errors, diffcore.declare.discovery as found\nerrors.shorten = found.shorten = None",
        "functions of other modules",
    ),
    "blocked": ("import signal\nsignal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})", "blocked signals"),
    "timer": ("import signal\nsignal.setitimer(signal.ITIMER_PROF, 30.0)", "timers"),
    "gc-callback": ("import gc\ngc.callbacks.append(lambda *a: None)", "garbage collection"),
    "finders": ("import sys\nsys.meta_path.clear()\nsys.path_hooks.clear()", "import system"),
    "argv": ("import sys\nsys.argv[:] = ['x']", "sys.argv"),
    "excepthook": ("import sys\nsys.excepthook = print", "hooks of sys"),
    "recursion-limit": ("import sys\nsys.setrecursionlimit(5000)", "recursion limit"),
    "trace": ("import sys\nsys.setprofile(lambda *a: None)", "profile function"),
    "gc": ("import gc\ngc.disable()", "garbage collection"),
    "logging-level": ("import logging\nlogging.disable(50)", "logging"),
    "logging-handler": ("import logging\nlogging.root.addHandler(logging.NullHandler())", "handlers of the root logger"),
    "builtins": ("import builtins\nbuiltins.open = None", "builtins"),
    "modules": ("import sys\nsys.modules['json'] = None\ndel sys.modules['random']", "modules"),
    "stdout": ("import io, sys\nsys.stdout = io.StringIO()\nsys.__stdout__ = None", "standard streams"),
    "close-stdout": ("import sys\nsys.stdout.close()\nsys.__stdout__.close()\nsys.stdout.buffer.close()", ""),
    "close-stderr": ("import sys\nsys.stderr.close()", ""),
    "close-descriptors": ("import os\nos.close(0)\nos.close(1)\nos.close(2)", ""),
    "thread": ("import threading, time\nthreading.Thread(target=time.sleep, args=(5,)).start()", "left threads running"),
    "narrow-filter": ("import warnings\nwarnings.filterwarnings('ignore', message='mine')", ""),
}


def install(site: Path, name: str, code: str | bytes, *, metadata: str = "", points: bytes = b"") -> None:
    """A distribution `bad-NAME` of one module."""
    module = "bad_" + name.replace("-", "_")
    info = site / f"{module}-1.0.dist-info"
    info.mkdir(parents=True)
    (site / f"{module}.py").write_bytes(code if isinstance(code, bytes) else code.encode())
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: bad-{name}\nVersion: 1.0\n{metadata}")
    (info / "entry_points.txt").write_bytes(points or f"[diffcore]\n{name} = {module}\n".encode())


def state() -> dict[str, object]:
    """Everything global that is looked after, and the descriptors of the standard streams."""
    keepers = [*of_python(), *(k for name, make in LIBRARIES.items() if name in sys.modules for k in make())]
    return {k.name: k.now() for k in keepers} | {f"fd {n}": os.fstat(n).st_ino for n in (0, 1, 2)}


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory):
    """All of them in one environment, and a good one between them: the plugins by name, and the state before and after."""
    import numpy as np
    import torch

    site, endless = tmp_path_factory.mktemp("site"), tmp_path_factory.mktemp("endless")
    for name, (code, _) in BROKEN.items():
        install(endless if name in ENDLESS else site, name, code)
    for name, (code, _) in CHANGES.items():
        install(site, f"m-{name}", f"{code}\n{GOOD.replace('{name}', name)}")
    install(site, "m-good", GOOD.replace("{name}", "good"))
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(site))
        torch.use_deterministic_algorithms(False)  # imports much, once
        assert click.echo
        (torch.rand(1), np.random.rand(), random.random())
        before = state()
        plugins = {p.name: p for p in dc.Registry.load().plugins}
        after = state()
        patch.syspath_prepend(str(endless))
        patch.setenv("DIFFCORE_PLUGINS", ",".join(ENDLESS))
        patch.setenv("DIFFCORE_PLUGIN_SECONDS", "0.5")
        plugins |= {p.name: p for p in dc.Registry.load().plugins if p.name in ENDLESS}
    yield plugins, before, after
    for name in [name for name in sys.modules if name.startswith("bad_")]:
        del sys.modules[name]


def test_all_of_them_leave_everything_as_it_was(loaded):
    _, before, after = loaded
    filters, functions = "warnings filters", "functions of other modules"
    assert [n for n in before if n not in ("modules", filters, functions) and after[n] != before[n]] == []
    for module, names in before[functions].items():
        assert [
            name for name, value in names.items() if callable(value) and after[functions][module].get(name) is not value
        ] == []
    assert all(after["modules"][name] is module for name, module in before["modules"].items())
    assert ("ignore", "mine") in [(action, message and message.pattern) for action, message, *_ in after[filters]]
    assert [item for item in after[filters] if item in before[filters]] == before[filters]


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_plugin_is_one_line(loaded, name):
    plugin = loaded[0][name]
    assert plugin.status == "broken"
    assert BROKEN[name][1] in plugin.cause
    assert plugin.cause.isprintable()
    assert len(plugin.cause) <= 200
    assert plugin.components == ()
    assert "Traceback" in plugin.trace


@pytest.mark.parametrize("name", CHANGES)
def test_a_plugin_that_changes_what_is_global_is_whole_and_named(loaded, name):
    plugin = loaded[0][f"m-{name}"]
    assert (plugin.status, plugin.cause, len(plugin.components)) == ("ok", "", 1)
    wanted = CHANGES[name][1]
    assert wanted in plugin.note
    assert plugin.note.startswith(("changed when imported, and put back: ", "left threads running")) or not wanted
    assert "changed" not in loaded[0]["m-good"].note


def test_our_own_plugins_change_nothing(loaded):
    assert {p.dist: p.note for p in loaded[0].values() if p.dist.startswith("diffcore") and "changed" in p.note} == {}


def command(site: Path, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    """`diffcore ...` with the plugins of a site, within a minute."""
    environment = {**os.environ, "PYTHONPATH": str(site), "OMP_NUM_THREADS": "1", **env}
    run = [sys.executable, "-m", "diffcore", *arguments]
    return subprocess.run(run, env=environment, capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL, check=False)


def test_every_command_lives_and_its_json_stays_clean(tmp_path: Path):
    """One of each trouble that takes a process of its own to see: ends, threads that never end, closed and written streams."""
    codes = {
        "prints": "import os, sys\nprint('hello')\nos.write(1, b'hello')\nos.system('echo hello')\nsys.__stdout__.write('hello')",
        "closes": "import os, sys\nsys.stdout.close()\nos.close(1)",
        "ends": "import os\nos._exit(0)",
        "thread": "import threading, time\nthreading.Thread(target=lambda: time.sleep(600)).start()",
        "pool": "import time\nfrom concurrent.futures import ThreadPoolExecutor\npool = ThreadPoolExecutor()\npool.submit(time.sleep, 600)",
        "interrupt": "raise KeyboardInterrupt",
        "ignores": "import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nsignal.alarm(1)",
        "wait": "import time\ntime.sleep(600)",
        "forks": "import os\nos.fork()",
        "forks-and-raises": "import os\nif not os.fork(): raise ValueError",
        "at-end": "import atexit\natexit.register(lambda: print('hello'))\natexit.register(lambda: 1 / 0)",
        "ends-at-end": "import atexit, os\natexit.register(os._exit, 7)\natexit.register(lambda: os._exit(7))",
        "no-end": "import atexit\natexit.register(print, 'kept')\natexit.unregister(print)",
        "much": "print('x' * 10_000_000)",
        "stand-in": "import sys, types\nclass T(types.ModuleType):\n    def __getattr__(self, name): raise KeyError(name)\nsys.modules['torch'] = T('torch')",
    }
    for name, code in codes.items():
        install(tmp_path, name, f"{code}\n{GOOD.replace('{name}', name)}")
    install(tmp_path, "latin", "", points="[diffcore]\nlatin = caf\xe9\n".encode("latin-1"))
    install(tmp_path, "long", "", metadata="Name: never read\n")
    described = tmp_path / "bad_long-1.0.dist-info" / "METADATA"
    described.write_text(described.read_text().replace("bad-long", "n" * 50_000))
    install(tmp_path, "foreign", "", points=b"[console_scripts]\nx = \xff\xfe\n")
    shown = command(tmp_path, "plugins", "--json", DIFFCORE_PLUGIN_SECONDS="4")
    assert shown.returncode == 0, shown.stderr
    told = {p["distribution"]: p for p in json.loads(shown.stdout)}
    statuses = {name: told[f"bad-{name}"]["status"] for name in (*codes, "latin", "foreign")}
    broken = ("ends", "interrupt", "wait", "latin", "foreign", "long")
    assert statuses == {name: "broken" if name in broken else "ok" for name in statuses}
    assert "UnicodeDecodeError" in told["bad-foreign"]["cause"]
    assert shown.stderr.count("hello") == 5
    assert "kept" not in shown.stderr
    assert "plugin bad-at-end (bad_at_end), at the end of the process: ZeroDivisionError: division by zero\n" in shown.stderr
    assert shown.stderr.count("at the end of the process: it called os._exit, which ends the process") == 2
    assert shown.stderr.count("x") < 11_000
    assert "plugin bad-much (bad_much) prints more, which is left out" in shown.stderr
    assert "waiting for plugin bad-wait (bad_wait), which is being imported ..." in shown.stderr
    assert "Traceback" not in shown.stderr


def test_a_plugin_that_imports_torch_first_changes_none_of_it(tmp_path: Path):
    """Nobody has read torch's own values before: they are read the moment torch has been imported."""
    code = """
        import torch
        torch.set_default_dtype(torch.float64)
        torch.set_num_threads(torch.get_num_threads() + 1)
        torch.manual_seed(3)
    """
    install(tmp_path, "first", textwrap.dedent(code) + GOOD.replace("{name}", "first"))
    probe = """
        import sys, diffcore as dc
        (note,) = [p.note for p in dc.Registry.load().plugins if p.name == "first"]
        import torch
        print(torch.get_default_dtype(), torch.get_num_threads(), torch.initial_seed() == 3, torch.__spec__.loader.__class__.__name__)
        print(note.partition(";")[0])
    """
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "OMP_NUM_THREADS": "2"}
    shown = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(probe)], env=environment, capture_output=True, text=True, timeout=120, check=True
    )
    values, note = shown.stdout.splitlines()
    assert values == "torch.float32 2 False SourceFileLoader"
    assert note == "changed when imported, and put back: default dtype, threads of torch, random numbers of torch"


@pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="needs POSIX signals")
@pytest.mark.parametrize("swallows", [False, True])
def test_a_real_interrupt_is_the_users(swallows: bool):
    def press() -> None:
        time.sleep(0.2)
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

    presser = threading.Thread(target=press)
    presser.start()

    def plugin() -> None:
        try:
            time.sleep(10)
        except BaseException:
            if not swallows:
                raise

    with pytest.raises(KeyboardInterrupt), contained("plugin slow", 20.0):
        plugin()
    presser.join()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_the_time_limit_of_the_environment_is_checked(monkeypatch: pytest.MonkeyPatch):
    for bad in ("soon", "0", "-1", "inf", "nan"):
        monkeypatch.setenv("DIFFCORE_PLUGIN_SECONDS", bad)
        with pytest.raises(dc.SpecError, match="DIFFCORE_PLUGIN_SECONDS is the time that a plugin may take, such as 60"):
            dc.Registry.load()


def test_the_class_of_a_component_is_imported_contained_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog):
    import torch

    code = "import torch\nimport diffcore as dc\ntorch.set_default_dtype(torch.float64)\ntorch.rand(1)\nprint('made')\n"
    step = code + "@dc.component\nclass Step(dc.Solver):\n    '''x.'''\n"
    (tmp_path / "steps_of_bad.py").write_text(step)
    (tmp_path / "ends_of_bad.py").write_text("import os\nos._exit(0)")
    monkeypatch.syspath_prepend(str(tmp_path))
    entry = dc.Entry("step", "solver", "steps_of_bad:Step", "", "bad-steps", "1.0")
    assert entry.load().__name__ == "Step"
    assert torch.get_default_dtype() == torch.float32
    assert caplog.messages == ["importing the solver 'step' of bad-steps 1.0 changed: default dtype; put back"]
    ends = dc.Entry("ends", "solver", "ends_of_bad:Step", "", "bad-steps", "1.0")
    with pytest.raises(
        dc.PluginError, match=r"solver 'ends' of bad-steps 1.0 cannot be imported .* it called os._exit, which ends the process"
    ):
        ends.load()


VERSIONS = [
    ("diffcore>=0.1", "0.1.0", ""),
    ("diffcore >= 0.1.0.0", "0.1", ""),
    ("diffcore>=0.1.1", "0.1.0", "diffcore>=0.1.1"),
    ("diffcore>=2.0", "0.1.0", "diffcore>=2.0"),
    ("Diffcore (>=2)", "0.1.0", "Diffcore (>=2)"),
    ("diffcore[report]>=2.0", "0.1.0", "diffcore[report]>=2.0"),
    ("diffcore>=0.1,<0.2", "0.1.0", ""),
    ("diffcore>=0.1,<0.2", "0.2.0", "diffcore>=0.1,<0.2"),
    ("diffcore~=1.0", "0.1.0", "diffcore~=1.0"),
    ("diffcore==0.1.*", "0.1.7", ""),
    ("diffcore!=0.1.0", "0.1.0", "diffcore!=0.1.0"),
    ("diffcore>=0.2", "0.2.0rc1", "diffcore>=0.2"),
    ("diffcore>=0.2.0rc1", "0.2.0rc1", ""),
    ("diffcore>=2.0; extra == 'new'", "0.1.0", ""),
    ("diffcore>=2.0; python_version < '3'", "0.1.0", ""),
    ("diffcore>=2.0; python_version > '3'", "0.1.0", "diffcore>=2.0"),
    ("diffcore => 2", "0.1.0", "diffcore => 2"),
    ("diffcore-nets>=9", "0.1.0", ""),
    ("diffcore_nets>=9", "0.1.0", ""),
    ("torch>=99", "0.1.0", ""),
]


@pytest.mark.parametrize(("requirement", "version", "answer"), VERSIONS)
def test_what_a_plugin_asks_of_the_core(requirement: str, version: str, answer: str):
    assert unmet(["torch>=2", requirement], version) == answer


def test_a_plugin_for_another_core_is_incompatible_and_not_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    install(tmp_path, "future", "raise RuntimeError('imported')", metadata="Requires-Dist: diffcore>=2.0\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    (plugin,) = [p for p in dc.Registry.load().plugins if p.name == "future"]
    assert (plugin.status, plugin.cause) == ("incompatible", f"it needs diffcore>=2.0, this is diffcore {dc.__version__}")


@pytest.mark.parametrize("busy", [False, True])
def test_waiting_for_a_processor_is_not_what_the_limit_counts(busy: bool, monkeypatch: pytest.MonkeyPatch):
    begun = time.monotonic()
    monkeypatch.setattr(containing, "_held_up", lambda: 0.9 * (time.monotonic() - begun) if busy else 0.0)
    refusal = nullcontext() if busy else pytest.raises(dc.PluginError, match=r"not imported within 0\.2 seconds")
    with refusal, contained("plugin m-slow", limit=0.2):
        time.sleep(0.6)
