"""What holds for every exported loss, asked of all of them: a new one without an entry here fails.

An entry makes the tensors and networks of one call, small, in float32 and on the CPU. The tests
then change their type, their device or what is around the call, and compare the numbers.
"""

from __future__ import annotations

import contextlib
import copy
import importlib
import inspect
import pkgutil
import random
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode

import tlcourse
from tlcourse._modes import evaluating
from tlcourse.adaptation import (
    CCSA,
    DAN,
    DANN,
    DSN,
    RTN,
    DeepCORAL,
    ccsa_loss,
    coral_loss,
    difference_loss,
    entropy_loss,
)
from tlcourse.adaptive import SpotTune, SpotTuneLSTM, SpotTuneResNet, global_k_loss
from tlcourse.continual import (
    LearningWithoutForgetting,
    less_forgetting_loss,
    lwf_old_task_loss,
)
from tlcourse.data import LabelledImages
from tlcourse.distillation import (
    distillation_loss,
    high_temperature_gradient,
    logit_gradient,
    soften,
)
from tlcourse.matching import (
    activation_matching_loss,
    attention_map,
    attention_transfer_loss,
    jacobian_matching_loss,
    sobolev_loss,
)
from tlcourse.models import LSTMClassifier, SmallResNet, WideResNet
from tlcourse.multitask import (
    JointFineTuning,
    Retrieval,
    SelectiveJointFineTuning,
    UncertaintyWeighting,
    classification_nll,
    dense_losses,
    regression_nll,
    remainder,
)

N, D, K = 4, 6, 3


@dataclass
class Call:
    """One call of a loss.

    ``loss(*tensors)`` is the loss; the tensors named ``learn`` (and the students' parameters) get
    gradients, those named ``data`` may, and the others, a teacher's or a recording's, must not.
    """

    loss: Callable[..., Tensor]
    tensors: dict[str, Tensor]
    learn: tuple[str, ...] = ()
    data: tuple[str, ...] = ()
    students: list[nn.Module] = field(default_factory=list)
    teachers: list[nn.Module] = field(default_factory=list)
    draws: bool = False

    def __call__(self) -> Tensor:
        return self.loss(*self.tensors.values())

    @property
    def networks(self) -> list[nn.Module]:
        return [*self.students, *self.teachers]

    def to(self, what: torch.dtype | torch.device | str) -> Call:
        """Return the call with its floating-point tensors and networks of another type or place."""
        both = not isinstance(what, torch.dtype)
        for network in self.networks:
            network.to(what)
        self.tensors = {
            name: t.detach().to(what) if both or t.is_floating_point() else t
            for name, t in self.tensors.items()
        }
        return self

    def asking(self) -> Call:
        """Let everything ask for a gradient that could get one by mistake."""
        for name in self.tensors.keys() - set(self.data):
            self.tensors[name].requires_grad_()
        return self


class Halve(nn.Module):
    """A step that works in place."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mul_(0.5)


class Network(nn.Module):
    """A network that changes its input, whose layers are not all in one mode."""

    def __init__(self, seed: int, n_outputs: int = K) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.backbone = nn.Sequential(
            nn.Flatten(), Halve(), nn.Linear(D, 8), nn.Tanh(), nn.Dropout(0.5).eval()
        )
        self.backbone.n_features = 8
        self.head = nn.Linear(8, n_outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.backbone(x))


class Teacher(Network):
    """One that would drift or draw, were it not in evaluation mode while it is asked."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.head = nn.Sequential(nn.BatchNorm1d(8), nn.Dropout(0.5), self.head)


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


LABELS = torch.tensor([0, 2, 1, 0])
IMAGES = LabelledImages(numbers(9, 1, 2, 3).sigmoid(), torch.arange(9) % 4, tuple("abcd"), "source")


def of_logits(loss: Callable[..., Tensor], **settings: object) -> Call:
    tensors = {"z": numbers(N, K), "v": 3 * numbers(N, K, seed=1)}
    return Call(partial(loss, **settings), tensors, ("z",))


