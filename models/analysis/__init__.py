"""What is made of results: figures, tables, and how much a difference means.

* `predictions`: the `predictions.csv` of runs as arrays.
* `accuracy`: accuracy of each class with its uncertainty.
* `metrics`: macro-F1, balanced accuracy, and positive against negative emotions.
* `figures`: confusion matrices, accuracies by class and by method, a sweep of a weight.
* `embedding`: t-SNE of both domains before and after training.
* `distance`: proxy A-distance between domains.
* `significance`: paired comparisons of methods on the same test images.
* `filters`: of each convolutional layer the strongest filter, and the patches of images that excite it most.
* `receptive_fields`: which pixels the places of a layer's maps depend on.
* `distributions`: pictures beside the emotion distributions that are predicted for them.
* `retrieval`: the images that are the surest of each class, and precision at k.
* `one_against_all`: each class of a small set against all others, with fixed features.
* `published`: what the papers report.
* `tables`: one table as Markdown and as LaTeX.
"""
