"""The figures of a classifier, as Azure AutoML names them, by scikit-learn.

Source: Azure Machine Learning, "Evaluate AutoML experiment results". Means over classes are over those that
the images have: what a class without an image would add is not defined.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from sklearn import metrics as sk

from tilewise.arrays import Bool, Float64, Int64

THRESHOLD = 0.5
"""Where an image has any number of classes: those with this score or more."""

MEANS = ("macro", "micro", "weighted")

Figures = dict[str, float | None]


def figures_of(truth: Bool, scores: Float64, *, several: bool, top_k: int | None = None) -> dict[str, Any]:
    """All figures; None where one is not defined.

    Args:
        truth: (N, C) which classes each image has, exactly one unless ``several``.
        scores: (N, C) in 0..1.
        several: whether an image has any number of classes.
        top_k: also the share of images whose class is among so many likeliest ones.

    """
    present = np.flatnonzero(truth.any(axis=0))
    found = predicted(scores, several=several)
    figures = _several(truth, found, scores) if several else _one(truth, scores, present)
    figures |= _ranked(truth, scores)
    for name, score in (("f1_score", sk.f1_score), ("precision_score", sk.precision_score)):
        figures |= _decided(name, score, truth, found, present)
    figures |= _decided("recall_score", sk.recall_score, truth, found, present)
    figures["norm_macro_recall"] = _normalised(figures["recall_score_macro"], len(present))
    if truth.shape[1] == 2 and not several:
        figures |= _binary(truth[:, 1], found[:, 1], scores[:, 1])
    if top_k and not several:
        true = scores[np.arange(len(scores)), truth.argmax(axis=1)]
        figures["top_k_accuracy"] = float(((scores > true[:, None]).sum(axis=1) < top_k).mean())
    return figures


def predicted(scores: Float64, *, several: bool) -> Bool:
    """(N, C) which classes a model says that each image has."""
    if several:
        return scores >= THRESHOLD
    best: Bool = np.arange(scores.shape[1]) == scores.argmax(axis=1)[:, None]
    return best


def has_both(truth: Bool) -> Int64:
    """The classes that some images have and some have not: only of these a ranking can be right or wrong."""
    return np.flatnonzero(truth.any(axis=0) & ~truth.all(axis=0)).astype(np.int64)


def _one(truth: Bool, scores: Float64, present: Int64) -> Figures:
    true, best = truth.argmax(axis=1), scores.argmax(axis=1)
    counts = truth.sum(axis=0)
    # as many decimals as a float64 has: the logarithm of 0 is not defined
    sure = np.clip(scores, 1e-15, None)
    sure /= sure.sum(axis=1, keepdims=True)
    one_class = scores.shape[1] == 1
    return {
        "accuracy": float(sk.accuracy_score(true, best)),
        "balanced_accuracy": float(
            sk.recall_score(true, best, labels=present, average="macro", zero_division=0)
        ),
        "weighted_accuracy": float(sk.accuracy_score(true, best, sample_weight=counts[true])),
        "log_loss": 0.0 if one_class else float(sk.log_loss(true, sure, labels=np.arange(scores.shape[1]))),
        "matthews_correlation": float(sk.matthews_corrcoef(true, best)),
    }


def _several(truth: Bool, found: Bool, scores: Float64) -> Figures:
    right, counts = (truth == found).mean(axis=0), truth.sum(axis=0)
    shared, either = (truth & found).sum(axis=1), (truth | found).sum(axis=1)
    present = np.flatnonzero(counts)
    recall = sk.recall_score(truth, found, labels=present, average="macro", zero_division=0)
    return {
        "accuracy": float((truth == found).all(axis=1).mean()),
        # an image without classes, of which the model says so, is wholly right
        "iou": float(np.where(either, shared / np.maximum(either, 1), 1).mean()),
        "balanced_accuracy": float(recall) if len(present) else None,
        "weighted_accuracy": float(np.average(right, weights=counts)) if counts.any() else None,
        "log_loss": float(
            sk.log_loss(truth.ravel().astype(int), np.clip(scores.ravel(), 1e-15, 1 - 1e-15), labels=[0, 1])
        ),
        "matthews_correlation": float(sk.matthews_corrcoef(truth.ravel(), found.ravel())),
    }


def _ranked(truth: Bool, scores: Float64) -> Figures:
    """The areas under the curves of ROC, and of precision and recall."""
    figures: Figures = {}
    classes = has_both(truth)
    weights = truth[:, classes].sum(axis=0)
    flat_defined = bool(truth.any() and not truth.all())
    score: Callable[..., float]
    for name, score in (("AUC", sk.roc_auc_score), ("average_precision_score", sk.average_precision_score)):
        each = [float(score(truth[:, label], scores[:, label])) for label in classes]
        figures[f"{name}_macro"] = float(np.mean(each)) if each else None
        figures[f"{name}_micro"] = float(score(truth.ravel(), scores.ravel())) if flat_defined else None
        figures[f"{name}_weighted"] = float(np.average(each, weights=weights)) if each else None
    return figures


def _decided(name: str, score: Callable[..., float], truth: Bool, found: Bool, present: Int64) -> Figures:
    if not len(present):
        return {f"{name}_{mean}": None for mean in MEANS}
    figures: Figures = {
        f"{name}_{mean}": float(score(truth, found, labels=present, average=mean, zero_division=0))
        for mean in ("macro", "weighted")
    }
    return figures | {
        f"{name}_micro": float(score(truth.ravel(), found.ravel(), average="binary", zero_division=0))
    }


def _binary(truth: Bool, found: Bool, scores: Float64) -> Figures:
    """Those of the second class, as scikit-learn has it, where there are two."""
    both = bool(truth.any() and not truth.all())
    return {
        "AUC_binary": float(sk.roc_auc_score(truth, scores)) if both else None,
        "average_precision_score_binary": float(sk.average_precision_score(truth, scores)) if both else None,
        "f1_score_binary": float(sk.f1_score(truth, found, zero_division=0)),
        "precision_score_binary": float(sk.precision_score(truth, found, zero_division=0)),
        "recall_score_binary": float(sk.recall_score(truth, found, zero_division=0)),
    }


def _normalised(recall: float | None, classes: int) -> float | None:
    """0 for chance, 1 for always right."""
    if recall is None or classes < 2:
        return None
    return (recall - 1 / classes) / (1 - 1 / classes)
