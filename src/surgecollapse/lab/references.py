"""A user's own parts by ``file.py:name`` or ``package.module:name``: what a name means, and what stands behind it."""

from __future__ import annotations

import ast
import hashlib
import importlib
import importlib.util
import inspect
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

from surgecollapse.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from types import ModuleType

FORM = "file.py:name or package.module:name"
_ROLES = {"task": ("data",), "model": ("model", "net"), "loss": ("loss",)}
"""Key of the configuration → names that a project file may give the part."""
_NEEDED = ("task", "model")


def is_reference(name: Any) -> bool:
    """Whether a name points at a part of a project.

    >>> is_reference("my_project.py:data"), is_reference("package.module:net"), is_reference("digits")
    (True, True, False)
    """
    place, colon, part = str(name).rpartition(":")
    return bool(colon) and part.isidentifier() and (place.endswith(".py") or _is_module(place))


def absolute(reference: str) -> str:
    """The same with the whole path of its file, so that another process finds it wherever it runs.

    >>> absolute("package.module:net")
    'package.module:net'
    """
    place, _, part = reference.rpartition(":")
    return f"{Path(place).expanduser().resolve()}:{part}" if place.endswith(".py") else reference


def label(reference: str) -> str:
    """What a part is called in titles and names of folders: its file or module.

    >>> label("/home/me/my_project.py:data"), label("package.module:net"), label("digits")
    ('my_project', 'module', 'digits')
    """
    if not is_reference(reference):
        return reference
    place = reference.rpartition(":")[0]
    return Path(place).stem if place.endswith(".py") else place.rpartition(".")[2]


def parts_of(file: Path, *, model: bool = True) -> dict[str, str]:
    """The parts that a project file defines, by the key that takes them; the file is parsed and not run.

    Args:
        file: defines ``data``, ``model`` (or ``net``) and, if need be, ``loss``.
        model: look for it, too.

    Raises:
        ConfigError: if the file does not exist or is not Python, or if two of its names are for the same key.
    """
    try:
        tree = ast.parse(file.read_text(encoding="utf-8"), str(file))
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise ConfigError(f"cannot read the project {file}: {reason}") from error
    except SyntaxError as error:
        raise ConfigError(f"{file}, line {error.lineno}: {error.msg}") from error
    defined = {name for node in tree.body for name in _names(node)}
    found = {}
    for key, names in _ROLES.items():
        if key == "model" and not model:
            continue
        there = [name for name in names if name in defined]
        if len(there) > 1:
            raise ConfigError(f"{file} defines {' and '.join(there)}: say which with --{key} {file}:{there[0]}")
        if there:
            found[key] = f"{file}:{there[0]}"
    return found


def parts_beside(model: str | None, data: str | None) -> dict[str, str] | None:
    """Data, model and loss of a run of one's own loop; what is not named is taken from the file of the model.

    Args:
        model: ``file.py:name``; ``None``: nothing is named.
        data: the same.

    Raises:
        ConfigError: if one of them is not a reference, or the data are missing.
    """
    if model is None and data is None:
        return None
    if model is None:
        raise ConfigError("--data goes with --model: name the net, too")
    for flag, name in (("model", model), ("data", data)):
        if name is not None and not is_reference(name):
            raise ConfigError(f"--{flag} {name}: expected {FORM}")
    place = model.rpartition(":")[0]
    beside = parts_of(Path(place), model=False) if place.endswith(".py") else {}
    parts = {**beside, "model": model, **({} if data is None else {"task": data})}
    if "task" not in parts:
        raise ConfigError(f"{place} has no 'data' at its top level: define it, or pass --data FILE.py:NAME")
    return parts


def missing_parts(file: Path, values: dict[str, Any]) -> str:
    """Say which parts of a project are neither in its file nor given; empty if none is missing."""
    lacking = [key for key in _NEEDED if key not in values]
    flags = {"task": "data", "model": "model"}
    return "; ".join(
        f"{file} has no {' or '.join(map(repr, _ROLES[key]))} at its top level: define it, or pass "
        f"--{flags[key]} FILE.py:NAME"
        for key in lacking
    )


def _names(node: ast.stmt) -> list[str]:
    """What a statement at the top level defines."""
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return [node.name]
    if isinstance(node, ast.Import | ast.ImportFrom):
        return [name.asname or name.name for name in node.names]
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    return [target.id for target in targets if isinstance(target, ast.Name)]