def of_targets(**settings: object) -> Call:
    tensors = {"z": numbers(N, K), "v": numbers(N, K, seed=1), "targets": LABELS}
    return Call(partial(distillation_loss, **settings), tensors, ("z",), ("targets",))


def of_maps(loss: Callable[..., Tensor], **settings: object) -> Call:
    sizes = {"S0": (N, 2, 4, 4), "S1": (N, 3, 2, 2), "T0": (N, 2, 4, 4), "T1": (N, 3, 2, 2)}
    tensors = {name: numbers(*size, seed=i) for i, (name, size) in enumerate(sizes.items())}
    return Call(
        lambda *maps: loss(list(maps[:2]), list(maps[2:]), **settings), tensors, ("S0", "S1")
    )


def of_derivatives(loss: Callable[..., Tensor], draws: bool = False, **settings: object) -> Call:
    student, teacher = Network(0), Teacher(1)
    return Call(
        lambda x: loss(student, teacher, x, **settings), {"x": numbers(N, D)},
        students=[student], teachers=[teacher], draws=draws,
    )  # fmt: skip


def of_tasks() -> Call:
    tasks = ("segmentation", "instances", "depth")
    answers = [numbers(2, c, 4, 4, seed=c) for c in (5, 2, 1)]
    given = [torch.arange(32).view(2, 4, 4) % 5, numbers(2, 2, 4, 4), numbers(2, 1, 4, 4)]
    tensors = dict(zip([*tasks, "classes", "ways", "depths"], [*answers, *given], strict=True))
    return Call(
        lambda *t: torch.stack(dense_losses(t[:3], [torch.empty(0), *t[3:]], tasks)),
        tensors,
        tasks,
        ("classes", "ways", "depths"),
    )


def of_uncertainty() -> Call:
    weighting = UncertaintyWeighting(["regression", "classification"])
    weighting.log_variances.data.copy_(torch.tensor([0.5, -1.0]))
    tensors = {"a": torch.tensor(0.3), "b": torch.tensor([1.5])}
    return Call(lambda *losses: weighting(losses), tensors, ("a", "b"), students=[weighting])


def of_likelihood(loss: Callable[..., Tensor], targets: Tensor) -> Call:
    tensors = {"f": numbers(N, K), "y": targets.clone()}
    return Call(partial(loss, sigma=0.7), tensors, ("f",), ("y",))


def of_forgetting(**settings: float) -> Call:
    lwf = LearningWithoutForgetting(Network(0), **settings)
    lwf.heads.append(nn.Linear(8, K))
    tensors = {"x": numbers(N, D), "y": LABELS, "z": numbers(N, K, seed=1)}
    return Call(lambda *batch: lwf.loss(batch), tensors, (), ("x", "y"), [lwf])


def of_joint() -> Call:
    model = JointFineTuning(Network(0).backbone, IMAGES, K)
    tensors = {"x": numbers(N, 1, 2, 3), "y": LABELS}
    return Call(lambda *batch: model.loss(batch), tensors, (), ("x", "y"), [model], draws=True)


def of_selective() -> Call:
    target = LabelledImages(numbers(N, 1, 2, 3).sigmoid(), LABELS, tuple("abc"), "target")
    found = Retrieval(torch.arange(N)[:, None], torch.zeros(N, 1))
    model = SelectiveJointFineTuning(Network(0).backbone, IMAGES, target, found, start=1)
    tensors = {"x": numbers(N, 1, 2, 3), "y": LABELS}
    return Call(lambda *batch: model.loss(batch), tensors, (), ("x", "y"), [model], draws=True)


def of_decisions() -> Call:
    return Call(partial(global_k_loss, k=2), {"I": numbers(N, D).sigmoid()}, ("I",))


def of_spottune(kind: type[SpotTune], source: Callable[[], nn.Module], *shape: int) -> Call:
    torch.manual_seed(0)
    model = kind.from_pretrained(source(), K)
    tensors = {"x": numbers(N, *shape), "y": LABELS}
    return Call(lambda *batch: model.loss(batch), tensors, (), ("x", "y"), [model], draws=True)


