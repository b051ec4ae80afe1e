"""Classifiers on features that are computed once, as Rao, Xu & Xu train on small sets and compare with.

| name          | classifier                                  | where                                                 |
|---------------|---------------------------------------------|-------------------------------------------------------|
| `logistic`    | logistic regression with an L2 penalty      | a network's last fully-connected layer, figures 8-10  |
| `svm`         | linear support vector machine               | "AlexNet-SVM" in table III                            |
| `naive_bayes` | Gaussian naive Bayes                        | Machajdik & Hanbury 2010, as far as we know           |
| `lasso`       | logistic regression with an L1 penalty      | "Lasso" in table IV, on other features                |

Features are standardised first, with the mean and deviation of what the classifier is fitted to, and computed with in
double precision. How much the loss counts against the penalty is ours, and tuned on nothing: 1, scikit-learn's own
choice, for logistic regression, which on n images is a weight decay of 1 / n on the mean loss (the paper's networks
have 0.0005); 0.01 for the support vector machine, which with 1 takes minutes to separate classes on some thousand
columns.
"""

from __future__ import annotations

from inspect import signature

import numpy as np
from scipy.special import softmax
from sklearn.linear_model import LogisticRegression
from sklearn.multiclass import OneVsRestClassifier
from sklearn.naive_bayes import GaussianNB
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from sklearn.svm import LinearSVC
from sklearn.utils.class_weight import compute_sample_weight

NAMES = ("logistic", "svm", "naive_bayes", "lasso")

# Enough for all solvers to end at their minimum on features of some thousand columns.
STEPS = 10_000
# The largest slope at which logistic regression ends; probabilities are then less than 1e-5 from those at the minimum.
SLOPE = 1e-8
# The intercept is penalised too, by a hundredth so where squares are penalised, by a tenth where magnitudes are.
INTERCEPT = 10


class _EvenBayes(GaussianNB):
    """Gaussian naive Bayes with the same prior for each class."""

    def fit(self, features: np.ndarray, labels: np.ndarray) -> _EvenBayes:
        # A weight for each class changes its prior, but neither its means nor its variances.
        return super().fit(features, labels, compute_sample_weight("balanced", labels))


def classifier(name: str, balanced: bool = False) -> Pipeline:
    """A classifier to be fitted to features [n, d] and labels [n]; fitted twice to the same it is the same.

    Args:
        name: one of `NAMES`. "logistic" is a network's last fully-connected layer under cross-entropy, trained to its
            minimum. "svm" has the squared hinge loss. "naive_bayes" adds a hundredth of the largest variance to each,
            or a feature that is constant within a small class would decide alone. "lasso" and "svm" learn each of
            several classes against the others.
        balanced: whether each class weighs the same, whatever its number of images; for naive Bayes the priors are.

    Raises:
        ValueError: there is no such classifier.
    """
    weight = "balanced" if balanced else None
    if name == "logistic":
        last = LogisticRegression(class_weight=weight, tol=SLOPE, max_iter=STEPS)
    elif name == "svm":
        # The primal problem: the other solver takes thousands of steps where columns are few and say little.
        settings = {"dual": False, "intercept_scaling": INTERCEPT, "max_iter": STEPS, "random_state": 0}
        last = LinearSVC(C=0.01, class_weight=weight, **settings)
    elif name == "naive_bayes":
        last = (_EvenBayes if balanced else GaussianNB)(var_smoothing=0.01)
    elif name == "lasso":
        # The argument `penalty` gives way to `l1_ratio` in scikit-learn 1.8.
        newer = signature(LogisticRegression).parameters["penalty"].default == "deprecated"
        penalty = {"l1_ratio": 1} if newer else {"penalty": "l1"}
        settings = {"solver": "liblinear", "intercept_scaling": INTERCEPT, "max_iter": STEPS, "random_state": 0}
        last = OneVsRestClassifier(LogisticRegression(class_weight=weight, **settings, **penalty))
    else:
        raise ValueError(f"name: expected one of {', '.join(NAMES)}, got {name!r}")
    return make_pipeline(FunctionTransformer(np.float64), StandardScaler(), last)


def probabilities(fitted: Pipeline, features: np.ndarray, num_classes: int) -> np.ndarray:
    """What a fitted classifier gives each class: [n, num_classes] in [0, 1], rows add to 1.

    Those of the support vector machine are the softmax of its margins (of two classes: the sigmoid of the margin). They
    are in the margins' order, but not calibrated.

    Args:
        fitted: of `classifier`, fitted to labels in 0..num_classes - 1. A class that was not among them gets 0.
        features: [n, d].
        num_classes: number of columns.

    Raises:
        ValueError: it was fitted to labels outside of 0..num_classes - 1.
    """
    labels = fitted.classes_.astype(int)
    if labels.min() < 0 or labels.max() >= num_classes:
        raise ValueError(f"num_classes: expected more than the labels fitted, {labels.tolist()}, got {num_classes}")
    result = np.zeros((len(features), num_classes))
    if hasattr(fitted, "predict_proba"):
        result[:, labels] = fitted.predict_proba(features)
    else:
        margins = fitted.decision_function(features)
        if margins.ndim == 1:
            margins = np.stack([-margins / 2, margins / 2], axis=1)
        result[:, labels] = softmax(margins, axis=1)
    return result


def held_out(
    name: str,
    features: np.ndarray,
    labels: np.ndarray,
    folds: np.ndarray,
    num_classes: int | None = None,
    balanced: bool = False,
) -> np.ndarray:
    """Probabilities [n, num_classes] of each item by a classifier that was fitted to all other folds.

    Args:
        name, balanced: of the classifier.
        features: [n, d].
        labels: [n] in 0..num_classes - 1.
        folds: [n], the fold in which each item is tested.
        num_classes: number of columns; if not given, that of the labels.

    Raises:
        ValueError: lengths that differ, less than two folds, or what `classifier` and `probabilities` refuse.
    """
    if not len(features) == len(labels) == len(folds):
        raise ValueError(
            f"features, labels, folds: expected as many of each, got {len(features)}, {len(labels)} and {len(folds)}"
        )
    numbers = np.unique(folds)
    if len(numbers) < 2:
        raise ValueError(f"folds: expected at least two, got {numbers.tolist()}")
    num_classes = num_classes or int(labels.max()) + 1
    result = np.empty((len(labels), num_classes))
    for fold in numbers:
        tested = folds == fold
        fitted = classifier(name, balanced).fit(features[~tested], labels[~tested])
        result[tested] = probabilities(fitted, features[tested], num_classes)
    return result
