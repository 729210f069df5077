"""The edits of a source file: one wrong sign, power, coefficient, name, edge or key at a time, found in its syntax tree."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePath

PAIRS = {
    "function": "exp:expm1 log:log1p sin:cos tanh:sigmoid sinh:cosh floor:ceil argmax:argmin softmax:log_softmax",
    "reduction": "mean:sum amax:amin max:min cumsum:cumprod std:var",
    "power": "sqrt:square",
    "swap": "t:s lower:upper low:high left:right before:after",
    "alpha, sigma": "alpha:sigma",
}
BOTH = [(kind, pair.split(":")) for kind, pairs in PAIRS.items() for pair in pairs.split()]
OTHER = {a: (kind, b) for kind, pair in BOTH for a, b in (pair, pair[::-1])}
"""The kind of edit, and the other name, of what has one."""
RENAMED = {a: v for a, v in OTHER.items() if v[0] in {"function", "reduction", "power"}}
RENAMED |= {"log2": ("function", "log"), "prod": ("reduction", "sum"), "rsqrt": ("power", "reciprocal")}
TWINS = {a: v for a, v in OTHER.items() if a not in RENAMED}
CLAMPS = {"clamp", "clamp_min", "clamp_max", "clip", "nan_to_num"}
_ANY_ORDER = "max min maximum minimum hypot where zip isclose allclose equal dot logaddexp"
_NO_FORMULA = "isinstance getattr hasattr setattr range issubclass cast round replace clamp clip view_as"
UNSWAPPED = {*_ANY_ORDER.split(), *_NO_FORMULA.split()}
EDGES = {ast.Lt: ("<", "<="), ast.LtE: ("<=", "<"), ast.Gt: (">", ">="), ast.GtE: (">=", ">")}
SIGNS = {ast.Add: ("+", "-"), ast.Sub: ("-", "+")}
FACTORS = {ast.Mult: ("*", "/"), ast.Div: ("/", "*")}
TINY = 1e-5  # smaller constants are guards against a division by zero


@dataclass(frozen=True)
class Edit:
    """Bytes `start` to `end` of the file at `path` (from the root) become `new`; `line` is the first line changed."""

    path: str
    line: int
    kind: str
    start: int
    end: int
    new: str

    def apply(self, source: bytes) -> bytes:
        """The edited source."""
        return source[: self.start] + self.new.encode() + source[self.end :]

    def names(self, source: bytes) -> set[str]:
        """The module, the classes and the functions around the edit: what a test that looks at it is likely to name."""
        found = (n for n in ast.walk(ast.parse(source)) if isinstance(n, ast.ClassDef | ast.FunctionDef))
        around = {n.name.strip("_") for n in found if n.lineno <= self.line <= (n.end_lineno or 0)}
        return {*around, PurePath(self.path).stem}

    def lines(self, source: bytes) -> tuple[str, str]:
        """The changed lines before and after, white space squeezed: what a reader sees, and what a judgement is kept under."""
        first, last = source.rfind(b"\n", 0, self.start) + 1, source.find(b"\n", self.end)
        parts = source[first:last], source[first : self.start] + self.new.encode() + source[self.end : last]
        return " ".join(parts[0].decode().split()), " ".join(parts[1].decode().split())


def edits(path: str, source: bytes) -> list[Edit]:
    """Every edit of a file."""
    finder, tree = _Finder(path, source), ast.parse(source)
    finder.keys = list(dict.fromkeys(finder.text(k) for k in map(_key, ast.walk(tree)) if k))
    finder.visit(tree)
    return finder.found


class _Finder(ast.NodeVisitor):
    def __init__(self, path: str, source: bytes) -> None:
        self.path, self.source, self.found = path, source, list[Edit]()
        self.starts = [0, *(m.end() for m in re.finditer(b"\n", source))]
        self.bound, self.keys = list[set[str]](), list[str]()

    def span(self, node: ast.AST) -> tuple[int, int]:
        n: ast.expr = node  # type: ignore[assignment]
        return self.starts[n.lineno - 1] + n.col_offset, self.starts[n.end_lineno - 1] + n.end_col_offset

    def text(self, node: ast.AST) -> str:
        start, end = self.span(node)
        plain = isinstance(node, ast.Name | ast.Constant | ast.Attribute | ast.Call | ast.Subscript)
        text = self.source[start:end].decode()
        return text if plain else f"({text})"

    def edit(self, kind: str, start: int, end: int, new: str) -> None:
        line = self.source.count(b"\n", 0, start) + 1
        self.found.append(Edit(self.path, line, kind, start, end, new))

    def swap(self, kind: str, node: ast.AST, new: str) -> None:
        self.edit(kind, *self.span(node), new)

    def between(self, kind: str, left: ast.AST, right: ast.AST, old: str, new: str) -> None:
        """Replace an operator, which stands between two nodes."""
        start = self.source.find(old.encode(), self.span(left)[1], self.span(right)[0])
        if start >= 0:
            self.edit(kind, start, start + len(old), new)

    def rename(self, kind: str, node: ast.Attribute, new: str) -> None:
        end = self.span(node)[1]
        self.edit(kind, end - len(node.attr.encode()), end, new)

    # What is no formula: annotations, decorators, messages, texts, defaults of fields, the kit's `example`.
    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        if node.name in {"__repr__", "__str__", "describe", "why", "explain"}:
            return
        names = {n.id for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
        names |= {a.arg for a in ast.walk(node) if isinstance(a, ast.arg)}
        self.bound.append(names)
        for statement in node.body:
            self.visit(statement)
        self.bound.pop()

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        example = isinstance(node.target, ast.Name) and node.target.id == "example"
        if node.value is not None and (self.bound or not (example or isinstance(node.value, ast.Call))):
            self.visit(node.value)

    def visit_Raise(self, node: ast.Raise) -> None: ...
    def visit_JoinedStr(self, node: ast.JoinedStr) -> None: ...
    def visit_Assert(self, node: ast.Assert) -> None: ...

    def visit_If(self, node: ast.If | ast.IfExp | ast.While) -> None:
        refuses = isinstance(node, ast.If) and isinstance(node.body[-1], ast.Raise)
        declares = isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        if not refuses and not declares:
            self.swap("condition", node.test, f"(not {self.text(node.test)})")
        self.generic_visit(node)

    visit_IfExp = visit_If  # noqa: N815
    visit_While = visit_If  # noqa: N815

    def visit_BoolOp(self, node: ast.BoolOp) -> None:
        old, new = ("and", "or") if isinstance(node.op, ast.And) else ("or", "and")
        self.between("condition", node.values[0], node.values[1], old, new)
        self.generic_visit(node)

    def visit_Compare(self, node: ast.Compare) -> None:
        for left, op, right in zip([node.left, *node.comparators], node.ops, node.comparators, strict=False):
            if type(op) in EDGES and not any(map(_never_met, (*ast.walk(left), *ast.walk(right)))):
                self.between("comparison", left, right, *EDGES[type(op)])
            self.larger("off by one", right)
        self.generic_visit(node)

    def visit_BinOp(self, node: ast.BinOp) -> None:
        left, right, op = node.left, node.right, type(node.op)
        if not any(isinstance(n, ast.Tuple | ast.List | ast.JoinedStr) or _is_text(n) for n in (left, right)):
            self.operator(node, left, right, op)
        self.generic_visit(node)

    def operator(self, node: ast.BinOp, left: ast.expr, right: ast.expr, op: type) -> None:
        if op in SIGNS:
            self.between("sign", left, right, *SIGNS[op])
            self.larger("off by one", left)
            self.larger("off by one", right)
        if op in FACTORS:
            self.between("times, divide", left, right, *FACTORS[op])
            self.larger("coefficient", left)
            self.larger("coefficient", right)
        if op in SIGNS or op in FACTORS:
            self.swap("drop", node, self.text(left))
        if op in {ast.Add, ast.Mult}:
            self.swap("drop", node, self.text(right))
        if op is ast.Pow:
            self.swap("power", right, f"({self.text(right)} + 1)")
        if op is ast.FloorDiv:
            self.swap("off by one", node, f"(-(-{self.text(left)} // {self.text(right)}))")

    def larger(self, kind: str, node: ast.AST) -> None:
        if isinstance(node, ast.Constant) and type(node.value) is int:
            self.swap(kind, node, str(node.value + 1))

    def visit_Constant(self, node: ast.Constant) -> None:
        if type(node.value) is float and abs(node.value) > TINY and abs(node.value) != float("inf"):
            self.swap("coefficient", node, repr(1.5 * node.value))

    def visit_Subscript(self, node: ast.Subscript) -> None:
        parts = [node.slice, *ast.walk(node.slice)] if isinstance(node.slice, ast.Slice) else [node.slice]
        for part in dict.fromkeys(parts):
            self.larger("off by one", part)
        self.generic_visit(node)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> None:
        if isinstance(node.op, ast.USub):
            self.swap("sign", node, self.text(node.operand))
        self.generic_visit(node)

    def visit_Name(self, node: ast.Name) -> None:
        if isinstance(node.ctx, ast.Load) and self.bound:
            for kind, other in _twins(node.id):
                if other in self.bound[-1]:
                    self.swap(kind, node, other)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        for kind, other in _twins(node.attr):
            self.rename(kind, node, other)
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        name = getattr(node.func, "attr", getattr(node.func, "id", ""))
        if name == "field":
            return
        self.named(node, name)
        if name in {"range", "arange"}:
            for argument in node.args:
                self.larger("off by one", argument)
        if len(node.args) > 1 and name not in UNSWAPPED and not any(isinstance(a, ast.Starred) for a in node.args[:2]):
            self.exchange("swap", node.args[0], node.args[1])
        if name == "where" and len(node.args) == 3:
            self.exchange("condition", node.args[1], node.args[2])
        self.generic_visit(node)

    def exchange(self, kind: str, first: ast.expr, second: ast.expr) -> None:
        (start, end), (begin, stop) = self.span(first), self.span(second)
        a, gap, b = self.source[start:end], self.source[end:begin], self.source[begin:stop]
        if a != b:
            self.edit(kind, start, stop, (b + gap + a).decode())

    def named(self, node: ast.Call, name: str) -> None:
        """Edits that hang on the name of the function which is called."""
        if isinstance(node.func, ast.Attribute):
            self.method(node, node.func, name)
        elif name in {"max", "min"}:
            self.swap("reduction", node.func, RENAMED[name][1])
            if len(node.args) == 2:
                self.swap("clamp", node, self.text(node.args[0]))
                self.swap("clamp", node, self.text(node.args[1]))

    def method(self, node: ast.Call, func: ast.Attribute, name: str) -> None:
        of_module = isinstance(func.value, ast.Name) and func.value.id in {"torch", "math", "np", "F"}
        if name in RENAMED:
            kind, new = RENAMED[name]
            self.swap(kind, func, "(lambda v: v * v)") if kind == "power" and of_module else self.rename(kind, func, new)
        kept = node.args[0] if of_module and node.args else func.value
        if name in CLAMPS or (name == "abs" and not node.keywords):
            self.swap("clamp" if name in CLAMPS else "function", node, self.text(kept))
        if name == "detach":
            self.swap("noise, detach", node, self.text(func.value))
        if (key := _key(node)) and len(self.keys) > 1:
            self.swap("noise, detach", key, self.keys[self.keys.index(self.text(key)) - 1])
        elif name in {"fold", "at"} and node.args:
            rest = ", ".join(self.text(a) for a in node.args[:-1])
            self.swap("noise, detach", node, f"{self.text(func.value)}.{name}({rest})" if rest else self.text(func.value))


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def _never_met(node: ast.AST) -> bool:
    """Of a comparison that equality is not met in: a fraction, such as a tolerance, or a uniform number."""
    fraction = isinstance(node, ast.Constant) and type(node.value) is float and not node.value.is_integer()
    return fraction or (isinstance(node, ast.Attribute) and node.attr == "uniform")


def _key(node: ast.AST) -> ast.expr | None:
    """The constant key of a draw. Without it the draw would be as independent of others; with the key of another it is not."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "fold" and node.args:
        last = node.args[-1]
        return last if isinstance(last, ast.Constant) or (isinstance(last, ast.Name) and last.id.isupper()) else None
    return None


def _twins(name: str) -> Iterator[tuple[str, str]]:
    """The names of the other time, of the other coefficient: t <-> s, alpha_t <-> alpha_s, sigma <-> alpha."""
    words = name.split("_")
    for here in dict.fromkeys(w for w in words if w in TWINS):
        kind, there = TWINS[here]
        yield kind, "_".join(there if w == here else w for w in words)