def of_domains(loss: Callable[..., Tensor]) -> Call:
    return Call(
        loss, {"source": numbers(N, D), "target": numbers(N, D, seed=1)}, ("source", "target")
    )


def of_pairs(**settings: object) -> Call:
    tensors = {"source": numbers(N, D), "ys": LABELS, "target": numbers(N, D, seed=1), "yt": LABELS}
    return Call(partial(ccsa_loss, **settings), tensors, ("source", "target"), ("ys", "yt"))


def of_aligned(make: Callable[..., nn.Module], **settings: object) -> Call:
    torch.manual_seed(0)
    model = make(Network(0).backbone, K, IMAGES.images, **settings)
    if isinstance(model, DANN):
        model.step += 1
    tensors = {"x": numbers(N, 1, 2, 3), "y": LABELS}
    return Call(lambda *batch: model.loss(batch), tensors, (), ("x", "y"), [model], draws=True)


def of_separation(**settings: object) -> Call:
    torch.manual_seed(0)
    decoder = nn.Sequential(nn.Linear(8, D), nn.Unflatten(1, (1, 2, 3)))
    private = (Network(1).backbone, Network(2).backbone)
    given = {"private": private, "decoder": decoder, "steps": 4} | settings
    call = of_aligned(partial(DSN, **given))
    call.students[0].step += 1
    return call


def of_few_labels() -> Call:
    torch.manual_seed(0)
    few = LabelledImages(IMAGES.images[:3], torch.arange(3), tuple("abc"), "few")
    model = CCSA(Network(0).backbone, K, few)
    tensors = {"x": numbers(N, 1, 2, 3), "y": LABELS}
    return Call(lambda *batch: model.loss(batch), tensors, (), ("x", "y"), [model], draws=True)


def small_lstm() -> nn.Module:
    return LSTMClassifier(4, n_channels=2, n_steps=5, width=4, n_layers=2)


CALLS: dict[str, list[Callable[[], Call]]] = {
    "distillation_loss": [
        of_targets,
        partial(of_targets, alpha=0.0),
        partial(of_targets, alpha=1.0),
        partial(of_targets, divergence="kl", reduction="none"),
        partial(of_logits, distillation_loss, divergence="kl"),
    ],
    "attention_transfer_loss": [
        partial(of_maps, attention_transfer_loss),
        partial(of_maps, attention_transfer_loss, mode="paper", p=4, beta=1.0),
    ],
    "activation_matching_loss": [
        partial(of_maps, activation_matching_loss),
        partial(of_logits, activation_matching_loss),
    ],
    "jacobian_matching_loss": [
        partial(of_derivatives, jacobian_matching_loss),
        partial(of_derivatives, jacobian_matching_loss, normalize=False),
        partial(of_derivatives, jacobian_matching_loss, draws=True, output="random"),
    ],
    "sobolev_loss": [
        partial(of_derivatives, sobolev_loss, weight=0.5, order=order) for order in (0, 1, 2)
    ],
    "lwf_old_task_loss": [partial(of_logits, lwf_old_task_loss)],
    "less_forgetting_loss": [partial(of_logits, less_forgetting_loss)],
    "LearningWithoutForgetting": [of_forgetting, partial(of_forgetting, old_weight=0.0)],
    "UncertaintyWeighting": [of_uncertainty],
    "dense_losses": [of_tasks],
    "regression_nll": [partial(of_likelihood, regression_nll, numbers(N, K, seed=1))],
    "classification_nll": [partial(of_likelihood, classification_nll, LABELS)],
    "JointFineTuning": [of_joint],
    "SelectiveJointFineTuning": [of_selective],
    "global_k_loss": [of_decisions],
    "SpotTune": [partial(of_spottune, SpotTuneResNet, lambda: WideResNet(10, 1, 4), 3, 8, 8)],
    "SpotTuneResNet": [
        partial(of_spottune, SpotTuneResNet, lambda: SmallResNet(4, width=2), 1, 16, 16)
    ],
    "DAN": [partial(of_aligned, DAN)],
    "DANN": [partial(of_aligned, DANN, steps=4)],
    "DeepCORAL": [partial(of_aligned, DeepCORAL)],
    "RTN": [partial(of_aligned, RTN)],
    "DSN": [of_separation, partial(of_separation, similarity="mmd")],
    "CCSA": [of_few_labels],
    "coral_loss": [partial(of_domains, coral_loss)],
    "difference_loss": [partial(of_domains, difference_loss)],
    "entropy_loss": [lambda: Call(entropy_loss, {"logits": numbers(N, K)}, ("logits",))],
    "ccsa_loss": [partial(of_pairs, margin=9.0), partial(of_pairs, mode="code")],
    "SpotTuneLSTM": [partial(of_spottune, SpotTuneLSTM, small_lstm, 5, 2)],
}


