"""The training job: from SageMaker's folders to a model in ``/opt/ml/model``."""

from __future__ import annotations

import json
import logging
import os
import resource
import signal
import sys
import traceback
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from tilewise import platform
from tilewise.commands.job_channels import (
    check_model_channel,
    data_channels,
    initial_model,
    pretrained_folder,
    teachers,
    with_earlier_rendering,
)
from tilewise.errors import UserError
from tilewise.hyperparameters import Hyperparameters, parse_hyperparameters
from tilewise.hyperparameters.table import WITHOUT_EFFECT
from tilewise.machine import give_back_freed_memory

if TYPE_CHECKING:
    from tilewise.data.channel import DataSet
    from tilewise.training.checkpointing.checkpoints import Checkpoints
    from tilewise.training.distributed.context import DistributedContext
    from tilewise.training.history import TrainResult
    from tilewise.training.job.context import JobContext
    from tilewise.training.train import Start

log = logging.getLogger(__name__)


def main(stop: platform.StopRequest) -> int:
    """Run the job that ``/opt/ml/input`` describes; returns the process's exit code.

    With several GPUs or hosts it starts itself once more for each GPU, and waits for them.

    0: done, or stopped by SIGTERM. 2: the user can fix it. 1: we can. Both leave ``/opt/ml/output/failure``.
    130: Ctrl-C, which leaves nothing.
    """
    rank = os.environ.get("RANK")
    _log(rank)
    try:
        if rank is None:
            platform.remove_failure()
        job = platform.read_job()
        hp = parse_hyperparameters(job.hyperparameters)
        failure = _run_together(job, hp, stop) if rank else _run(job, hp, stop)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr, flush=True)
        return 128 + signal.SIGINT
    except BaseException as error:
        if not isinstance(error, UserError):
            traceback.print_exc()
        failure = platform.failure_sentence(error)
    if failure:
        print(failure if rank else platform.write_failure(failure), file=sys.stderr, flush=True)
        return 2 if failure.startswith(platform.CLIENT_ERROR) else 1
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2
    log.info("peak memory: %.2f GiB", peak)
    return 0


def _log(rank: str | None) -> None:
    """What all processes have to say is said by the first; the others of its host only warn of errors."""
    where = f"process {rank}: " if rank not in (None, "0") else ""
    level = logging.INFO if rank in (None, "0") else logging.ERROR
    if where and os.environ["LOCAL_RANK"] == "0":
        level = logging.WARNING  # its files may be others than the first host's
    logging.basicConfig(
        stream=sys.stdout, level=level, format=f"%(asctime)s %(levelname)s {where}%(message)s"
    )


def _run(job: platform.Job, hp: Hyperparameters, stop: platform.StopRequest) -> str | None:
    """Train in this process, or in several; returns why these failed."""
    from tilewise.training.distributed.launch import launch, processes_of_host

    processes = processes_of_host()
    if len(job.hosts) == processes == 1:
        run_job(job, hp, stop)
        return None
    return launch(job.hosts, job.current_host, job.network_interface, processes=processes, stop=stop)


def _run_together(job: platform.Job, hp: Hyperparameters, stop: platform.StopRequest) -> str | None:
    """Train as one of several processes; returns why one of them failed."""
    from tilewise.training.distributed.context import connect_store, init_distributed
    from tilewise.training.distributed.launch import die_with_parent, report_failure

    die_with_parent()
    distributed = init_distributed()
    try:
        run_job(job, hp, stop, distributed=distributed)
        distributed.barrier()  # for what the leader writes
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        own = platform.failure_sentence(error)
        first = report_failure(connect_store(), own)
        if first == own and not isinstance(error, UserError):
            traceback.print_exc()
        return first
    distributed.destroy()
    return None


