"""Several processes that train as one, as ``torchrun`` starts them; one alone needs nothing here.

Every process draws the whole batch, with all its noise, from the same streams, and computes its
rows of it. So neither the noise nor, but for rounding, the gradient depends on how many there are.
A loss is written for the whole batch and knows of no processes: see :func:`by_rows`.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist
from torch.nn import functional as F
from torch.nn.utils import parameters_to_vector, vector_to_parameters
from torch.overrides import TorchFunctionMode

PATIENCE = timedelta(minutes=10)
"""How long a process waits for the others before it gives up."""


@contextmanager
def together(patience: timedelta = PATIENCE) -> Iterator[None]:
    """Be one of the processes that ``torchrun`` started; alone where it started one, or did not.

    Tensors on GPUs travel by NCCL, others by Gloo.

    Raises:
        ConnectionError: Another process ended, or did not answer for so long.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield
        return
    gpu = own_device().type == "cuda"
    if gpu:
        torch.cuda.set_device(own_device())
    with _waiting():
        dist.init_process_group("cpu:gloo,cuda:nccl" if gpu else "gloo", timeout=patience)
    yield
    dist.destroy_process_group()  # not after an error, when others may still wait for this one


def size() -> int:
    """How many processes train as one."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """Which of them this is, counted from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def is_main() -> bool:
    """Return whether this process is the one that writes and prints."""
    return rank() == 0


def own_device() -> torch.device:
    """The GPU of this process, or the CPU where not every process of this machine has one.

    ``CUDA_VISIBLE_DEVICES=`` hides GPUs.
    """
    local, count = (
        int(os.environ.get(name, default))
        for name, default in (("LOCAL_RANK", "0"), ("LOCAL_WORLD_SIZE", "1"))
    )
    if torch.cuda.device_count() >= count:
        return torch.device("cuda", local)
    return torch.device("cpu")


def share(count: int) -> tuple[slice, float]:
    """Which rows of a batch are this process's, and what the mean over them weighs.

    A weighted loss of the rows then has, by :func:`average_gradients`, the whole batch's gradient.

    Raises:
        ValueError: There are fewer rows than processes.
    """
    if count < size():
        raise ValueError(
            f"a batch of {count} for {size()} processes: make it larger, or start fewer of them"
        )
    first, last = (count * each // size() for each in (rank(), rank() + 1))
    return slice(first, last), (last - first) * size() / count


def by_rows(fn: Callable[..., Any], *batch: Any) -> Any:
    """What ``fn`` says of a batch, of which each process computes its rows and gets all.

    A loss of the whole batch may follow, contrast between all its rows among it: the gradient
    reaches each process's weights through its own rows, and :func:`average_gradients` puts the
    parts together. What is computed without this function is computed by every process alike.

    Args:
        fn: Of rows that do not see each other. Dropout in it draws the whole batch's masks.
        batch: Arguments; those with a length (tensors, prompts, texts) are cut to the rows.

    Returns:
        A tensor, or a tuple of tensors, a row for each of the batch.
    """
    if size() == 1:
        return fn(*batch)
    count = next(len(part) for part in batch if hasattr(part, "__len__"))
    each = -(-count // size())  # equal shares: the last row is repeated, and dropped below
    rows = torch.arange(each * rank(), each * (rank() + 1)).clamp(max=count - 1)
    taken = [_rows_of(part, rows) if hasattr(part, "__len__") else part for part in batch]
    with _WholeMasks(rows, count):
        said = fn(*taken)
    if isinstance(said, Tensor):
        return _Gathered.apply(said)[:count]  # pyright: ignore[reportOptionalSubscript]
    return tuple(_Gathered.apply(part)[:count] for part in said)  # pyright: ignore


def average_gradients(weights: Iterable[Tensor]) -> None:
    """Replace each gradient by its mean over all processes."""
    gradients = [weight.grad for weight in weights if weight.grad is not None]
    if size() > 1 and gradients:
        vector_to_parameters(average(parameters_to_vector(gradients)), gradients)


def average(value: Tensor) -> Tensor:
    """The mean over all processes of what each has."""
    if size() == 1:
        return value
    value = value.contiguous().clone()
    with _waiting():
        dist.all_reduce(value)
    return value / size()


def broadcast(tensors: Sequence[Tensor]) -> None:
    """Overwrite each tensor by that of the main process, so that all start alike."""
    if size() > 1:
        with torch.no_grad(), _waiting():
            for tensor in tensors:
                dist.broadcast(tensor, 0)


def broadcast_float(number: float) -> float:
    """Return the main process's number: clocks differ, and all must end at the same step."""
    told = torch.tensor(number, dtype=torch.float64)
    broadcast([told])
    return told.item()


def wait_for_all() -> None:
    """Wait until every process is here, for instance because a file is then there."""
    average(torch.zeros(()))


@contextmanager
def _waiting() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise ConnectionError(
            f"process {os.environ.get('RANK', '?')} waited in vain for another one, which ended or "
            "is silent: see its own message, and start all of them again"
        ) from error


def _rows_of(part: Any, rows: Tensor) -> Any:
    if isinstance(part, Tensor):
        return _Cut.apply(part, rows)
    padded = getattr(part, "padded", None)  # prompts, which are to stay as long as the others
    return part[rows] if padded is None else padded(rows)


def _gather(own: Tensor) -> Tensor:
    parts = [torch.empty_like(own, memory_format=torch.contiguous_format) for _ in range(size())]
    with _waiting():
        dist.all_gather(parts, own.contiguous())
    return torch.cat(parts)


class _Gathered(torch.autograd.Function):
    """The rows of all processes.

    All compute the same loss of them, so that each knows its own rows' gradient without asking.
    It is made as many times larger as there are processes, since a mean over them follows.
    """

    @staticmethod
    def forward(ctx: Any, own: Tensor) -> Tensor:
        return _gather(own)

    @staticmethod
    def backward(ctx: Any, *grad: Tensor) -> Tensor:
        return grad[0].chunk(size())[rank()] * size()


class _Cut(torch.autograd.Function):
    """This process's rows of what all have, the gradient of which is that of all rows."""

    @staticmethod
    def forward(ctx: Any, whole: Tensor, rows: Tensor) -> Tensor:
        ctx.count = len(whole)
        return whole[rows]

    @staticmethod
    def backward(ctx: Any, *grad: Tensor) -> tuple[Tensor, None]:
        return _gather(grad[0])[: ctx.count] / size(), None


class _WholeMasks(TorchFunctionMode):
    """Lets dropout draw the masks of all rows, of which those of this process are used."""

    def __init__(self, rows: Tensor, count: int):
        super().__init__()
        self.rows, self.count = rows, count

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is F.dropout and len(args[0]) == len(self.rows):
            x, *how = args
            laid = sorted(range(1, x.dim()), key=x.stride, reverse=True)  # masks are drawn so
            ones = x.new_ones(self.count, *(x.shape[dim] for dim in laid))
            masks = func(ones.movedim(sorted(laid), laid), *how, **(kwargs or {}))
            return x * masks[self.rows]
        return func(*args, **(kwargs or {}))
