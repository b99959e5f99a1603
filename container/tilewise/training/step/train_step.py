"""What one batch does to a model: forward, backward, and the optimizer's step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from tilewise.errors import UserError
from tilewise.hyperparameters import Hyperparameters
from tilewise.models.detector import VisionModel
from tilewise.targets import Targets
from tilewise.training.dataloading.batch import Batch
from tilewise.training.distributed.context import SINGLE_PROCESS, DistributedContext
from tilewise.training.step.amp import choose_precision, keep_depthwise_in_float32
from tilewise.training.step.compiling import compile_convolutions
from tilewise.training.step.ema import ModelEMA
from tilewise.training.step.extra_losses import ExtraLoss, WithExtraLosses
from tilewise.training.step.lr_scheduler import LRScheduler
from tilewise.training.step.memory import StepMemory
from tilewise.training.step.non_finite import FiniteCheck, NonFiniteSteps, ReadEachStep, ReadLater
from tilewise.training.step.optimizer import make_optimizer
from tilewise.views.sample import Sample


class TrainStep:
    """A model in training, with its optimizer and its learning rate.

    A step whose loss or gradient is not finite changes no weight. Who finds that out depends on the device:
    :class:`ReadEachStep` does where that costs nothing, :class:`ReadLater` on a GPU.

    float16 also scales the loss, and its scaler skips steps until it has found the scale: these count as bad
    only where there is nothing left to scale down.

    Args:
        model: on the device to train on.
        hp: the job's hyperparameters.
        steps_per_epoch: of the optimizer, as many as are expected.
        view_size: (width, height) of a view that the model takes, for several processes.
        distributed: the processes that train together; gradients are averaged over them.
        extra_losses: to learn from beside the model's own; their parameters are learnt, too.
        finite_check: see above; None for what suits device and job.

    Attributes:
        precision: what the forward pass computes its convolutions in.

    """

    def __init__(
        self,
        model: VisionModel,
        hp: Hyperparameters,
        steps_per_epoch: int,
        *,
        view_size: tuple[int, int],
        distributed: DistributedContext = SINGLE_PROCESS,
        extra_losses: Sequence[ExtraLoss] = (),
        finite_check: type[ReadEachStep | ReadLater] | None = None,
    ):
        self.view_size = view_size
        self.model, self.hp, self.distributed = model, hp, distributed
        self.device = next(model.parameters()).device
        self.precision = choose_precision(hp.precision, self.device)
        if self.device.type == "cpu":
            keep_depthwise_in_float32(model)
        self._learns = WithExtraLosses(model, extra_losses)
        self.optimizer = make_optimizer(self._learns, hp)
        self._parameters = list(self._learns.parameters())  # a walk through all takes a millisecond
        self.scheduler = LRScheduler(self.optimizer, hp, steps_per_epoch)
        check = finite_check or (ReadEachStep if reads_each_step(self.device, hp) else ReadLater)
        self._scaler = torch.amp.GradScaler(
            self.device.type,
            init_scale=2.0**16 if self.precision.scaled else 1.0,
            enabled=self.precision.scaled or check.needs_scaler,
        )
        self._check: FiniteCheck = check(
            NonFiniteSteps(hp.learning_rate), self._scaler, self.precision, alone=distributed.size == 1
        )
        self._ema = ModelEMA(model, hp.ema_decay) if hp.ema_decay else None
        if hp.compile:
            compile_convolutions(model)
        self._forward: nn.Module = self._learns
        if distributed.size > 1:
            # In each backward pass it averages all that has accumulated: batches may be added up as they are.
            self._forward = DistributedDataParallel(self._learns)
        self._memory = StepMemory(hp, self.device)
        self._batches = self._accumulated = 0

    @property
    def learning_rate(self) -> float:
        """That of the next step."""
        return float(self.optimizer.param_groups[0]["lr"])

    @property
    def evaluated(self) -> VisionModel:
        """The model to validate and to keep: the average of the weights, or the one in training."""
        return self.model if self._ema is None else self._ema.model

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint: all that the next step depends on, also between two batches of one step."""
        parameters = self._learns.named_parameters()
        return {
            "model": self.model.state_dict(),
            "extra_losses": self._learns.extra_losses.state_dict(),
            "optimizer": self.optimizer.state_dict()["state"],
            "scheduler": self.scheduler.state_dict(),
            "scaler": self._scaler.state_dict() if self.precision.scaled else {},
            "average": self._ema.state_dict() if self._ema else {},
            "gradients": {name: each.grad for name, each in parameters if each.grad is not None},
            "accumulated": self._accumulated,
            "bad_steps": self._check.steps.in_a_row,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The inverse of :meth:`state_dict`; rates and decays are those of this job's hyperparameters.

        Raises:
            UserError: that training had other extra losses.

        """
        own = {name: each.shape for name, each in self._learns.extra_losses.state_dict().items()}
        if own != {name: each.shape for name, each in state["extra_losses"].items()}:
            raise UserError(
                "the checkpoint is of a training with other losses beside the model's own: give the channel "
                "teacher as it was, or delete the checkpoint"
            )
        self.model.load_state_dict(state["model"])
        self._learns.extra_losses.load_state_dict(state["extra_losses"])
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": state["optimizer"], "param_groups": groups})
        self.scheduler.load_state_dict(state["scheduler"])
        if state["scaler"] and self.precision.scaled:  # else float16 has to find its scale
            self._scaler.load_state_dict(state["scaler"])
        if self._ema:
            self._ema.load_state_dict(state["average"] or {"model": state["model"], "steps": 0})
        for name, parameter in self._learns.named_parameters():
            gradient = state["gradients"].get(name)
            parameter.grad = None if gradient is None else gradient.to(self.device)
        self._accumulated, self._check.steps.in_a_row = state["accumulated"], state["bad_steps"]

    def begin_epoch(self, batches: int = 0) -> None:
        """To be called before each epoch's first batch, or where ``batches`` of it are learnt already."""
        self._learns.train()
        self._batches = batches

    def learn(self, batch: Batch) -> dict[str, Tensor]:
        """Learn from one batch; after ``gradient_accumulation_step`` of them the weights change.

        Returns:
            The losses, detached, on the device; none where there is no sample, or the loss is not finite and
            has been read.

        Raises:
            UserError: nothing was finite for many batches in a row, or the batch does not fit into the GPU.

        """
        self._batches += 1
        losses: dict[str, Tensor] = {}
        with self._memory.of_step(batch.sizes):
            if batch:
                losses = self._backward(batch)
            elif self.distributed.size > 1:  # the others wait for this process's gradients
                self._backward(Batch.of([blank_sample(*self.view_size)]), weight=0.0)
            if self._batches % self.hp.gradient_accumulation_step == 0:
                self._update()
        return {name: loss.detach() for name, loss in losses.items()}

    def end_epoch(self) -> None:
        """To be called after each whole epoch: what has been accumulated is learnt."""
        if self._batches % self.hp.gradient_accumulation_step:
            self._update()
        self._check.steps.read()
        self.scheduler.end_epoch()

    def _backward(self, batch: Batch, weight: float = 1.0) -> dict[str, Tensor]:
        """Add a batch's gradients; returns its losses, or none where they are known not to be finite."""
        samples = batch.samples(self.device)
        reduced = self.precision.dtype != torch.float32
        with torch.autocast(self.device.type, self.precision.dtype if reduced else None, enabled=reduced):
            losses: dict[str, Tensor] = self._forward(
                [sample.pixels for sample in samples], [sample.targets for sample in samples]
            )
        learnt = [loss for name, loss in losses.items() if name not in self.model.figures]
        total = self._check.admit(weight * torch.stack(learnt).sum())
        if total is None:
            return {}
        self._scaler.scale(total).backward()
        self._accumulated += 1
        return losses

    def _update(self) -> None:
        """The optimizer's step, with the mean of the gradients that batches have given since the last one."""
        if self._accumulated:
            gradients = [each.grad for each in self._parameters if each.grad is not None]
            if self._accumulated > 1:
                torch._foreach_div_(gradients, self._accumulated)
            self._scaler.unscale_(self.optimizer)
            norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
            self._clip(norm)
            if not self._check.admit_step(norm):
                self.optimizer.zero_grad()
            self._scaler.step(self.optimizer)
            # without float16 there is nothing to scale: the scale stays 1 also after a bad step
            self._scaler.update(None if self.precision.scaled else 1.0)
            if self._ema is not None:
                self._ema.update()
        self.optimizer.zero_grad()
        self.scheduler.step()
        self._accumulated = 0

    def _clip(self, norm: Tensor) -> None:
        """Scale the gradients down to the norm that is allowed; a fused optimizer does so as it steps."""
        most = self.hp.max_gradient_norm
        small = self._check.is_at_most(norm, most)
        if self.optimizer.defaults.get("fused"):
            divisor = None if small else (norm / most).clamp(min=1)
            self.optimizer.grad_scale = divisor  # type: ignore[attr-defined]  # as GradScaler sets it
        elif not small:
            nn.utils.clip_grads_with_norm_(self._parameters, most, norm)


def reads_each_step(device: torch.device, hp: Hyperparameters) -> bool:
    """Whether each loss and gradient is looked at before the next step; see :class:`TrainStep`."""
    return device.type == "cpu" or hp.gradient_accumulation_step > 1


def blank_sample(width: int, height: int) -> Sample:
    """An image without objects, in place of a batch whose images are all damaged."""
    return Sample(torch.zeros((3, height, width), dtype=torch.uint8), Targets.none().to("cpu"))