def run_job(
    job: platform.Job,
    hp: Hyperparameters,
    stop: platform.StopRequest,
    *,
    distributed: DistributedContext | None = None,
) -> None:
    """Train, and leave model and metrics."""
    # Imported here: wrong hyperparameters should not have to wait for torch.
    from tilewise.data.channel import read_data_set
    from tilewise.data.checks import check_objects
    from tilewise.data.choice import DataChoice
    from tilewise.data.label_mapping import with_labels_of
    from tilewise.data.pipe.fifo import StopWaiting
    from tilewise.inference.device import require_supported_gpus
    from tilewise.registry import find_task
    from tilewise.training.distributed.context import SINGLE_PROCESS

    distributed = distributed or SINGLE_PROCESS
    require_supported_gpus()
    platform.require_writable(platform.model_dir())
    platform.require_writable(platform.output_data_dir())
    log.info("Final configuration: %s", json.dumps(hp.model_dump(mode="json")))
    _warn_of_long_warmup(hp)
    if without_effect := [name for name in WITHOUT_EFFECT if name in hp.given]:
        log.info("accepted, and without effect here: %s", ", ".join(without_effect))
    check_model_channel(job.channels, hp)
    checkpoints, state = _checkpoints(hp, distributed)
    initial = None if state else initial_model(job.channels)
    if "model" in job.channels:
        hp = with_earlier_rendering(hp, initial, state)
    learnt_from = teachers(job.channels, hp)
    channels = data_channels(job, hp, state, distributed=distributed)
    try:
        data = read_data_set(
            channels,
            hp.num_classes,
            validation_share=hp.validation_data_size if hp.dialect == "azure" else None,
            validates=hp.validation_metric_type != "none",
            seed=hp.seed,
            class_map=hp.class_map,
            rendering=hp.rendering,
            stop=stop,
            reads_pipes=distributed.local_rank == 0,
            choice=DataChoice(
                hp.classes,
                hp.other_classes,
                hp.max_images,
                hp.seed,
                label_attribute=hp.label_attribute,
                fields=find_task(hp.task).target_fields,
                objects_as=hp.objects_as,
            ),
        )
    except StopWaiting:
        data = None
    if distributed.any(data is None):
        _leave_model_of(state, "before the first image came", distributed)
        return
    assert data is not None
    with closing(_with_classes_of_leader(data, distributed)) as data:
        if data.train.known_length:
            # of all processes: where each host has other files, one of them may have none
            check_objects("train", distributed.any(not data.train.sample.targets.ignored.all()))
            _warn_of_wrong_count(hp, data.train.expected_images)
        if distributed.any(stop.requested):
            _leave_model_of(state, "before the first step", distributed)
            return
        # Imported here: to wait for a pipe takes no model.
        from tilewise.training.train import Start

        if "model" in job.channels:
            earlier = state["classes"] if state else initial.classes if initial else ()
            data = with_labels_of(data, earlier)
        start = Start(
            pretrained_folder(job.channels, hp),
            initial,
            checkpoints,
            state,
            teachers=learnt_from,
            continues="model" in job.channels,
        )
        _train(job, hp, data, stop, distributed, start)


def _with_classes_of_leader(data: DataSet, distributed: DistributedContext) -> DataSet:
    """Data whose classes are those of all processes.

    Raises:
        UserError: this host's files have other classes than the first host's.

    """
    classes = distributed.broadcast(data.classes)
    seen_here = all(source is None or source.seen_here for source in (data.train, data.validation))
    if data.classes != classes and seen_here:
        raise UserError(
            f"the hosts' files have different classes: {', '.join(classes)} on the first, but "
            f"{', '.join(data.classes)} here: use S3DataDistributionType FullyReplicated, or a format that "
            "numbers its classes"
        )
    return replace(data, classes=classes)


def _checkpoints(
    hp: Hyperparameters, distributed: DistributedContext
) -> tuple[Checkpoints | None, dict[str, Any] | None]:
    """The leader's checkpoints, where the job has any, and the state of the newest, where there is one.

    The leader reads it for all: what the other hosts find in their folders may be older.
    """
    if not distributed.is_main_process:
        return None, distributed.broadcast(None)
    checkpoints, state = _newest_checkpoint(hp)
    return checkpoints, distributed.broadcast(state)


def _newest_checkpoint(hp: Hyperparameters) -> tuple[Checkpoints | None, dict[str, Any] | None]:
    folder = platform.checkpoint_dir()
    if folder is None:
        if hp.checkpoint_frequency:
            log.warning("checkpoint_frequency has no effect: the job has no CheckpointConfig")
        return None, None
    platform.require_writable(folder)
    from tilewise.training.checkpointing.checkpoints import Checkpoints

    checkpoints = Checkpoints(folder)
    state = checkpoints.newest()
    if state is None:
        log.info("checkpoints are kept in %s: there is none yet", folder)
    return checkpoints, state


