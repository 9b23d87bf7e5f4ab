"""A CUDA device that is not there: tensors that say cuda:0 and keep real values in host memory.

    with Pretended() as device:
        ...
    assert not device.mixed()

Inside, whatever is asked for on cuda is an `OnDevice`. Everything runs, with the values of the CPU.
Noted, with file and line, is what a real device would refuse (MIXED: operands on two devices, a
generator of another device) and what it would be waited for (WAIT: item, bool, tolist, nonzero, an
index by a mask, a copy that blocks, an event that was recorded in the same step). Waits inside of
Lightning's step are kept with the number of the step.

A tensor is a wrapper whose operations come by `__torch_dispatch__`; C++ believes that it lies on
the CPU, and Python is told otherwise by a TorchFunctionMode. What C++ allocates of its own within
an operation on the device, a TorchDispatchMode moves there.
"""

import sys
from collections import Counter
from contextlib import ExitStack
from unittest import mock

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

DEVICE = torch.device("cuda:0")
WAITS = {
    *("_local_scalar_dense", "nonzero", "masked_select", "bincount", "_unique2", "unique_dim"),
    *("unique_consecutive", "equal", "linalg_eigh", "_linalg_eigh", "_linalg_solve_ex"),
    *("linalg_inv_ex", "_linalg_svd", "histc"),
}
# beside pointwise operations, what takes a number on the host among tensors on the device
TAKE_NUMBERS = {"fill_", "masked_fill", "masked_fill_", "_to_copy", "lerp", "where", "mse_loss"}
INDEX = {"index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index"}
LIKE = ("zeros_like", "ones_like", "empty_like", "full_like", "rand_like", "randn_like")
CURRENT: "Pretended"


def is_cuda(device):
    return isinstance(device, int) or (device is not None and torch.device(device).type == "cuda")


def value(found):
    return found.value if isinstance(found, OnDevice) else found


class OnDevice(torch.Tensor):
    """A tensor on the device, with its values in `value`."""

    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, held, requires_grad=False):
        layout = dict(strides=held.stride(), storage_offset=held.storage_offset())
        kind = dict(dtype=held.dtype, device="cpu", requires_grad=requires_grad)
        made = torch.Tensor._make_wrapper_subclass(cls, held.size(), **layout, **kind)
        made.value = held
        return made

    def __init__(self, held, requires_grad=False):
        pass

    def __repr__(self):
        return f"OnDevice({self.value!r})"

    def __deepcopy__(self, memo):
        with torch._C.DisableTorchFunction():
            made = OnDevice(self.value.detach().clone(), self.requires_grad)
        if getattr(self, "_is_param", False):
            made = torch.nn.Parameter(made, self.requires_grad)
        return memo.setdefault(id(self), made)

    def __reduce_ex__(self, protocol):
        CURRENT.note("WAIT", "pickled")
        with torch._C.DisableTorchFunction():
            return self.value.detach().__reduce_ex__(protocol)

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return CURRENT.operate(func, args, kwargs or {})