def _is_module(place: str) -> bool:
    return bool(place) and all(part.isidentifier() for part in place.split("."))


def found_part(reference: str, what: str) -> Any:
    """What stands behind a reference.

    Args:
        reference: ``file.py:name`` or ``package.module:name``.
        what: the kind of part, for errors.

    Raises:
        ConfigError: if it is not a reference, or the file, module or name does not exist. Also if it is one of the
            standard library's, which holds no parts.
    """
    if not is_reference(reference):
        raise ConfigError(f"{what} {reference!r}: expected {FORM}")
    place, _, name = reference.rpartition(":")
    if place.partition(".")[0] in sys.stdlib_module_names and not place.endswith(".py"):
        raise ConfigError(f"{what} {reference!r}: {place} is of Python's standard library; name a module of your own")
    module = _module(place, what)
    if not hasattr(module, name):
        there = [word for word in vars(module) if not word.startswith("_")]
        raise ConfigError(f"{place} has no {name!r}: expected one of its names {', '.join(there) or '(it has none)'}")
    return getattr(module, name)


def called(part: Any, reference: str, options: Mapping[str, Any], offered: Mapping[str, Any] | None = None) -> Any:
    """What a factory returns.

    Args:
        part: the function or class.
        reference: where it is, for errors.
        options: its arguments.
        offered: further arguments, given where it has a parameter of that name and ``options`` do not set it.

    Raises:
        ConfigError: if the arguments do not fit its parameters.
    """
    try:
        parameters = inspect.signature(part).parameters
    except (TypeError, ValueError):  # some built-in classes have none
        return part(**options)
    given = {name: value for name, value in (offered or {}).items() if name in parameters and name not in options}
    try:
        inspect.signature(part).bind(**given, **options)
    except TypeError as error:
        names = ", ".join(parameters) or "none"
        raise ConfigError(f"{reference}: {error}; it takes {names}, got {', '.join(options) or 'nothing'}") from error
    return part(**given, **options)


FAULTS = (ArithmeticError, AssertionError, AttributeError, LookupError, NameError, RuntimeError, TypeError)
"""What a mistake in the code of a project raises, beside ``ValueError``."""


def fault_in(error: BaseException, references: Iterable[str]) -> str | None:
    """A mistake in the code of a project, in one line with its place; ``None`` if the error is not from there.

    Args:
        error: with its traceback.
        references: the parts of the project.
    """
    places = [name.rpartition(":")[0] for name in references if is_reference(name)]
    modules = [getattr(sys.modules.get(place), "__file__", None) for place in places]
    files = {*places, *modules}
    there = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename in files]
    if not there:
        return None
    said = " ".join(str(error).split())
    return f"{there[-1].filename}, line {there[-1].lineno}: {type(error).__name__}{f': {said}' if said else ''}"


def fingerprint(references: list[str]) -> dict[str, str]:
    """SHA-256 of each project file that is named, by its path."""
    files = dict.fromkeys(name.rpartition(":")[0] for name in references if is_reference(name))
    return {
        place: hashlib.sha256(Path(place).read_bytes()).hexdigest()
        for place in files
        if place.endswith(".py") and Path(place).is_file()
    }


def _module(place: str, what: str) -> ModuleType:
    if not place.endswith(".py"):
        sys.path.insert(0, "")
        try:
            return importlib.import_module(place)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{place}.".startswith(f"{error.name}."):
                raise
            raise ConfigError(f"no module {place!r}: name a module that can be imported here, or a file") from error
        finally:
            sys.path.remove("")
    path = Path(place).expanduser().resolve()
    if not path.is_file():
        raise ConfigError(f"no file {place}: name one that defines the {what}")
    return _of_file(path)


def _of_file(path: Path) -> ModuleType:
    """The module of a file, run once for each content: its parts share what they make at import."""
    name = f"surgecollapse_project_{hashlib.sha256(str(path).encode() + path.read_bytes()).hexdigest()[:16]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # so that its classes can be pickled for workers
    sys.path.insert(0, str(path.parent))
    try:
        spec.loader.exec_module(module)
    except SyntaxError as error:
        sys.modules.pop(name)
        raise ConfigError(f"{error.filename}, line {error.lineno}: {error.msg}") from error
    except BaseException:
        sys.modules.pop(name)
        raise
    finally:
        sys.path.pop(0)
    return module
