"""The epochs of a run: train, evaluate, save, publish. Leaves the run's folder to `run_life`, one step to `step`."""

import time
from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch

from pipeline.loader import Batch, ChipLoader
from preprocess.console import Progress, say
from train.contract.metrics import EpochLine, split_fields
from train.hooks import Hooks
from train.losses import loss_function
from train.messages import advice, epoch_lines, time_lines
from train.metrics import class_ap
from train.mixup import epoch_mixup
from train.nan_checks import check_losses, check_scores
from train.predict import predict
from train.record import selection_split
from train.run_life import ActiveRun
from train.run_state import Score, State
from train.sanity_checks import chance_alarm
from train.setup import Job
from train.signals import Stopped, StopSignals
from train.step import Trainer, train_step
from train.telemetry import GpuUse, LossMeter


@dataclass(kw_only=True)
class RunLoop:
    """Trains and evaluates a run, epoch by epoch. `eval_loaders` by split: "val", if there is one, and "test"."""

    run: ActiveRun
    train_loader: ChipLoader
    eval_loaders: dict[str, ChipLoader]
    stop: StopSignals

    @property
    def job(self) -> Job:
        """What is trained."""
        return self.run.job

    @property
    def trainer(self) -> Trainer:
        """The network and all that a step changes."""
        return self.run.trainer

    @property
    def state(self) -> State:
        """Where the run is."""
        return self.run.state

    @property
    def hooks(self) -> Hooks:
        """What is called at fixed points."""
        return self.run.hooks

    def run_epochs(self) -> None:
        """Train all epochs that are left.

        Raises:
            Stopped: a signal asked for it; a checkpoint is written.
            UserError: losses, weights or scores are not finite, or a checkpoint cannot be written.
        """
        with self.run.tracking():
            while self.state.epoch < self.job.config.epochs:
                self.hooks.on_epoch_start(self)
                self.run_epoch()

    def run_epoch(self) -> None:
        """The steps of this epoch that are left, the evaluation, a checkpoint, and the files of the run."""
        gpu = GpuUse(self.job.device)
        self.train(gpu)
        scores = {"train": self._train_score()}
        seconds = self.state.accumulated.seconds
        started, written_s = time.perf_counter(), seconds["checkpoint"]
        scores |= {split: self.evaluate(split) for split in self.eval_loaders}
        seconds["evaluate"] = time.perf_counter() - started - (seconds["checkpoint"] - written_s)
        line = self._line(scores, gpu)
        best = self.state.finish_epoch(line, scores[selection_split(self.job.data)].mean_ap, scores["test"])
        if not self.trainer.step_every_batch:
            self.trainer.schedule.step()
        self.run.save(best=best)
        self.run.publish(weights=best)
        if self.run.record:
            self._report(line)

    def _report(self, line: EpochLine) -> None:
        """Log the epoch, and say how it went."""
        data, device = self.job.data, self.job.device
        self.run.track(line)
        alarms = [
            chance_alarm(data.store.labels[data.split.indices(split)], line.mean_ap(split), split)
            for split in self.eval_loaders
        ]
        for text in (*epoch_lines(self.job.config, self.state), *time_lines(line), advice(line, device), *alarms):
            if text:
                say(text)

    def train(self, gpu: GpuUse) -> None:
        """The steps of this epoch that are left."""
        with self.hooks.phase("training"):
            config, state = self.job.config, self.state
            self.trainer.net.train()
            loss_meter = LossMeter(self.job.device)
            mixup = epoch_mixup(config, state.epoch, self.job.data.store)
            split = selection_split(self.job.data)
            previous = f" {split} mAP {state.lines[-1].mean_ap(split):.3f}" if state.lines else ""
            first = state.step * config.accumulate  # micro-batch
            # A generator that is closed, not read to its end: an incomplete step may follow the last one.
            micro_batches = cast(Generator[Batch, None, None], self.train_loader.epoch(state.epoch, first))
            label, chips = f"epoch {state.epoch + 1}/{config.epochs}", self.run.steps_per_epoch * config.batch
            with closing(micro_batches), Progress(
                label, total=chips, unit="chips", done=state.step * config.batch
            ) as progress:  # fmt: skip
                for index in range(first, self.run.steps_per_epoch * config.accumulate):
                    batch = self._next_batch(micro_batches, is_first=index == first)
                    self._train_batch(mixup.blend(batch) if mixup else batch, index % config.accumulate, loss_meter)
                    gpu.sample()
                    if loss_meter.failed:
                        check_losses(state, config, self.job.data.store)
                    seconds = state.accumulated.seconds
                    share = seconds["wait"] / sum(seconds.values())
                    num_chips = len(batch.chips) * self.job.world.size
                    progress.update(num_chips, f"loss {loss_meter.value:.3f}{previous} wait {100 * share:.0f} %")
                    if (index + 1) % config.accumulate == 0:
                        state.step += 1
                        self.checkpoint_or_stop()

    def _next_batch(self, micro_batches: Generator[Batch, None, None], *, is_first: bool) -> Batch:
        """Take a micro-batch from the loader, and count how long that took."""
        accumulated = self.state.accumulated
        asked_s, copied_before_s = time.perf_counter(), self.train_loader.hand_over_s
        batch = next(micro_batches)
        copy_s = self.train_loader.hand_over_s - copied_before_s
        wait_s = time.perf_counter() - asked_s - copy_s
        accumulated.seconds["wait"] += wait_s
        accumulated.seconds["copy"] += copy_s
        if is_first:
            accumulated.first_wait_s += wait_s
        return batch

    def _train_batch(self, batch: Batch, micro_batch: int, loss_meter: LossMeter) -> None:
        """Train on one of the micro-batches of a step."""
        accumulated = self.state.accumulated
        started = time.perf_counter()
        self.hooks.on_batch_start(self, batch)
        loss, logits = train_step(self.trainer, batch.images_nchw, batch.labels, micro_batch=micro_batch)
        accumulated.losses.append(loss)
        accumulated.logits.append(logits)
        accumulated.chips.append(batch.chips)
        accumulated.seconds["step"] += time.perf_counter() - started
        loss_meter.update(loss)
        self.hooks.on_batch_end(self, batch, loss)

    def checkpoint_or_stop(self) -> None:
        """Between steps and between batches of an evaluation: write a checkpoint if one is due; stop if asked to.

        Raises:
            Stopped: a signal came to this rank or another one.
        """
        request = self.job.world.agree(self.stop.code or int(self.run.checkpoint_is_due))
        if request:
            self.run.save()
        if request > 1:
            raise Stopped(request)

    def evaluate(self, split: str) -> Score:
        """Score one split with the network as it is now."""
        with self.hooks.phase("evaluation"):
            job = self.job
            chips = job.data.split.indices(split)

            def after_batch() -> None:
                self.hooks.on_eval_batch(self, split)
                self.checkpoint_or_stop()

            share = predict(
                self.trainer.eval_model, self.eval_loaders[split], job.device, label=split,
                num_chips=-(-len(chips) // job.world.size), after_batch=after_batch,
            )  # fmt: skip
            logits = job.world.gather(torch.from_numpy(share), len(chips)).numpy()
            check_scores(self.state, job.config, split, logits)
            labels = job.data.store.labels[chips]
            loss = loss_function(
                job.config.loss, torch.from_numpy(logits), torch.from_numpy(labels.astype(np.float32))
            )  # fmt: skip
            return Score(loss=float(loss), ap=class_ap(labels, logits), logits=logits)

    def _train_score(self) -> Score:
        """The scores that the epoch's steps made, on augmented chips. This waits for the device.

        They are nearly free, and a little behind the weights.
        """
        check_losses(self.state, self.job.config, self.job.data.store)
        started = time.perf_counter()
        accumulated = self.state.accumulated
        losses, logits, chips = accumulated.gathered(self.job.world)
        accumulated.seconds["step"] += time.perf_counter() - started
        ap = class_ap(self.job.data.store.labels[chips], logits.numpy())
        return Score(loss=float(losses.double().mean()), ap=ap, logits=logits.numpy())

    def _line(self, scores: dict[str, Score], gpu: GpuUse) -> EpochLine:
        accumulated, classes = self.state.accumulated, self.job.data.store.classes
        seconds = accumulated.seconds
        train_s = seconds["wait"] + seconds["copy"] + seconds["step"]
        fields: dict[str, Any] = {}
        for split, score in scores.items():
            ap = dict(zip(classes, score.ap.tolist(), strict=True))
            fields |= split_fields(split, loss=score.loss, mean_ap=score.mean_ap, ap=ap)
        return EpochLine(
            epoch=self.state.epoch + 1, lr=self.trainer.last_lr, chips_per_s=len(scores["train"].logits) / train_s,
            wait_share=seconds["wait"] / train_s, train_s=train_s, seconds=dict(seconds),
            first_wait_s=accumulated.first_wait_s, gpu=gpu.summary(), **fields,
        )  # fmt: skip
