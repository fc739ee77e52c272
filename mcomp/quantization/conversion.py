"""Put quantisers into a copy of a model: quantised layers, and one activation quantiser per tensor."""

from __future__ import annotations

import copy
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx, nn

from mcomp import surgery
from mcomp.errors import StageError, plural
from mcomp.quantization.aliases import in_place, is_free_relu, seen_elsewhere
from mcomp.quantization.bypass import STANDS_FOR
from mcomp.quantization.calibration import calibrate
from mcomp.quantization.config import OFF, QuantizeConfig, Route
from mcomp.quantization.dataflow import is_relu
from mcomp.quantization.detours import Detour, Detours, relu_kind, write_elsewhere
from mcomp.quantization.folded_training import fold_in_training, refuse_without_graph
from mcomp.quantization.folding_norms import refuse_synchronised
from mcomp.quantization.function_calls import insert_attention, insert_parameter
from mcomp.quantization.hidden_relus import drop_relus, hidden_relus
from mcomp.quantization.inputs import Batch, check_model, example_tuple
from mcomp.quantization.kept_weight import QuantizedWeight
from mcomp.quantization.modules import replace_module
from mcomp.quantization.operands import FUNCTIONS
from mcomp.quantization.plan import TensorPlan, make_plan
from mcomp.quantization.proof import prove_float
from mcomp.quantization.quantizer_factory import QuantizerFactory, name_quantizers
from mcomp.quantization.quantizers.dorefa import MICRONET_GAIN
from mcomp.quantization.restoration import remember_float
from mcomp.quantization.routes import see
from mcomp.quantization.scheme_checks import find_scheme
from mcomp.quantization.summary import float_layers, quantising_modules
from mcomp.quantization.swapping import Run, swap, watch
from mcomp.quantization.tracing import TracedModel

#: Where activation quantisers live in the converted model: ``activation_quantizers.<node>``.
HOME = "activation_quantizers"


def quantize(
    model: nn.Module,
    example_inputs: tuple[Tensor, ...],
    *,
    scheme: str = "dorefa",
    a_scheme: str | None = None,
    w_bits: int | None = None,
    a_bits: int | None = None,
    levels: int = 255,
    skip: Sequence[str] = (),
    first_layer_float: bool | None = None,
    last_layer_float: bool | None = None,
    overrides: Mapping[str, Mapping[str, Any]] | None = None,
    per_channel: bool | None = None,
    calibration: Iterable[Batch] | None = None,
    route: Route = "auto",
    **options: Any,
) -> nn.Module:
    """A copy of ``model`` that computes with quantised weights and activations, ready for training.

    Convolutions and linear layers read their weight through a quantiser. Every tensor that feeds one gets a
    single activation quantiser where its values are made (behind the ReLU, in front of pools, flattens and
    channel shuffles, which commute with it); everything that reads the tensor reads the quantised one, but layers of
    ``skip`` and of ``a_bits`` 32. A tensor has one grid: the finest that a reader asks for.
    Batch norms stay; :func:`mcomp.quantization.fold_batch_norms` folds them afterwards.

    Args:
        model: any module; not changed.
        example_inputs: one batch (a tuple, or one tensor), run once to prove that the graph computes the same.
        scheme: ``dorefa``, ``iao``, ``lsq``, ``lsq_plus``, ``pact``, ``ristretto`` or ``wbwtab``; see
            :mod:`mcomp.quantization.schemes`.
        a_scheme: of activations, where it is another one.
        w_bits: 2..16, or 32 for float weights; 8 when left out. ``wbwtab``: 1 binary (when left out), 2 ternary.
        a_bits: likewise of activations; ``wbwtab``: 1.
        levels: largest level of unsigned 8-bit activations: 255, or 127 for engines without unsigned INT8.
        skip: patterns of layers that stay float, input included: a name (``fnmatch``), ``type:Linear`` (a class or a
            function), ``position:first`` or ``position:last``.
        first_layer_float: keep the first layer float, and its input unless others read it (``dorefa``, ``wbwtab``).
        last_layer_float: likewise the last layer (``wbwtab``).
        overrides: pattern to what differs there: ``w_bits``, ``a_bits``, ``scheme`` and ``a_scheme`` (``float`` for
            none), ``per_channel`` and options of the scheme; the first pattern that matches counts. A scheme of its
            own starts from that scheme's defaults. :func:`mcomp.quantization.read_overrides` takes them from a file.
        per_channel: one weight scale per output channel (``dorefa`` int_exact, ``iao``, ``pact``).
        calibration: batches to set activation ranges with; see :func:`mcomp.quantization.calibrate`.
        route: ``symbolic`` takes the graph of ``torch.fx``, which keeps every module; ``export`` that of
            ``torch.export``, which sees through more code; ``modules`` none: each layer is swapped for a quantised one
            with a quantiser of its own for what it reads. ``auto`` takes the one that converts most.
        options: of the scheme: ``variant`` and ``tanh`` (dorefa), ``symmetric_weights``, ``symmetric_activations`` and
            ``observer``, ``fold_bn`` (``batch`` or ``correction``: train weights as folded with their batch norm) and
            ``freeze_bn_after`` (iao, ristretto), ``overflow`` (ristretto), ``ste`` and ``codes`` (wbwtab).

    Returns:
        A graph module (by ``modules``: a copy of the model), with the surgery recorded. Uncalibrated ranges are set
        by the first training batch.

    Raises:
        StageError: the route that was asked for does not work (the user's line is named), the model is quantised
            already, a pattern matches no layer, the outcome with its quantisers at rest is not the float model, or
            it is the float model though fewer than 32 bits were asked for (MC460).
        UsageError: options have values that do not exist; MC429, the model does not take the example inputs.
    """
    ends = {"first_layer_float": first_layer_float, "last_layer_float": last_layer_float}
    config = QuantizeConfig.of(
        (scheme, a_scheme), (w_bits, a_bits), levels, skip, ends, overrides, per_channel, options, route
    )
    converted = _converted(model, example_inputs, config)
    remember_float(converted, model)
    if calibration is not None:
        calibrate(converted, calibration)
    return converted


