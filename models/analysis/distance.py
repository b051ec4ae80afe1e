"""Proxy A-distance: how well a linear classifier tells two domains apart."""

from __future__ import annotations

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler


def proxy_a_distance(source: np.ndarray, target: np.ndarray, folds: int = 5, seed: int = 0) -> float:
    """`2 (1 - 2 err)` with the error of a linear domain classifier: 0 for domains it cannot tell apart, 2 at most.

    Ben-David et al., "Analysis of representations for domain adaptation", 2006. The classifier is logistic regression
    on standardised features; its error is measured on items it has not seen, by cross-validation over equal numbers of
    both domains (the larger one is sampled without replacement). An error above one half, which is noise, counts as one
    half. A small value says nothing about the classes: mapping everything to one point reaches 0.

    Args:
        source, target: features [n_s, d] and [n_t, d] of images that the network was not trained on.
        folds: of the cross-validation.
        seed: of the sample and of the folds.

    Raises:
        ValueError: the shapes do not fit, values that are not finite, or less than `folds` items in a domain.
    """
    if source.ndim != 2 or target.ndim != 2 or source.shape[1] != target.shape[1]:
        raise ValueError(f"source, target: expected [n_s, d] and [n_t, d], got {source.shape} and {target.shape}")
    count = min(len(source), len(target))
    if count < folds:
        raise ValueError(f"source, target: expected at least {folds} items each, got {len(source)} and {len(target)}")
    random = np.random.default_rng(seed)
    features = np.concatenate([part[random.permutation(len(part))[:count]] for part in (source, target)])
    domains = np.repeat([0, 1], count)
    classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    splits = StratifiedKFold(folds, shuffle=True, random_state=seed)
    accuracy = cross_val_score(classifier, features, domains, cv=splits, error_score="raise").mean()
    return 2 * (2 * max(float(accuracy), 0.5) - 1)
