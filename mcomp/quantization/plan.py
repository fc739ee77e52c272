"""Which layers and tensors are quantised, at how many bits, and why the others stay float. Nothing is changed here."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass, field
from typing import Any

from torch import fx, nn

from mcomp.quantization.aliases import in_place, overwritten, seen_elsewhere
from mcomp.quantization.config import QuantizeConfig
from mcomp.quantization.dataflow import call_name, is_relu, moves_values, source
from mcomp.quantization.detours import Detour
from mcomp.quantization.layer_choice import Choice, Layer, check_patterns, choose, ends_left_float, layers_in_order
from mcomp.quantization.layers import QUANTIZED
from mcomp.quantization.operands import ATTENTION, constant, layer_inputs, operand, signature
from mcomp.quantization.out_of_sight import WEIGHTED, out_of_sight
from mcomp.quantization.parameter_plan import ParameterPlan, plan_parameter
from mcomp.quantization.quantizer_factory import scales_inputs
from mcomp.quantization.recurrent import QUANTIZED_RECURRENT
from mcomp.quantization.signs import nonnegative_nodes


@dataclass
class TensorPlan:
    """One tensor to quantise, made by ``node``, as ``choice`` says.

    Attributes:
        readers: the layers that asked for it.
        asked: what each of them asked for.
        floats: readers that are to stay float, input included.
        written: those of them that read the quantised tensor all the same, for it is overwritten in place.
    """

    node: fx.Node
    choice: Choice
    nonnegative: bool
    readers: list[str] = field(default_factory=list)
    asked: dict[str, Choice] = field(default_factory=dict)
    floats: list[Detour] = field(default_factory=list)
    written: list[str] = field(default_factory=list)

    @property
    def overruled(self) -> tuple[str, ...]:
        """Requests that another reader of the same tensor overruled: it has one grid."""

        def grid(choice: Choice) -> tuple[Any, ...]:
            return choice.scheme, choice.bits, dict(choice.options)

        lost = {name: choice for name, choice in self.asked.items() if grid(choice) != grid(self.choice)}
        return (
            *(f"`{name}` asked for {choice.bits} bits by {choice.scheme}" for name, choice in lost.items()),
            *(f"`{name}` asked for a float input, which is overwritten in place" for name in self.written),
        )


@dataclass
class LayerPlan:
    """One layer or call by name: where it is called, and what its weights and the tensors it reads get."""

    name: str
    nodes: list[fx.Node]
    weights: Choice
    activations: Choice


@dataclass
class Plan:
    """What becomes quantised.

    Attributes:
        layers: that are modules, in graph order.
        parameters: weights that functions read.
        attentions: calls of scaled dot-product attention.
        tensors: activations, in graph order.
        passed: past ReLUs that layers with an input scale apply: their own quantiser reads what comes before.
        float_layers: layers that stay float, and why.
    """

    layers: list[LayerPlan] = field(default_factory=list)
    parameters: list[ParameterPlan] = field(default_factory=list)
    attentions: list[LayerPlan] = field(default_factory=list)
    tensors: list[TensorPlan] = field(default_factory=list)
    passed: list[Detour] = field(default_factory=list)
    float_layers: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class _FloatRead:
    """What a float layer reads, and whether its input was ``asked`` to be float too."""

    layer: str
    reader: fx.Node
    argument: fx.Node
    asked: bool


def make_plan(traced: fx.GraphModule, model: nn.Module, config: QuantizeConfig) -> Plan:
    """Decide for every layer. ``model`` is the module the graph came from, to name layers the graph cannot show.

    Raises:
        StageError: a pattern matches no layer.
    """
    return _Planner(traced, model, config).plan()


class _Planner:
    def __init__(self, traced: fx.GraphModule, model: nn.Module, config: QuantizeConfig) -> None:
        self.traced, self.model, self.config = traced, model, config
        self.modules: dict[str, nn.Module] = dict(traced.named_modules(remove_duplicate=False))
        self.nonnegative = nonnegative_nodes(traced.graph, self.modules)
        self.tensors: dict[fx.Node, TensorPlan] = {}
        self.made = Plan()
        self.floats: list[_FloatRead] = []

    def plan(self) -> Plan:
        calls = self._layer_calls()
        functions = self._function_calls(calls)
        order = {node: place for place, node in enumerate(self.traced.graph.nodes)}
        weighted = {**calls, **{name: nodes for name, nodes in functions.items() if self._weight(nodes[0]) is not None}}
        kinds = {name: type(self.modules[name]).__name__ for name in calls}
        kinds |= {name: call_name(nodes[0]) for name, nodes in functions.items()}
        layers = layers_in_order(kinds, sorted(weighted, key=lambda name: order[weighted[name][0]]))
        check_patterns([*self.config.skip, *self.config.overrides], layers)
        read: dict[str, str] = {}
        for name, nodes in {**calls, **functions}.items():
            layer = self.modules[name] if name in calls else None
            reason = why_float(layers[name], layer, self.config)
            self._leave_input(nodes, layer, layers[name], reason)
            if reason:
                self.made.float_layers[name] = reason
            elif layer is not None:
                self._plan_layer(LayerPlan(name, nodes, *choose(self.config, layers[name])), layer)
            else:
                self._plan_function(LayerPlan(name, nodes, *choose(self.config, layers[name])))
            for node in nodes:
                weight = self._weight(node)
                for path in weight.paths(self.modules) if weight is not None else ():
                    read[path] = name
        self.made.float_layers.update(out_of_sight(self.model, self.traced, read))
        for reading in self.floats:
            self._read_float(reading)
        self.made.tensors = sorted(self.tensors.values(), key=lambda tensor: order[tensor.node])
        return self.made

    def _layer_calls(self) -> dict[str, list[fx.Node]]:
        calls: dict[str, list[fx.Node]] = {}
        for node in self.traced.graph.nodes:
            if node.op == "call_module" and isinstance(self.modules[node.target], WEIGHTED):
                calls.setdefault(node.target, []).append(node)
        return calls

    def _function_calls(self, layers: Container[str]) -> dict[str, list[fx.Node]]:
        """Functions that multiply, by the name of their weight (whole where a layer has it too) or of their node."""
        calls: dict[str, list[fx.Node]] = {}
        for node in self.traced.graph.nodes:
            if signature(node) is not None:
                weight = self._weight(node)
                name = node.name if weight is None else weight.path if weight.name in layers else weight.name
                calls.setdefault(name, []).append(node)
        return calls

    def _weight(self, node: fx.Node) -> ParameterPlan | None:
        """The weight among the operands of a call, or None."""
        found = signature(node)
        if found is None:
            return None
        if found.weight is not None:
            weight = operand(node, found.weight)
            if isinstance(weight, fx.Node) and constant(weight):
                return plan_parameter(weight, found.axis, self.traced, self.modules)
            return None
        if call_name(node) == ATTENTION:
            return None
        for index, place in enumerate(found.inputs):
            each = operand(node, place)
            if isinstance(each, fx.Node) and constant(each):
                return plan_parameter(each, -1 if index else -2, self.traced, self.modules)
        return None

    def _plan_layer(self, plan: LayerPlan, layer: nn.Module) -> None:
        if plan.weights.off:
            reading = not plan.activations.off and not isinstance(layer, (nn.Embedding, nn.EmbeddingBag))
            more = f"; its input is quantised to {plan.activations.bits} bits" if reading else ""
            self.made.float_layers[plan.name] = f"{plan.weights.why_off}{more}"
        self.made.layers.append(plan)
        if scales_inputs(layer, plan.activations) and not plan.weights.off:  # it reads the tensor itself, for its size
            reads = [
                Detour(node, each, source(each, self.modules))
                for node in plan.nodes
                for each in layer_inputs(node, layer)
            ]
            if all(self._passable(read.origin) for read in reads):
                self.made.passed += reads
            return
        for node in () if plan.activations.off else plan.nodes:
            for each in layer_inputs(node, layer):
                self._read(source(each, self.modules), plan)

    def _passable(self, node: fx.Node) -> bool:
        return is_relu(node, self.modules) and not (in_place(node, self.modules) and seen_elsewhere(node, self.modules))

    def _plan_function(self, plan: LayerPlan) -> None:
        weight = self._weight(plan.nodes[0])
        if weight is not None and not plan.weights.off:
            weight.choice = plan.weights
            self.made.parameters.append(weight)
        elif weight is not None:
            self.made.float_layers[plan.name] = plan.weights.why_off
        for node in plan.nodes:
            found = signature(node)
            assert found is not None
            if call_name(node) == ATTENTION and not plan.activations.off:
                self.made.attentions.append(LayerPlan(plan.name, [node], plan.weights, plan.activations))
            operands = [*found.inputs, *([found.weight] if found.weight else [])]
            for each in () if plan.activations.off else (operand(node, place) for place in operands):
                if isinstance(each, fx.Node) and not constant(each):
                    # beside a weight the whole tensor is one operand; of a product, each part has a grid of its own
                    self._read(source(each, self.modules, whole=found.weight is not None), plan)

    def _leave_input(self, nodes: list[fx.Node], module: nn.Module | None, layer: Layer, reason: str) -> None:
        """Note what a layer reads that stays float, though others may quantise the tensor."""
        skipped = any(layer.matches(pattern) for pattern in self.config.skip)
        asked = skipped or choose(self.config, layer)[1].off
        if not asked and not reason:
            return
        for node in nodes:
            found = signature(node)
            reads = layer_inputs(node, module) if module is not None else []
            if module is None and found is not None:
                places = [*found.inputs, *([found.weight] if found.weight else [])]
                reads = [each for place in places if isinstance(each := operand(node, place), fx.Node)]
            self.floats += [_FloatRead(layer.name, node, each, asked) for each in reads]

    def _read_float(self, read: _FloatRead) -> None:
        origin = read.argument
        while origin not in self.tensors:
            if not moves_values(origin, self.modules) or not origin.all_input_nodes:
                return
            origin = origin.all_input_nodes[0]
        tensor = self.tensors[origin]
        if not read.asked:
            self.made.float_layers[read.layer] += f"; its input is quantised, as `{tensor.readers[0]}` reads it too"
        elif overwritten(origin, self.modules):  # what is written there is written to the quantised tensor alone
            tensor.written.append(read.layer)
        else:
            tensor.floats.append(Detour(read.reader, read.argument, origin))

    def _read(self, made_by: fx.Node, plan: LayerPlan) -> None:
        if made_by not in self.tensors:
            self.tensors[made_by] = TensorPlan(made_by, plan.activations, self.nonnegative[made_by])
        tensor = self.tensors[made_by]
        tensor.asked[plan.name] = plan.activations
        if plan.activations.bits > tensor.choice.bits:  # one grid per tensor: the finest that a reader asks for
            tensor.choice = plan.activations
        if plan.name not in tensor.readers:
            tensor.readers.append(plan.name)


def convertible(layer: nn.Module) -> bool:
    """Whether there is a quantised layer of this very class."""
    return type(layer) in QUANTIZED or type(layer) in QUANTIZED_RECURRENT or type(layer) is nn.MultiheadAttention


def why_float(layer: Layer, module: nn.Module | None, config: QuantizeConfig) -> str:
    """Why a layer (``module`` None: a function) stays float, or nothing."""
    pattern = next((pattern for pattern in config.skip if layer.matches(pattern)), None)
    if pattern is not None:
        return f"skip `{pattern}`"
    if module is not None and not convertible(module):
        return f"{type(module).__name__} is not supported"
    end = ends_left_float(config, layer)
    if end and not any(layer.matches(pattern) for pattern in config.overrides):
        return end
    if module is not None and (module._forward_hooks or module._forward_pre_hooks):
        return "it has forward hooks"
    return ""