def _converted(model: nn.Module, example_inputs: tuple[Tensor, ...], config: QuantizeConfig) -> nn.Module:
    check_model(model)
    inputs = example_tuple(example_inputs)
    made = _converted_by(model, inputs, config)
    if not quantising_modules(made) and not (config.w_bits == OFF and config.a_bits == OFF):
        raise _untouched(made)
    return made


def _converted_by(model: nn.Module, example_inputs: tuple[Tensor, ...], config: QuantizeConfig) -> nn.Module:
    _refuse_quantised(model)
    if isinstance(model, (nn.RNNBase, nn.RNNCellBase, nn.MultiheadAttention)):
        raise StageError(
            f"the model is a single `{type(model).__name__}`: nothing calls it",
            code="MC420",
            hint="put it into a module that calls it, e.g. `torch.nn.Sequential`",
        )
    seen = see(model, example_inputs, config)
    config = replace(config, route=seen.route)
    if seen.traced is not None:
        return convert(model, seen.traced, config, seen.why, example_inputs)
    refuse_without_graph(config)
    made = convert_modules(copy.deepcopy(model), config, watch(model, example_inputs), seen.why)
    prove_float(model, made, example_inputs)
    return made


def convert(
    model: nn.Module,
    traced: TracedModel,
    config: QuantizeConfig,
    why_route: str = "",
    example_inputs: tuple[Tensor, ...] | None = None,
) -> TracedModel:
    """The structural half of :func:`quantize`, run on ``traced``, the graph of ``model`` or of its copy.

    With ``example_inputs`` the outcome is proven to be ``model`` with quantisers in it.

    Raises:
        StageError: MC420, it is not.
    """
    plan = make_plan(traced, model, config)
    make = QuantizerFactory(config, traced)
    for layer in plan.layers:
        made = make.layer(traced.get_submodule(layer.name), layer.weights, layer.activations)
        if made is not None:
            _read_often(made, len(layer.nodes) > 1)
            replace_module(traced, layer.name, made)
    fold_in_training(traced, plan.layers)
    refuse_synchronised(traced)
    for weight in plan.parameters:
        insert_parameter(traced, weight, make)
    _pass_relus(traced, plan.passed)
    beyond = [step for tensor in plan.tensors for step in _insert(traced, tensor, make)]
    for attention in plan.attentions:  # last, for a tensor may be made by one
        insert_attention(traced, attention.nodes[0], make.activation(attention.activations, True))
    name_quantizers(traced)
    if example_inputs is not None:
        traced.graph.lint()
        traced.recompile()
        prove_float(model, traced, example_inputs)
    for step in beyond:
        step()
    traced.graph.lint()
    traced.recompile()
    surgery.inherit(traced, model)
    _record(traced, config, plan.float_layers, why_route)
    return traced


def convert_modules(model: nn.Module, config: QuantizeConfig, run: Run, why_route: str = "") -> nn.Module:
    """The same module by module, on ``model`` itself."""
    floats = swap(model, config, run.layers)
    for place, count in run.functions.items():
        floats[place] = f"a function that no graph shows, called {count} times"
    name_quantizers(model)
    _record(model, config, floats, why_route, reached=run.layers)
    return model


