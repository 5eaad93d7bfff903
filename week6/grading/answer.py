"""A student's function as the graders see it: each call goes over the pipe, and so do gradients."""

from __future__ import annotations

import builtins
import contextlib
import inspect
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from week6.checks.inspection import STUB
from week6.grading.remote import Inmate, ProcessEnded
from week6.grading.worker import tensors


class Answer:
    """The student's function. `signature` and `code` are what the graders look at; neither is the student's own."""

    def __init__(self, inmate: Inmate, about: dict[str, Any]) -> None:
        self.inmate = inmate
        parameters = about.get("parameters")
        if parameters is not None:
            with contextlib.suppress(ValueError, TypeError, KeyError):
                self.__signature__ = _signature(parameters)
        digest = zlib.crc32(str(about.get("text", "")).encode("utf-8", "replace"))
        self.__code__ = compile(repr(digest), "the student's", "eval")  # the graders draw fresh cases from its text

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        """What the student's function gives for these arguments, numbers by name; raises what it raises."""
        seed = zlib.crc32(torch.get_rng_state().numpy().tobytes())
        torch.rand(1)
        told = [
            (("leaf" if a.requires_grad else "tensor"), a.detach().clone()) if isinstance(a, Tensor) else ("plain", a)
            for a in arguments
        ]
        reply = self.inmate.ask("call", told, seed, named)
        for i, value in reply.get("changed") or ():
            _put(arguments[i], value)
        models = {str(i): a for i, a in enumerate(arguments) if isinstance(a, nn.Module | torch.optim.Optimizer)}
        value = self._result(reply, models)
        leaves = [a for a in arguments if isinstance(a, Tensor) and a.requires_grad]
        return _with_gradients(self.inmate, reply.get("call"), leaves, value) if leaves else _without(value)

    def _result(self, reply: dict[str, Any], models: dict[str, Any]) -> Any:
        """What a reply says: a value, an iterator, or an error that is raised here."""
        print(str(reply.get("printed", "")), end="")
        _update(models, reply.get("state") or ())
        if "error" in reply:
            raise _error(*map(str, reply["error"]))
        return self._iterate(int(reply["iterator"]), models) if "iterator" in reply else reply.get("value")

    def _iterate(self, number: int, models: dict[str, Any]) -> Iterator[Any]:
        while True:
            reply = self.inmate.ask("next", number)
            value = self._result(reply, models)
            if reply.get("done"):
                return
            yield _without(value)


class _Asked(torch.autograd.Function):
    """Results of the student's process; their gradients are asked for there."""

    @staticmethod
    def forward(ctx: Any, inmate: Inmate, call: int, results: Sequence[Tensor], *leaves: Tensor) -> Any:  # noqa: D102
        ctx.inmate, ctx.call, ctx.shapes = inmate, call, [leaf.shape for leaf in leaves]
        ctx.dtypes = [leaf.dtype for leaf in leaves]
        ctx.set_materialize_grads(False)
        return tuple(result.detach().clone() for result in results)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> Any:  # noqa: D102
        reply = ctx.inmate.ask("vjp", ctx.call, list(gradients))
        if "error" in reply:
            raise _error(*map(str, reply["error"]))
        found = reply.get("value")
        if type(found) is not list or len(found) != len(ctx.shapes):
            raise ProcessEnded("it sent gradients of another number")
        if any(
            g is not None and (type(g) is not Tensor or g.shape != s) for g, s in zip(found, ctx.shapes, strict=True)
        ):
            raise ProcessEnded("it sent gradients of another form")
        own = [None if g is None else _without(g).to(d) for g, d in zip(found, ctx.dtypes, strict=True)]
        return None, None, None, *own


def _with_gradients(inmate: Inmate, call: Any, leaves: list[Tensor], value: Any) -> Any:
    """The value, with those tensors joined to the leaves that are so in the student's process."""
    joined = [t for t in tensors(value) if t.requires_grad]
    if not joined:
        return value
    results = iter(_Asked.apply(inmate, call, joined, *leaves))  # type: ignore[no-untyped-call]
    return _mapped(value, lambda t: next(results) if t.requires_grad else t)


def _without(value: Any) -> Any:
    """The value, without gradients."""
    return _mapped(value, lambda t: t.detach())


def _mapped(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """The same structure with each tensor changed, in the order in which they are told."""
    if isinstance(value, Tensor):
        return change(value)
    if type(value) is dict:
        return {_mapped(key, change): _mapped(item, change) for key, item in value.items()}
    return type(value)(_mapped(item, change) for item in value) if type(value) in (list, tuple) else value


def _put(argument: Any, value: Any) -> None:
    """Change an argument in place as the student's process has done."""
    if isinstance(argument, Tensor) and type(value) is Tensor:
        argument.data = value.detach()
    elif isinstance(argument, list) and isinstance(value, list):
        argument[:] = value
    elif isinstance(argument, dict) and isinstance(value, dict):
        argument.clear()
        argument.update(value)


def _update(models: dict[str, Any], states: Any) -> None:
    """Give models the weights and gradients, optimizers the step counts, that they have in the student's process."""
    for name, weights, extra in states:
        model = models.get(str(name))
        if isinstance(model, nn.Module):
            own = model.state_dict()
            with torch.no_grad():
                for key, tensor in weights.items():
                    if key in own and type(tensor) is Tensor and own[key].shape == tensor.shape:
                        own[key].copy_(tensor)
            for key, parameter in model.named_parameters():
                gradient = extra.get(key)
                fits = type(gradient) is Tensor and gradient.shape == parameter.shape
                parameter.grad = gradient.detach().to(parameter.dtype) if fits else None
        elif isinstance(model, torch.optim.Optimizer):
            for i, step in extra.items():
                model.state[str(i)] = {"step": torch.as_tensor(step).detach()}  # type: ignore[index]


def _signature(parameters: Any) -> inspect.Signature:
    made = [
        inspect.Parameter(
            str(name), inspect._ParameterKind(int(kind)), default=None if optional else inspect.Parameter.empty
        )
        for name, kind, optional in parameters
    ]
    return inspect.Signature(made)


def _error(name: str, text: str, where: str) -> Exception:
    """An error like the student's: of the same built-in class, or of one of that name."""
    known = getattr(builtins, name, None)
    kind = known if isinstance(known, type) and issubclass(known, Exception) else None
    if kind is NotImplementedError and text in ("", STUB):
        return NotImplementedError(*([text] if text else []))
    text = (text.split("\n")[0].rstrip(".") + (f", at {where}" if where else ""))[:400]
    if kind in (None, KeyError) or issubclass(kind, UnicodeError | OSError):
        kind = type("".join(c for c in name if c.isidentifier() or c.isalnum())[:60] or "Error", (Exception,), {})
    return kind(text)
