"""Where a model's score is a linear read-out of a user vector: u(user) . v(candidate), plus a part of the user alone and one of the candidate alone.

Shapes: B users, C candidates, d entries of the user vector.

A `TorchFunctionMode` sees the model's products. The user vector is an operand that is the same whatever the candidate is; the candidate's vector is the derivative of
the score by it, which covers scales, biases, gathers from all items' scores and whatever else is linear behind the product. That the score is linear there is
tested, not assumed: a softmax behind the product, or a tower that looks at both sides, is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

from recspect.diagnosis.subject import TorchSubject
from recspect.errors import SubjectError

_PRODUCTS = {
    torch.mul, Tensor.mul, Tensor.__mul__, Tensor.__rmul__, torch.multiply, Tensor.multiply, torch.matmul, Tensor.matmul, Tensor.__matmul__,
    torch.mm, Tensor.mm, torch.bmm, Tensor.bmm, torch.einsum, torch.inner, Tensor.inner, torch.linalg.vecdot, F.linear,
}
SAME = 1e-5
"""Relative to the largest value: what counts as equal in float32 after another order of additions; 1e-10 in float64, 2e-2 in bfloat16."""

UserVector = Callable[[nn.Module, Any], Tensor]


@dataclass
class Product(TorchFunctionMode):
    """Finds the products of a pass, or gives another operand to one of them.

    Args:
        number: Which product, in the order of calls; None to keep the operands of all.
        operand: Which of its operands.
        replace: From the operand to what is multiplied instead; None leaves it.
    """

    number: int | None = None
    operand: int = 0
    replace: Callable[[Tensor], Tensor] | None = None
    calls: int = 0
    seen: list[tuple[int, int, Tensor]] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        if func in _PRODUCTS:
            number = self.calls
            self.calls += 1
            if self.number in (None, number):
                flat = _flat(args)
                for place, value in enumerate(flat):
                    if isinstance(value, Tensor) and value.dim() and self.number is None:
                        self.seen.append((number, place, value.detach()))
                    elif self.number is not None and place == self.operand:
                        flat[place] = value if self.replace is None else self.replace(value)
                        self.seen.append((number, place, flat[place]))
                args = (flat[0], *flat[1:])
        return func(*args, **(kwargs or {}))


def _flat(args: tuple[Any, ...]) -> list[Any]:
    """Operands one by one; einsum also takes them as a list."""
    return [one for argument in args for one in (argument if isinstance(argument, (list, tuple)) else [argument])]


@dataclass(frozen=True)
class ReadOut:
    """How to get user vectors from a pass of the model.

    Args:
        subject: The model; its lookups are those of the pass, which leaves the user vector in `seen`.
        seen: The user vector of the last pass, [rows, ...]; emptied by `take`.
        found: Place of the product, (number, operand), or None where the functions were named.
    """

    subject: TorchSubject
    seen: list[Tensor]
    found: tuple[int, int] | None

    @classmethod
    def at(cls, subject: TorchSubject, number: int, operand: int) -> ReadOut:
        """The operand of a product of the model itself."""
        seen: list[Tensor] = []

        def forward(model: nn.Module, inputs: Any) -> Tensor:
            with Product(number, operand) as mode:
                out = subject.forward(model, inputs)
            seen[:] = [mode.seen[-1][2]] if mode.seen else []
            return out

        return cls(_copy(subject, forward), seen, (number, operand))

    @classmethod
    def named(cls, subject: TorchSubject, user_vector: UserVector) -> ReadOut:
        """A function that gives it."""
        seen: list[Tensor] = []

        def forward(model: nn.Module, inputs: Any) -> Tensor:
            out = user_vector(model, inputs)
            if not isinstance(out, Tensor) or out.dim() != 2:
                raise SubjectError(f"user_vector returned {tuple(out.shape) if isinstance(out, Tensor) else type(out).__name__}, "
                                   "expected a tensor of shape (rows, d)")
            seen[:] = [out]
            return out.sum(1)

        return cls(_copy(subject, forward), seen, None)

    def take(self) -> Tensor:
        """The user vectors of the last pass, shape [rows, d].

        Raises:
            SubjectError: The product was not reached.
        """
        if not self.seen:
            raise SubjectError("the product of user and candidate vectors was not reached on this pass", hint="calls must be the same for every batch")
        return self.seen.pop().flatten(1)


def _copy(subject: TorchSubject, forward: Callable[[nn.Module, Any], Tensor]) -> TorchSubject:
    return TorchSubject(subject.model, fields=subject.fields, encode=subject.encoding, forward=forward, sites=subject.declared_sites,
                        name=subject.name, sample_rows=subject.sample_rows)


@contextmanager
def plain_kernels() -> Iterator[None]:
    """Attention without fused kernels, whose derivatives cannot be batched over the entries of the user vector."""
    with sdpa_kernel(SDPBackend.MATH):
        yield


def find_product(subject: TorchSubject, stack: list[str], inputs: Any, users: int) -> tuple[int, int]:
    """The product whose operand is the user vector; the last one where several are.

    Args:
        subject: The model; runs inside `undisturbed`, whose stack is `stack`.
        stack: See there.
        inputs: Encoded rows of `users` users, each with the same candidates, user by user.
        users: At least 1.

    Raises:
        SubjectError: No operand is of the user alone, or the score is not linear in any that is, with the reason.
    """
    with torch.no_grad():
        mode = Product()
        trace = _run(subject, stack, inputs, mode)
    rows = trace.shape[0]
    reason = "no product has an operand that depends on the user alone (both sides go through layers together)"
    for number, operand, value in reversed(mode.seen):
        if value.shape[0] != rows or not value.is_floating_point() or value[0].numel() < 2:
            continue
        by_user = value.reshape(users, rows // users, -1)
        if not _close(by_user, by_user[:, :1].expand_as(by_user)) or _reads_nothing(by_user):
            continue
        problem = _not_linear(subject, stack, inputs, users, number, operand)
        if problem is None:
            return number, operand
        reason = problem
    raise SubjectError(f"the score is not a dot product of a user vector and a candidate vector: {reason}",
                       hint="explain candidates one by one with integrated_gradients; for a softmax over dot products, let forward= return the dot "
                            "products")


def read_out_vectors(subject: TorchSubject, stack: list[str], inputs: Any, count: int, place: tuple[int, int],
                     moved: Callable[[Tensor], Tensor] = lambda u: u) -> tuple[Tensor, Tensor, Tensor]:
    """Derivative of every row's score by its user vector, shape [C, d]; the score [C]; the user vectors [C, d].

    Args:
        subject, stack: See `find_product`.
        inputs: Encoded rows; those of the user may be one row for all candidates.
        count: C.
        place: Of the product.
        moved: What to multiply instead of the user vector.
    """
    leaves: list[Tensor] = []

    def leaf(value: Tensor) -> Tensor:
        if value.shape[0] not in (1, count):
            raise SubjectError(f"the user vector has {value.shape[0]} rows, expected 1 or {count}")
        leaves.append(moved(value.detach().expand(count, *value.shape[1:]).contiguous()).requires_grad_())
        return leaves[-1]

    with torch.enable_grad():
        score = _run(subject, stack, inputs, Product(*place, leaf))
        if score.numel() != count or not leaves or not score.requires_grad:
            raise SubjectError(f"the model gave {score.numel()} scores for {count} rows of candidates")
        vectors, = torch.autograd.grad(score.sum(), leaves[-1])
    return vectors.flatten(1), score.detach(), leaves[-1].detach().flatten(1)


def _run(subject: TorchSubject, stack: list[str], inputs: Any, mode: Product) -> Tensor:
    def forward(model: nn.Module, given: Any) -> Tensor:
        with mode:
            return subject.forward(model, given)

    return _copy(subject, forward).run(inputs, stack).additive


def _not_linear(subject: TorchSubject, stack: list[str], inputs: Any, users: int, number: int, operand: int) -> str | None:
    """Why the score is not v(candidate) . u + a(candidate) + b(user); None where it is."""
    def at(moved: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        return read_out_vectors(subject, stack, inputs, rows, (number, operand), moved)

    rows = next(iter(inputs.values())).shape[0] if isinstance(inputs, dict) else len(inputs)
    try:
        vectors, score, u = at(lambda value: value)
        noise = torch.randn(u.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float32).to(u) * (u.abs().mean() + 1)
        far, far_score, far_u = at(lambda value: value + noise.reshape(value.shape))
    except (SubjectError, RuntimeError) as error:
        return f"a product's user side cannot be differentiated ({str(error).splitlines()[0]})"
    if not bool(vectors.abs().sum() > 0):
        return "the score does not depend on what the user's side is multiplied into"
    if not _close(far, vectors) or not _close(far_score - score, (vectors * (far_u - u)).sum(1)):
        return "the score is not linear in the user's side of the product (a softmax or another function stands behind it)"
    by_user = vectors.reshape(users, -1, vectors.shape[1])
    if not _close(by_user, by_user[:1].expand_as(by_user)):
        return "what the user's side is multiplied with differs from user to user for the same candidate"
    rest = (score - (vectors * u).sum(1)).reshape(users, -1)
    separate = rest[:, :1] + rest[:1] - rest[:1, :1]
    scale = score.abs().max()
    if not bool((rest - separate).abs().max() <= tolerance(score) * (scale + rest.abs().max())):
        return "beside the dot product the score has a part that depends on user and candidate together"
    return None


def _reads_nothing(by_user: Tensor) -> bool:
    """Whether all users have one value, though there are several: a parameter, or a constant."""
    return len(by_user) > 1 and _close(by_user, by_user[:1].expand_as(by_user))


def tolerance(value: Tensor) -> float:
    """What counts as equal for this precision, relative to the largest value."""
    return {torch.float64: 1e-10, torch.float32: SAME}.get(value.dtype, 2e-2)


def _close(a: Tensor, b: Tensor) -> bool:
    return bool((a - b).abs().max() <= tolerance(a) * (b.abs().max() + a.abs().max()))