def _record(
    model: nn.Module, config: QuantizeConfig, float_layers: dict[str, str], why_route: str, **more: Any
) -> None:
    """What :mod:`mcomp.quantization.replays` repeats; a graph of ``torch.export`` is that of one version of torch."""
    if config.route == "export":
        more["torch"] = str(torch.__version__)
    if why_route:
        more["why_route"] = why_route
    surgery.record(model, "quantize", **asdict(config), float_layers=float_layers, **more)


def _refuse_quantised(model: nn.Module) -> None:
    found = quantising_modules(model)
    if found:
        raise StageError(
            f"the model is quantised already, at `{found[0]}`",
            code="MC422",
            hint="start from the float model that it was made of: `mcomp.quantization.restore_float(model)`",
        )


def _untouched(converted: nn.Module) -> StageError:
    """The refusal of an outcome that is the float network."""
    floats = float_layers(converted)
    if not floats:
        return StageError(
            "nothing in the model can be quantised",
            code="MC460",
            why="no layer with weights (convolution, linear, embedding, recurrent, attention) and no function that "
            f"multiplies ({', '.join(sorted(FUNCTIONS))}) was found",
            hint="pass the network itself, not a part without weights",
        )
    name, why = next(iter(floats.items()))
    return StageError(
        "nothing in the model would be quantised",
        code="MC460",
        why=f"of {plural(len(floats), 'layer')} every one stays float, `{name}` because: {why}",
        hint="narrow `skip` and `overrides`, or set `first_layer_float` or `last_layer_float` to false",
    )


def _pass_relus(traced: TracedModel, passed: list[Detour]) -> None:
    """Let layers that apply the ReLU themselves read what comes before it; whoever else reads the ReLU goes on."""
    modules, detours = dict(traced.named_modules(remove_duplicate=False)), Detours()
    for detour in passed:
        stand_in = getattr(modules[str(detour.reader.target)], "input_quantizer", None)
        if stand_in is not None:
            stand_in.__dict__[STANDS_FOR] = relu_kind(detour.origin, modules)
        detours.take(detour, detour.origin.all_input_nodes[0])
    for relu in dict.fromkeys(detour.origin for detour in passed):
        if relu.users:
            write_elsewhere(relu, modules)
        else:
            traced.graph.erase_node(relu)


def _insert(traced: TracedModel, tensor: TensorPlan, make: QuantizerFactory) -> list[Callable[[], Any]]:
    """Place a quantiser behind the node and let all its readers read the quantised tensor.

    Returns:
        What the scheme wants done beside, which makes another function of the network.
    """
    beyond: list[Callable[[], Any]] = []
    node = tensor.node
    scheme = find_scheme(tensor.choice.scheme)
    quantizer = make.activation(tensor.choice, tensor.nonnegative)
    path = f"{HOME}.{node.name}"
    quantizer.__dict__.update(readers=tuple(tensor.readers), overruled=tensor.overruled)
    traced.add_submodule(path, quantizer)
    last = node
    if node.op == "placeholder":  # arguments come first in a graph
        last = [each for each in traced.graph.nodes if each.op == "placeholder"][-1]
    modules = dict(traced.named_modules(remove_duplicate=False))
    if scheme.replaces_relu:
        replaced = is_relu(node, modules) and not (in_place(node, modules) and seen_elsewhere(node, modules))
        if not replaced and tensor.nonnegative and not tensor.floats:
            beyond.append(partial(drop_relus, hidden_relus(traced, node)))
    else:  # the older formula scales between the ReLU and the quantiser
        scaled_before = tensor.choice.options.get("variant") == "micronet"
        free = not scaled_before and not tensor.floats and is_free_relu(node, modules)
        replaced = free and quantizer.take_relu()
    with traced.graph.inserting_after(last):
        quantised = traced.graph.call_module(path, (node.all_input_nodes[0] if replaced else node,))
    node.replace_all_uses_with(quantised, delete_user_cb=lambda user: user is not quantised)
    if replaced:
        quantizer.__dict__[STANDS_FOR] = relu_kind(node, modules)
    detours = Detours()
    for read in tensor.floats:
        argument = quantised if read.argument is node else read.argument
        detours.take(Detour(read.reader, argument, quantised), node)
    if replaced and not node.users:
        traced.graph.erase_node(node)
    elif replaced:
        write_elsewhere(node, modules)
    if tensor.choice.options.get("variant") == "micronet":
        beyond.append(partial(_scale_before, quantised))
    return beyond


def _scale_before(quantised: fx.Node) -> None:
    with quantised.graph.inserting_before(quantised):
        scaled = quantised.graph.call_function(operator.mul, (quantised.args[0], MICRONET_GAIN))
    quantised.args = (scaled,)


def _read_often(layer: nn.Module, often: bool) -> None:
    for module in layer.modules():
        if isinstance(module, QuantizedWeight):
            module.read_often = often
