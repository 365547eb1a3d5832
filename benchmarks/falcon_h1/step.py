"""A training step of the study: forward and backward, on a GPU as one CUDA graph.

Models this small wait for the launches of some thousand kernels per step, the more so with fifteen
runs beside each other. A graph launches them at once. Where capturing fails the step runs as it is,
and says so in `captured`.
"""

import torch
from torch import Tensor

from hydrahead.model.modeling import HydraForCausalLM
from hydrahead.training.batch import IGNORE, Batch
from hydrahead.training.head_loss import Targets, chunked_cross_entropy

WARM_CALLS = 2


class Step:
    """Loss and gradients of batches of one shape.

    Args:
        model: In training; its gradients must be None whenever this is called.
        like: A batch of that shape.
        graphs: Capture on a GPU.
    """

    def __init__(self, model: HydraForCausalLM, like: Batch, *, graphs: bool) -> None:
        self._model = model
        self._graph: torch.cuda.CUDAGraph | None = None
        self.captured = "not asked for"
        if not (graphs and like.input_ids.is_cuda):
            return
        self._inputs = [x.clone() for x in _tensors(like)]
        try:
            self._capture()
            self.captured = "yes"
        except Exception as error:
            # A graph only changes the speed: the result says that there was none.
            self._graph = None
            self.captured = repr(error)[:300]
            torch.cuda.synchronize()
        model.zero_grad(set_to_none=True)

    def __call__(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """(summed loss, weight), both on the device; gradients are in the parameters."""
        if self._graph is None:
            return self._run(*_tensors(batch))
        for to, source in zip(self._inputs, _tensors(batch), strict=True):
            to.copy_(source)
        self._graph.replay()
        for parameter, gradient in self._gradients:
            parameter.grad = gradient
        return self._outputs

    def _capture(self) -> None:
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(WARM_CALLS):
                self._run(*self._inputs)
                self._model.zero_grad(set_to_none=True)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self._outputs = self._run(*self._inputs)
        self._gradients = [(p, p.grad) for p in self._model.parameters() if p.grad is not None]
        self._graph = graph

    def _run(self, ids: Tensor, labels: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        hidden = self._model.model(input_ids=ids, use_cache=False).last_hidden_state
        # Every token has a target, some of weight zero: which ones do is not the host's business.
        targets = Targets(index=None, labels=labels, weights=weights)
        head = self._model.lm_head.weight
        loss, _ = chunked_cross_entropy(targets.rows(hidden), head, None, targets)
        loss.backward()
        return loss.detach(), targets.weight


def _tensors(batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    """Ids [b, t], and labels and weights [b * t], the weight zero where there is no target."""
    labels = batch.labels.flatten()
    asked = labels != IGNORE
    weights = torch.ones_like(labels, dtype=torch.float32)
    if batch.target_weights is not None:
        weights = batch.target_weights.flatten()
    return batch.input_ids, labels.where(asked, 0), weights * asked
