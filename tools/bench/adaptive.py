"""SpotTune on LSTM layers: the price of an evaluation."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING

from bench.timing import Case, Row, alternate, one_thread

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch


@one_thread()
def spottune_evaluation() -> list[Row]:
    """Time a routed evaluation, agent included, against the plain net and against both paths.

    Each window takes the tuned or the frozen copy of each layer with even odds, which is the worst
    case for routing. All compute the same network: where every decision is 1, their answers agree.
    """
    import torch

    from tlcourse.adaptive import SpotTuneLSTM
    from tlcourse.models import LSTMClassifier

    batch, rows = 256, []
    for width in (48, 64):
        torch.manual_seed(0)
        plain = LSTMClassifier(6, width=width).eval()
        routed = SpotTuneLSTM.from_pretrained(plain, 6).eval()
        routed.head.load_state_dict(plain.head.state_dict())
        x = torch.randn(batch, 125, 6)
        even = (torch.rand(batch, routed.n_decisions) < 0.5).float()

        def evaluate(answer: Callable[[], torch.Tensor]) -> Callable[[], torch.Tensor]:
            return torch.no_grad()(answer)

        def with_agent(
            model: SpotTuneLSTM = routed, x: torch.Tensor = x, even: torch.Tensor = even
        ) -> torch.Tensor:
            model.decide(x)  # its own decisions may be all alike: those that are timed are not
            return model.classify(x, even)

        def both_paths(
            model: SpotTuneLSTM = routed, x: torch.Tensor = x, even: torch.Tensor = even
        ) -> torch.Tensor:
            model.decide(x)
            h = model.rest.read(x)
            for block, decisions in zip(model.blocks, even.split(1, dim=1), strict=True):
                h = block.mixed(h, decisions)
            return torch.log_softmax(model.head(model.rest.features(h)), dim=1)

        def alone(model: LSTMClassifier = plain, x: torch.Tensor = x) -> torch.Tensor:
            return torch.log_softmax(model(x), dim=1)

        functions = [evaluate(f) for f in (alone, with_agent, both_paths)]
        answers = [f() for f in functions]  # the copies are still alike
        torch.testing.assert_close(answers[1], answers[0])
        torch.testing.assert_close(answers[2], answers[0])
        one, mine, both = (statistics.median(t) for t in alternate(functions, seconds=6, least=20))
        size = f"{batch} windows, width {width}"
        detail = f"{1e3 * mine:.1f} / {1e3 * one:.1f} ms"
        rows.append(Row("SpotTune routed / plain LSTM", size, mine / one, 1.35, detail=detail))
        detail = f"{1e3 * mine:.1f} / {1e3 * both:.1f} ms: {both / mine:.2f} times faster"
        rows.append(Row("SpotTune routed / both paths", size, mine / both, 1 / 1.6, detail=detail))
    return rows


CASES: tuple[Case, ...] = (spottune_evaluation,)