def _leave_model_of(state: dict[str, Any] | None, when: str, distributed: DistributedContext) -> None:
    """After a request to stop that came early: the best model of the interrupted run, if there is one."""
    # Imported here: most jobs that are stopped so early have nothing to resume.
    from tilewise.training.train_state import put_model_back

    own = distributed.is_main_process and state and state["job"] == platform.job_name()
    if state and own and put_model_back(state, platform.model_dir()):
        log.info("stopped %s; the best model so far is in %s", when, platform.model_dir())
    else:
        log.info("stopped %s: there is no model yet", when)


def _warn_of_long_warmup(hp: Hyperparameters) -> None:
    warmup = hp.warmup_cosine_lr_warmup_epochs
    planned = hp.minutes is not None or hp.warmup_steps is not None  # of steps there is a count later
    if hp.learning_rate_scheduler == "warmup_cosine" and warmup >= hp.number_of_epochs and not planned:
        log.warning(
            "warmup_cosine_lr_warmup_epochs=%d and number_of_epochs=%d: the learning rate only rises, and "
            "ends before it is learning_rate: warm up for less, or train for longer",
            warmup,
            hp.number_of_epochs,
        )


def _train(
    job: platform.Job,
    hp: Hyperparameters,
    data: DataSet,
    stop: platform.StopRequest,
    distributed: DistributedContext,
    start: Start,
) -> None:
    from tilewise.tasks.registry import make_task
    from tilewise.training.job.context import JobContext
    from tilewise.training.job.environment import describe_environment
    from tilewise.training.job.metric_lines import MetricLines
    from tilewise.training.job.tracking import Tracking, open_tracking
    from tilewise.training.train import train

    environment = describe_environment(job.hosts)
    log.info("Environment: %s", json.dumps(environment))
    folders = (platform.output_data_dir() / "tensorboard", platform.tensorboard_dir())
    tracking = Tracking()
    if distributed.is_main_process:
        tracking = open_tracking(folders, job_name=platform.job_name(), stop=stop)
    context = JobContext(
        hp=hp,
        task=make_task(hp),
        lines=MetricLines(job.current_host, quiet=not distributed.is_main_process),
        model_dir=platform.model_dir(),
        checkpoint_dir=platform.checkpoint_dir(),
        distributed=distributed,
        stop=stop,
        name=platform.job_name(),
        environment=environment,
        tracking=tracking,
    )
    with tracking:
        result = train(data, context, start)
        if distributed.is_main_process:
            _leave_results(result, data, context)


def _leave_results(result: TrainResult, data: DataSet, context: JobContext) -> None:
    """What the leader does once the model is there: test, outputs, graph."""
    from tilewise.training.job.outputs import write_outputs
    from tilewise.training.job.validation import test

    if data.test and not result.stopped:
        figures = test(data.test, context)
        result = replace(result, test=figures)
        if figures:
            task = context.task
            context.lines.test(task.test_scores(figures), task.describe("test", figures))
    write_outputs(result, data, context, folder=platform.output_data_dir())
    if not result.stopped and not context.stop.requested:
        _add_graph()
    context.tracking.results(platform.output_data_dir(), platform.model_dir())
    if result.stopped:
        log.info("stopped on request; the best model so far is in %s", platform.model_dir())
    else:
        log.info("done; the model is in %s", platform.model_dir())


def _add_graph() -> None:
    """Make the model's graph, which an endpoint without a GPU runs; the model is whole without it."""
    # Imported here: a job that is stopped has no time for it.
    from tilewise.inference.export import add_graph

    give_back_freed_memory()  # the graph takes other memory than a step
    try:
        add_graph(platform.model_dir())
    except Exception:
        log.warning("the model has no graph for ONNX Runtime, which could not be made", exc_info=True)


def _warn_of_wrong_count(hp: Hyperparameters, count: int) -> None:
    if hp.num_training_samples not in (None, count):
        log.warning(
            "num_training_samples is %s, but channel train has %d usable images: these count",
            hp.num_training_samples,
            count,
        )


if __name__ == "__main__":  # as tuning runs a trial
    sys.exit(main(platform.StopRequest().listen()))
