"""An engine to call with tensors, on TensorRT 10.x and 11.x."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType

from torch import Tensor

from mcomp.deploy.checked_arguments import checked_path
from mcomp.deploy.tensorrt.api import load_tensorrt, make, version_of
from mcomp.deploy.tensorrt.devices import Buffer, Buffers, Device, open_device
from mcomp.deploy.tensorrt.info import BUILD_AGAIN, checked_plan, read_info
from mcomp.deploy.tensorrt.messages import Messages
from mcomp.deploy.tensorrt.protocols import CudaEngine, ExecutionContext, TensorRT
from mcomp.deploy.tensorrt.shapes import FREE, ShapeRange
from mcomp.deploy.tensorrt.tensor_types import dtype_name, torch_type
from mcomp.errors import StageError


class Engine:
    """An engine: ``engine(images)`` gives the output, or a tuple of all outputs where there are several.

    Answers of the buffers ``torch`` are on the GPU, those of ``pycuda`` in main memory. One call at a time; the GPU's
    memory is given back by :meth:`close`, or at the end of a ``with``.

    Args:
        plan_path: as written by :func:`~mcomp.deploy.tensorrt.build_engine`, with its ``.json`` beside it.
        buffers: whose memory the tensors live in, ``torch`` or ``pycuda``.
        onnx_path: the file that it is to have been built from; not looked at when left out.
        device: in place of the one that ``buffers`` names.

    Attributes:
        info: what the engine is valid for.
        inputs: their names, in the order of a call.
        outputs: their names, in the order of an answer.

    Raises:
        UsageError: a path is none (MC445).
        BackendMissingError: TensorRT, a GPU or pycuda is missing (MC611).
        StageError: the plan belongs to another TensorRT, GPU or file, or is damaged (MC440).
    """

    def __init__(
        self,
        plan_path: str | Path,
        buffers: Buffers = "torch",
        *,
        onnx_path: str | Path | None = None,
        device: Device | None = None,
    ) -> None:
        plan_path = checked_path(plan_path, "the engine")
        source = None if onnx_path is None else checked_path(onnx_path, "the ONNX file")
        trt = load_tensorrt()
        self.info = read_info(plan_path)
        self._device = device or open_device(buffers)
        self._messages = Messages(trt)
        try:
            plan = checked_plan(plan_path, self.info, version_of(trt), self._device.name, source)
            self._load(trt, plan, plan_path.name)
        except BaseException:
            self._device.close()
            raise

    def _load(self, trt: TensorRT, plan: bytes, called: str) -> None:
        with self._device.current():
            self._runtime = make(trt.Runtime, self._messages.logger)  # must outlive the engine
            engine: CudaEngine | None = self._runtime.deserialize_cuda_engine(plan)
            context = engine.create_execution_context() if engine is not None else None
        if engine is None or context is None:
            what = "cannot be read" if engine is None else "has no memory to run in"
            raise self._refused(f"engine `{called}` {what}", "MC440", BUILD_AGAIN)
        self._engine: CudaEngine | None = engine
        self._context: ExecutionContext | None = context
        names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        self.inputs = [name for name in names if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT]
        self.outputs = [name for name in names if name not in self.inputs]
        self._dtypes = {name: torch_type(trt, name, engine.get_tensor_dtype(name)) for name in names}
        self._shapes = {name: tuple(engine.get_tensor_shape(name)) for name in self.inputs}
        self._ranges = {name: ShapeRange(**entry) for name, entry in self.info.shapes.items()}

    def __call__(self, *tensors: Tensor) -> Tensor | tuple[Tensor, ...]:
        """One batch within the engine's ranges of shapes; floats are converted to the engine's type of float.

        Raises:
            StageError: MC441, an input is missing, of another type or outside its range, the launch failed, or the
                engine is closed.
        """
        answers = self.run(*tensors)
        return answers[0] if len(answers) == 1 else answers

    def run(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Like a call; always a tuple."""
        context = self._opened()
        self._check(tensors)
        device, held = self._device, dict[str, Buffer]()
        with device.current():
            for name, tensor in zip(self.inputs, tensors, strict=True):
                held[name] = device.put(tensor, self._dtypes[name])
                if not context.set_input_shape(name, tuple(tensor.shape)):
                    raise self._outside(name, tensor)
            self._infer_shapes(context)
            for name in self.outputs:
                held[name] = device.room(self._output_shape(context, name), self._dtypes[name])
            for name, buffer in held.items():
                if not context.set_tensor_address(name, buffer.address):
                    raise self._refused(f"TensorRT refuses the memory of `{name}`", "MC441", "report this")
            if not context.execute_async_v3(device.ready_stream()):
                raise self._refused("TensorRT could not start the engine", "MC441", BUILD_AGAIN)
            try:
                return tuple(device.fetch(held[name]) for name in self.outputs)
            finally:
                device.synchronise()  # the buffers must live until here

    def close(self) -> None:
        """Give the GPU's memory back; a second time does nothing."""
        if self._engine is None:
            return
        with self._device.current():
            self._context = None  # in this order: each lives in the next one
            self._engine = None
            self._runtime = None
        self._device.close()

    def __enter__(self) -> Engine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _opened(self) -> ExecutionContext:
        if self._context is None:
            raise StageError("the engine is closed", code="MC441", hint="open it again: `Engine(plan_path)`")
        return self._context

    def _check(self, tensors: tuple[Tensor, ...]) -> None:
        """Refuse in words what TensorRT would refuse with False, or take for something else."""
        if len(tensors) != len(self.inputs):
            raise StageError(
                f"the engine takes {len(self.inputs)} inputs and was given {len(tensors)}",
                code="MC441",
                hint=f"in this order: {', '.join(self.inputs)}",
            )
        for name, tensor in zip(self.inputs, tensors, strict=True):
            wanted, shape = self._dtypes[name], self._shapes[name]
            if not (tensor.dtype == wanted or (tensor.is_floating_point() and wanted.is_floating_point)):
                raise StageError(
                    f"the engine's input `{name}` is {dtype_name(wanted)}, and was given {dtype_name(tensor.dtype)}",
                    code="MC441",
                    hint=f"convert it: `tensor.to(torch.{dtype_name(wanted)})`",
                )
            fixed = len(shape) == tensor.ndim and all(
                size in (FREE, given) for size, given in zip(shape, tensor.shape, strict=True)
            )
            if not fixed or (name in self._ranges and not self._ranges[name].takes(tensor.shape)):
                raise self._outside(name, tensor)

    def _outside(self, name: str, tensor: Tensor) -> StageError:
        takes = f"shapes {self._ranges[name]}" if name in self._ranges else f"the shape {list(self._shapes[name])}"
        return StageError(
            f"the engine takes no `{name}` of shape {list(tensor.shape)}",
            code="MC441",
            why=f"it was built for {takes}",
            hint="stay within them, or build the engine with others",
        )

    def _infer_shapes(self, context: ExecutionContext) -> None:
        try:
            missing = context.infer_shapes()
        except RuntimeError as error:
            raise self._refused(f"TensorRT finds no shapes for these inputs: {error}", "MC441", "check them") from error
        if missing:
            raise StageError(f"the engine still waits for {', '.join(missing)}", code="MC441", hint="give all inputs")

    def _output_shape(self, context: ExecutionContext, name: str) -> tuple[int, ...]:
        shape = tuple(context.get_tensor_shape(name))
        if FREE in shape:
            raise StageError(
                f"the shape of output `{name}` is known only after a run: {list(shape)}",
                code="MC441",
                hint="leave such an operation (NonZero, NMS …) out of the network, and do it afterwards",
            )
        return shape

    def _refused(self, message: str, code: str, hint: str) -> StageError:
        return StageError(message, code=code, why=self._messages.why("TensorRT said nothing more"), hint=hint)