class _Up(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return OnDevice(x.detach().clone())

    @staticmethod
    def backward(ctx, grad):
        return value(grad)


class _Down(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.value.detach().clone()

    @staticmethod
    def backward(ctx, grad):
        return OnDevice(grad)


class Event:
    """A CUDA event: to wait for one of an earlier step is to wait for nothing."""

    def record(self, *_):
        self.step = CURRENT.count

    def synchronize(self):
        if self.step == CURRENT.count:
            CURRENT.note("WAIT", "an event of this step")


class _Generator(torch.Generator):
    def __new__(cls, device="cpu"):
        made = super().__new__(cls, "cpu")
        made.place = torch.device(device).type
        return made


class _Within(TorchDispatchMode):
    """Puts onto the device what C++ allocates within an operation on it."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        if not CURRENT.within or any(isinstance(t, torch.Tensor) for t in tree_leaves(args)):
            return made
        plain = isinstance(made, torch.Tensor) and not isinstance(made, OnDevice)
        return OnDevice(made) if plain else made


class Pretended(TorchFunctionMode):
    """The device, and what it has noted: (kind, what, where, step) -> how often."""

    def __init__(self):
        super().__init__()
        self.notes, self.within, self.step, self.count = Counter(), False, None, 0

    # -- what it notes -----------------------------------------------------------------------------
    def note(self, kind, what):
        frame, where = sys._getframe(1), "?"
        while frame is not None and where == "?":
            file = frame.f_code.co_filename
            if "/ldm/" in file and "site-packages" not in file:
                where = f"ldm/{file.rsplit('/ldm/', 1)[1]}:{frame.f_lineno}"
            frame = frame.f_back
        frame = sys._getframe(2)
        while where == "?" and frame is not None:
            if not frame.f_code.co_filename.startswith(torch.__path__[0]):
                where = f"{frame.f_code.co_filename}:{frame.f_lineno}"
            frame = frame.f_back
        self.notes[kind, what, where, self.step] += 1

    def mixed(self):
        """Lines about operations that a real device would refuse."""
        return sorted({f"{what} at {at}" for kind, what, at, _ in self.notes if kind == "MIXED"})

    def waits(self, steps):
        """Lines about waits for the device in these steps."""
        found = [(w, at) for kind, w, at, step in self.notes if kind == "WAIT" and step in steps]
        return sorted({f"{what} at {at}" for what, at in found})

    # -- operations --------------------------------------------------------------------------------
    def operate(self, func, args, kwargs):
        leaves = [t for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)]
        ours = {id(t.value): t for t in leaves if isinstance(t, OnDevice)}
        self.check(func, leaves, args)
        if is_cuda(kwargs.get("device")):
            kwargs = kwargs | {"device": torch.device("cpu")}
        made = func(*tree_map(value, args), **tree_map(value, kwargs))
        aliases = any(r.alias_info and not r.alias_info.is_write for r in func._schema.returns)
        view = aliases and isinstance(leaves[0], OnDevice) and not leaves[0].is_inference()

        def wrap(t):
            if not isinstance(t, torch.Tensor) or isinstance(t, OnDevice):
                return t
            # a view of a tensor that inference mode has not made is none either
            with torch.inference_mode(torch.is_inference_mode_enabled() and not view):
                return ours.get(id(t)) if id(t) in ours else OnDevice(t)

        return tree_map(wrap, made)

    def check(self, func, leaves, args):
        name = func._schema.name.split("::")[1]
        here = [t for t in leaves if not isinstance(t, OnDevice)]
        if name in WAITS or (name == "repeat_interleave" and len(leaves) == 1):
            self.note("WAIT", name)
        if name in INDEX:
            self.check_index(name, *args[:3])
        elif name == "copy_":
            if here and not (len(args) > 2 and args[2]):
                self.note("WAIT", "a copy that blocks")
        elif any(t.dim() for t in here):
            self.note("MIXED", f"{name} with {[tuple(t.shape) for t in here]} of the host")
        elif here and not (torch.Tag.pointwise in func.tags or name in TAKE_NUMBERS):
            self.note("MIXED", f"{name} with a number of the host")

    def check_index(self, name, x, indices, values=None):
        masks = [i for i in indices if i is not None and i.dtype in (torch.bool, torch.uint8)]
        if masks and not (values is not None and values.numel() == 1):
            self.note("WAIT", f"{name} by a mask")
        for i in indices:
            if i is not None and isinstance(x, OnDevice) and not isinstance(i, OnDevice):
                self.note("WAIT", f"{name} by an index of the host")
            if isinstance(i, OnDevice) and not isinstance(x, OnDevice):
                self.note("MIXED", f"{name} of a tensor of the host by an index of the device")
        if values is not None and values.dim() and type(values) is not type(x):
            self.note("MIXED", f"{name} with values of another device")

    # -- what Python is told -----------------------------------------------------------------------
    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs, first = dict(kwargs or {}), args[0] if args else None
        if isinstance(first, OnDevice) and func in ASKED:
            return ASKED[func]
        if (special := SPECIAL.get(func)) and isinstance(first, torch.Tensor):
            return special(self, first, *args[1:], **kwargs)
        self.check_generator(func, args, kwargs)
        kwargs.pop("pin_memory", None)
        if is_cuda(kwargs.get("device")):
            return self.made(func, args, kwargs)
        away = kwargs.get("device") is not None
        if away and isinstance(first, OnDevice) and func.__name__.startswith(("new_", *LIKE)):
            return func(first.value, *args[1:], **kwargs)
        before, on_device = self.within, any(isinstance(t, OnDevice) for t in tree_leaves(args))
        self.within = (before or on_device) and not away
        try:
            return func(*args, **kwargs)
        finally:
            self.within = before

    def made(self, func, args, kwargs):
        """What is made on the device: zeros, random numbers, the tensor of a list."""
        if func in (torch.tensor, torch.as_tensor, torch.asarray):
            if isinstance(args[0], OnDevice):
                return args[0]
            self.note("WAIT", f"torch.{func.__name__} on the device")
        made = func(*args, **kwargs | {"device": torch.device("cpu")})
        return made if isinstance(made, OnDevice) else OnDevice(made.detach(), made.requires_grad)

    def check_generator(self, func, args, kwargs):
        if (generator := kwargs.get("generator")) is None or func is torch.randperm:
            return
        of = any(isinstance(t, OnDevice) for t in tree_leaves(args))
        asked = kwargs.get("device")
        target = "cuda" if is_cuda(asked) or (asked is None and of) else "cpu"
        if getattr(generator, "place", "cpu") != target:
            self.note("MIXED", f"{func.__name__} on {target} by a generator of another device")

    def moved(self, x, *args, **kwargs):
        """Tensor.to: a device, a dtype, both, or another tensor's."""
        device, dtype, blocks = kwargs.get("device"), kwargs.get("dtype"), True
        for arg in args:
            if isinstance(arg, torch.Tensor):
                device, dtype = (DEVICE if isinstance(arg, OnDevice) else "cpu"), arg.dtype
            elif isinstance(arg, torch.dtype):
                dtype = arg
            elif isinstance(arg, bool):
                blocks = not arg
            elif arg is not None:
                device = arg
        blocks = blocks and not kwargs.get("non_blocking", False)
        if device is not None and is_cuda(device) != isinstance(x, OnDevice):
            up = is_cuda(device)
            if blocks or not up:
                self.note("WAIT", f"a copy {'to' if up else 'from'} the device")
            x = self.carried(x, up)
        dtype, form = dtype or x.dtype, kwargs.get("memory_format", torch.preserve_format)
        return x.to(dtype=dtype, memory_format=form, copy=kwargs.get("copy", False))

    def carried(self, x, up):
        if x.requires_grad and torch.is_grad_enabled() and not (up and x.is_leaf):
            return (_Up if up else _Down).apply(x)
        return OnDevice(x.detach().clone(), x.requires_grad) if up else x.value.detach().clone()

    # -- while it is there -------------------------------------------------------------------------
    def __enter__(self):
        global CURRENT
        CURRENT = self
        self.stack = ExitStack()
        for patch in patches(self):
            self.stack.enter_context(patch)
        self.stack.enter_context(_Within())
        return super().__enter__()

    def __exit__(self, *error):
        super().__exit__(*error)
        self.stack.close()


def _listed(device, x):
    if isinstance(x, OnDevice):
        device.note("WAIT", "tolist")
    return value(x).tolist()


def _numpy(device, x, *args, **kwargs):
    if isinstance(x, OnDevice):
        device.note("MIXED", "numpy() of a tensor on the device")
    return value(x).numpy(*args, **kwargs)


def _array(device, x, dtype=None):
    found = _numpy(device, x)
    return found if dtype is None else found.astype(dtype, copy=False)


def _new_tensor(device, x, data, **kwargs):
    if isinstance(x, OnDevice):
        device.note("WAIT", "new_tensor")
        return OnDevice(x.value.new_tensor(data, **kwargs))
    return x.new_tensor(data, **kwargs)


def _set_data(device, x, new):
    if isinstance(x, OnDevice) != isinstance(new, OnDevice):
        device.note("MIXED", ".data of another device")
    if isinstance(x, OnDevice):
        x.value = value(new)
    else:
        x.data = new


ASKED = {
    torch.Tensor.device.__get__: DEVICE,
    torch.Tensor.is_cuda.__get__: True,
    torch.Tensor.is_cpu.__get__: False,
    torch.Tensor.get_device: 0,
}
SPECIAL = {
    torch.Tensor.to: Pretended.moved,
    torch.Tensor.cuda: lambda device, x, *_, **k: device.moved(x, DEVICE, **k),
    torch.Tensor.cpu: lambda device, x, *_, **k: device.moved(x, "cpu", **k),
    torch.Tensor.tolist: _listed,
    torch.Tensor.numpy: _numpy,
    torch.Tensor.__array__: _array,
    torch.Tensor.new_tensor: _new_tensor,
    torch.Tensor.pin_memory: lambda device, x, *_: x,
    torch.Tensor.data.__set__: _set_data,
}


def patches(device):
    """What must say cuda beside tensors, and the steps of Lightning's loop."""
    from lightning.pytorch.loops.training_epoch_loop import _TrainingEpochLoop
    from torch.nn.utils import clip_grad
    from torch.optim import optimizer
    from torch.utils import _foreach_utils

    by_kind, advance = _foreach_utils._group_tensors_by_device_and_dtype, _TrainingEpochLoop.advance

    def grouped(lists, with_indices=False):
        found = {}
        for (place, dtype), group in by_kind(lists, with_indices).items():
            first = next((t for t in group[0][0] if t is not None), None)
            found[DEVICE if isinstance(first, OnDevice) else place, dtype] = group
        return found

    def step(loop, *args):
        device.step, device.count = loop.trainer.global_step, device.count + 1
        try:
            return advance(loop, *args)
        finally:
            device.step = None

    group = "_group_tensors_by_device_and_dtype"
    yield mock.patch.object(clip_grad, group, grouped)
    yield mock.patch.object(optimizer, group, grouped)
    yield mock.patch.object(torch, "Generator", _Generator)
    yield mock.patch.object(torch.cuda, "Event", Event)
    yield mock.patch.object(torch.cuda, "max_memory_allocated", lambda *_: 0)
    yield mock.patch.object(torch.cuda, "mem_get_info", lambda *_: (1 << 36, 1 << 36))
    yield mock.patch.object(_TrainingEpochLoop, "advance", step)
    overwrite = torch.__future__.set_overwrite_module_params_on_conversion
    overwrite(True)
    stack = ExitStack()
    stack.callback(overwrite, False)
    yield stack


def strategy(world=1):
    """Lightning on the pretended device; a `world` of two is one process that knows no other."""
    from lightning.pytorch.accelerators import CPUAccelerator
    from lightning.pytorch.strategies import SingleDeviceStrategy

    class Accelerator(CPUAccelerator):
        def setup_device(self, device):
            pass

    class Strategy(SingleDeviceStrategy):
        world_size = world

    return Strategy(device=DEVICE, accelerator=Accelerator())


def trained(run, world=1):
    """A run trained on the pretended device: its folder, and the device."""
    from ldm.training import machine
    from ldm.training.run import train_run

    here = mock.patch.object(machine, "strategy", lambda run: strategy(world))
    with Pretended() as device, here:
        return train_run(run), device
