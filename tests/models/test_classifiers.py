"""Classifiers on fixed features: known answers, absent classes, and every item tested by what has not seen it."""

import warnings

import numpy as np
import pytest
from sklearn.naive_bayes import GaussianNB

from fastmmd.models.classifiers import NAMES, classifier, held_out, probabilities


def blobs(count=90, classes=3, columns=5, distance=8.0, seed=0):
    """Features [count, columns] around a corner for each class, and labels in turn."""
    random = np.random.default_rng(seed)
    labels = np.arange(count) % classes
    return random.normal(size=(count, columns)) + distance * np.eye(columns)[labels], labels


@pytest.mark.parametrize("balanced", [False, True])
@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("name", NAMES)
def test_separable_classes(name, classes, balanced):
    features, labels = blobs(classes=classes)
    fitted = classifier(name, balanced).fit(features[:60], labels[:60])
    predicted = probabilities(fitted, features[60:], classes)
    assert np.array_equal(predicted.argmax(axis=1), labels[60:])
    np.testing.assert_allclose(predicted.sum(axis=1), 1)
    again = classifier(name, balanced).fit(features[:60], labels[:60])
    assert np.array_equal(probabilities(again, features[60:], classes), predicted)


@pytest.mark.parametrize("name", NAMES)
def test_absent_classes_have_a_column(name):
    features, labels = blobs()
    for present in ([0, 2], [0, 1, 2]):
        kept = np.isin(labels, present)
        fitted = classifier(name).fit(features[kept], 2 * labels[kept])
        predicted = probabilities(fitted, features, 6)
        assert predicted.shape == (90, 6)
        np.testing.assert_allclose(predicted.sum(axis=1), 1)
        assert not predicted[:, [k for k in range(6) if k not in [2 * label for label in present]]].any()
        assert np.array_equal(predicted[kept].argmax(axis=1), 2 * labels[kept])
    with pytest.raises(ValueError, match=r"num_classes: expected more than the labels fitted, \[0, 2, 4\], got 4"):
        probabilities(fitted, features, 4)


@pytest.mark.parametrize("name", NAMES)
def test_no_warnings_on_many_columns(name):
    random = np.random.default_rng(0)
    features = random.normal(size=(800, 2048)).astype(np.float32) * random.lognormal(size=2048).astype(np.float32)
    features[:, 7] = 3  # says nothing
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fitted = classifier(name, balanced=True).fit(features, random.integers(8, size=800) == 0)
        np.testing.assert_allclose(probabilities(fitted, features, 2).sum(axis=1), 1)


@pytest.mark.parametrize("name", NAMES)
def test_balanced_classifiers_give_each_class_the_same_weight(name):
    """Where features say nothing, a class has about its share of the training items; balanced, one half."""
    features = np.arange(64)[:, None] // 8 % 2
    labels = np.arange(64) % 8 == 0
    plain, even = (probabilities(classifier(name, b).fit(features, labels), features, 2)[0, 1] for b in (False, True))
    assert plain < 0.35
    assert even == pytest.approx(0.5, abs=0.02)


def test_naive_bayes_by_hand():
    """Balanced, its means and variances stay those of scikit-learn."""
    features, labels = blobs(classes=2, distance=1.0)
    labels[::3] = 0
    fitted = classifier("naive_bayes", balanced=True).fit(features, labels)
    standard = (features - features.mean(axis=0)) / features.std(axis=0)
    expected = GaussianNB(priors=[0.5, 0.5], var_smoothing=0.01).fit(standard, labels).predict_proba(standard)
    np.testing.assert_allclose(probabilities(fitted, features, 2), expected)


def test_svm_of_two_classes_is_the_sigmoid_of_its_margin():
    features, labels = blobs(classes=2)
    fitted = classifier("svm").fit(features, labels)
    expected = 1 / (1 + np.exp(-fitted.decision_function(features)))
    np.testing.assert_allclose(probabilities(fitted, features, 2)[:, 1], expected)


def test_lasso_uses_few_columns():
    features, labels = blobs(count=60, classes=2, columns=40, distance=3.0)
    fitted = classifier("lasso").fit(features, labels)[-1]
    used = np.flatnonzero(fitted.estimators_[0].coef_[0])
    assert {0, 1} <= set(used)
    assert len(used) < 20


def test_unknown_classifier():
    with pytest.raises(ValueError, match="name: expected one of logistic, svm, naive_bayes, lasso, got 'forest'"):
        classifier("forest")


@pytest.mark.parametrize("fold", range(5))
def test_held_out_items_are_not_seen(fold):
    """The labels of a fold are nothing to its own probabilities, and something to those of every other."""
    features, labels = blobs(distance=2.0)
    folds = np.arange(90) // 18
    tested = folds == fold
    predicted = held_out("logistic", features, labels, folds)
    relabelled = held_out("logistic", features, np.where(tested, (labels + 1) % 3, labels), folds)
    np.testing.assert_array_equal(relabelled[tested], predicted[tested])
    assert (np.abs(relabelled - predicted).max(axis=1) > 1e-3).tolist() == (~tested).tolist()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("classes", [2, 5])
def test_logistic_regression_ends_at_its_minimum(classes, dtype):
    """Where the slope of penalty and loss is nothing; another order of the rows then ends there too."""
    random = np.random.default_rng(0)
    labels = np.arange(200) % classes
    features = random.normal(size=(200, 300)) + 0.3 * np.eye(300)[labels]
    features = (features * random.lognormal(size=300)).astype(dtype)
    fitted = classifier("logistic").fit(features, labels)
    predicted = probabilities(fitted, features, classes)
    residuals = predicted - np.eye(classes)[labels]
    if classes == 2:
        residuals = residuals[:, 1:]
    np.testing.assert_allclose(residuals.T @ fitted[:-1].transform(features) + fitted[-1].coef_, 0, atol=1e-4)
    order = random.permutation(200)
    again = classifier("logistic").fit(features[order], labels[order])
    np.testing.assert_allclose(probabilities(again, features, classes), predicted, atol=1e-5)


@pytest.mark.parametrize("name", ["lasso", "svm"])
def test_the_intercept_is_all_but_free(name):
    """Where features say nothing, each class has its share of the items."""
    labels = np.arange(64) % 8 == 0
    predicted = probabilities(classifier(name).fit(np.zeros((64, 1)), labels), np.zeros((1, 1)), 2)
    margin = np.log(predicted[0, 1] / predicted[0, 0])
    assert margin == pytest.approx(np.log(1 / 7) if name == "lasso" else -3 / 4, abs=0.02)


def test_refusals_of_held_out():
    features, labels = blobs()
    with pytest.raises(ValueError, match="expected as many of each, got 90, 90 and 3"):
        held_out("logistic", features, labels, np.arange(3), 3)
    with pytest.raises(ValueError, match=r"folds: expected at least two, got \[4\]"):
        held_out("logistic", features, labels, np.full(90, 4), 3)