def exported_losses() -> set[str]:
    """Return the names of all losses that a package of the course exports.

    A function is one by its name; a class, by its method ``loss`` or by what it weighs.
    """
    found = set()
    for package in pkgutil.iter_modules(tlcourse.__path__, "tlcourse."):
        if not package.ispkg:
            continue
        module = importlib.import_module(package.name)
        for name in getattr(module, "__all__", ()):
            value = getattr(module, name)
            if inspect.isclass(value):
                weighs = (
                    "forward" in vars(value)
                    and "losses" in inspect.signature(value.forward).parameters
                )
                is_loss = weighs or callable(getattr(value, "loss", None))
            else:
                is_loss = callable(value) and {"loss", "losses", "nll"} & set(name.split("_"))
            found |= {name} if is_loss else set()
    return found


def test_every_exported_loss_has_an_entry_here():
    found = exported_losses()
    assert {"distillation_loss", "dense_losses", "JointFineTuning"} <= found  # or nothing is asked
    assert found == set(CALLS)


each_loss = pytest.mark.parametrize(
    "make",
    [pytest.param(m, id=f"{name}-{i}") for name, ms in CALLS.items() for i, m in enumerate(ms)],
)


def value_of(call: Call) -> Tensor:
    torch.manual_seed(7)  # some draw
    return call()


@each_loss
@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16])
def test_half_precision_is_widened_to_float32(make, half):
    found, call = value_of(make().to(half)), make()
    assert found.dtype == torch.float32
    if call.networks:  # their own layers round
        torch.testing.assert_close(found, value_of(call), rtol=0.1, atol=0.1)
    else:  # the loss does not
        assert torch.equal(found, value_of(call.to(half).to(torch.float32)))


@each_loss
def test_under_autocast_it_is_summed_in_float32(make):
    alone = value_of(make())
    with torch.autocast("cpu", torch.bfloat16):
        found = value_of(make())
    assert found.dtype == torch.float32
    if make().networks:
        torch.testing.assert_close(found, alone, rtol=0.1, atol=0.1)
    else:
        assert torch.equal(found, alone)


@each_loss
def test_a_student_in_half_precision_stands_beside_a_teacher_in_float32(make):
    """As under autocast, with what was recorded before or a teacher outside it."""
    call = make()
    for student in call.students if call.teachers else ():
        student.register_forward_hook(lambda _, inputs, z: z.bfloat16())
    call.tensors |= {name: call.tensors[name].bfloat16() for name in call.learn}
    assert value_of(call).dtype == torch.float32


@each_loss
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_without_gradients_it_is_the_same_number(make, mode):
    expected, call = value_of(make().asking()), make().asking()
    assert expected.requires_grad
    with mode():
        found = value_of(call)
    assert torch.equal(found, expected)
    assert not found.requires_grad


@each_loss
def test_the_student_gets_a_gradient_and_nothing_else(make):
    call = make().asking()
    value_of(call).sum().backward()
    for name, t in call.tensors.items():
        assert name in call.data or (t.grad is not None) == (name in call.learn), name
    learning = [p for student in call.students for p in student.parameters()]
    assert all(call.tensors[name].grad.abs().sum() > 0 for name in call.learn)
    assert not learning or any(p.grad is not None and bool((p.grad != 0).any()) for p in learning)
    assert all(p.grad is None for teacher in call.teachers for p in teacher.parameters())


class Reads(TorchDispatchMode):
    """Count how often a number is read off a tensor: on a GPU, each read waits."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


def test_reads_are_counted():
    with Reads() as reads:
        torch.zeros(1).item()
        bool(torch.zeros(2).sum() == 0)
    assert reads.count == 2


@each_loss
def test_on_a_device_without_values_none_is_read_and_no_cpu_tensor_is_met(make):
    expected, call = value_of(make()), make().to("meta")
    with Reads() as reads:
        found = value_of(call)
    assert reads.count == 0
    assert found.device.type == "meta"
    assert (found.shape, found.dtype) == (expected.shape, expected.dtype)


@each_loss
def test_on_a_gpu_nothing_waits_for_it(make):
    """On a GPU that is none: it has shapes, and no values to read."""
    call = make()
    modules = [module for network in call.networks for module in network.modules()]
    if call.teachers or any(isinstance(module, nn.RNNBase) for module in modules):
        pytest.skip("autograd and cuDNN ask for a real GPU; the meta device stands for it")
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        try:
            mode.from_tensor(torch.zeros(1)).to("cuda")
        except RuntimeError:
            pytest.skip("this PyTorch asks for a driver even here; the meta device stands for it")
        call.tensors = {name: mode.from_tensor(t).to("cuda") for name, t in call.tensors.items()}
        for module in modules:
            for held in (module._parameters, module._buffers):
                for name, t in held.items():
                    held[name] = None if t is None else mode.from_tensor(t).to("cuda")
        with Reads() as reads:
            found = value_of(call)
    assert reads.count == 0
    assert found.device.type == "cuda"


@pytest.mark.parametrize(
    "pure",
    [
        partial(attention_map, p=3),
        lambda x: soften(x.flatten(1), 2.0),
        lambda x: logit_gradient(x.flatten(1), x.flatten(1).flip(0), 2.0),
        lambda x: high_temperature_gradient(x.flatten(1), x.flatten(1).flip(0), 2.0),
        lambda x: remainder(x.flatten(1), 0.8),
    ],
    ids=["attention_map", "soften", "logit_gradient", "high_temperature_gradient", "remainder"],
)
def test_what_the_losses_are_made_of_compiles_as_well(pure):
    x = numbers(N, 2, 3, 3)
    torch._dynamo.reset()
    torch.testing.assert_close(torch.compile(pure, fullgraph=True, backend="eager")(x), pure(x))
    both = torch.stack([x, x.flip(0)])
    torch.testing.assert_close(torch.vmap(pure)(both), torch.stack([pure(x), pure(x.flip(0))]))
    assert pure(x.to("meta")).is_meta


def compiler_traces_context_managers() -> bool:
    def looked_at(x: Tensor) -> Tensor:
        with evaluating(None), sdpa_kernel(SDPBackend.MATH):
            return x + 1

    torch._dynamo.reset()
    try:
        torch.compile(looked_at, fullgraph=True, backend="eager")(torch.zeros(1))
    except torch._dynamo.exc.Unsupported:
        return False
    return True


@each_loss
def test_compiled_whole_it_is_the_same_number_and_has_the_same_gradient(make):
    modules = [module for network in make().networks for module in network.modules()]
    recurrent = any(isinstance(module, nn.RNNBase) for module in modules)
    if (make().teachers or recurrent) and not compiler_traces_context_managers():
        pytest.skip("the compiler of an older PyTorch")
    torch._dynamo.reset()
    gradients = []
    for compiled in (False, True):
        call = make()
        for name in call.learn:
            call.tensors[name].requires_grad_()
        loss = torch.compile(call.loss, fullgraph=True, backend="eager") if compiled else call.loss
        torch.manual_seed(7)
        allowed = torch._dynamo.config.patch(allow_rnn=True) if recurrent else nullcontext()
        with allowed:  # PyTorch's recurrent layers, which its compiler refuses by itself
            found = loss(*call.tensors.values())
        found.sum().backward()
        learning = [p for s in call.students for p in s.parameters()]
        gradients.append(
            [found.detach(), *(call.tensors[n].grad for n in call.learn)]
            + [torch.zeros_like(p) if p.grad is None else p.grad for p in learning]
        )
        assert all(p.grad is None for t in call.teachers for p in t.parameters())
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-6, atol=1e-7)


def surroundings(call: Call) -> list[object]:
    """Return all that a call could leave behind: random state, modes, hooks and flags."""
    cuda, cudnn = torch.backends.cuda, torch.backends.cudnn
    modules = [module for network in call.networks for module in network.modules()]
    return [
        [] if call.draws else torch.get_rng_state().tolist(),
        random.getstate(),
        np.random.get_state()[1].tolist(),
        [module.training for module in modules],
        [
            (len(m._forward_hooks), len(m._forward_pre_hooks), len(m._backward_hooks))
            for m in modules
        ],
        [p.requires_grad for network in call.networks for p in network.parameters()],
        (cudnn.enabled, cudnn.benchmark, cudnn.deterministic),
        (cuda.flash_sdp_enabled(), cuda.mem_efficient_sdp_enabled(), cuda.math_sdp_enabled()),
        (torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.is_autocast_enabled()),
        (torch.get_default_dtype(), torch._C._len_torch_function_stack()),
    ]


@each_loss
def test_modes_hooks_flags_and_random_state_are_as_before(make):
    call = make()
    for module in (m for network in call.networks for m in list(network.modules())[1::2]):
        module.training = not module.training  # no one mode for all
    teachers = [copy.deepcopy(teacher.state_dict()) for teacher in call.teachers]
    before = surroundings(call)
    call()
    assert surroundings(call) == before
    with contextlib.suppress(ValueError, TypeError, RuntimeError):  # and after an error, too
        call.loss(*(t[..., :1] if t.ndim else t for t in call.tensors.values()))
    assert surroundings(call) == before
    for teacher, state in zip(call.teachers, teachers, strict=True):
        assert all(torch.equal(t, state[name]) for name, t in teacher.state_dict().items())


@each_loss
def test_the_callers_tensors_are_unchanged_even_by_a_network_that_works_in_place(make):
    for asking in (False, True):
        call = make().asking() if asking else make()
        before = {name: (t.clone(), t._version) for name, t in call.tensors.items()}
        call()
        for name, t in call.tensors.items():
            assert torch.equal(t, before[name][0]), name
            assert t._version == before[name][1], name
            assert t.requires_grad == (asking and name not in call.data), name


@each_loss
def test_vmap_runs_over_several_at_once(make):
    call = make()
    if call.draws:
        pytest.skip("draws are not those of one call after the other")
    both = [torch.stack([t, t.flip(0) if t.ndim else 2 * t]) for t in call.tensors.values()]
    expected = torch.stack([call.loss(*(t[i] for t in both)) for i in range(2)])
    torch.testing.assert_close(torch.vmap(call.loss)(*both), expected)


# fit reads their sum; at a weight of 0, recorded answers are not looked at.
UNCHECKED = {"dense_losses", "JointFineTuning", "SpotTune", "LearningWithoutForgetting-1"}
UNCHECKED |= {"-DAN-", "-DANN-", "-DeepCORAL-", "-RTN-", "-DSN-", "-CCSA-"}


@each_loss
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_on_a_cpu_every_value_that_is_not_finite_is_an_error(make, value, request):
    """The other side: a look that is free is taken, whether or not the value reaches the loss."""
    if any(name in request.node.callspec.id for name in UNCHECKED):
        return
    names = make().tensors.keys() - set(make().data)
    assert names
    for name in names:
        call = make()
        call.tensors[name].view(-1)[-1] = value  # of the last sample
        with pytest.raises(ValueError, match=r"contains (NaN|infinite values)|is (nan|-?inf)\b"):
            call()
