"""What is made of results: figures, tables, and how much a difference means.

* `predictions`: the `predictions.csv` of runs as arrays.
* `accuracy`: accuracy of each class with its uncertainty.
* `figures`: confusion matrices, accuracies by class and by method, a sweep of a weight.
* `embedding`: t-SNE of both domains before and after training.
* `distance`: proxy A-distance between domains.
* `significance`: paired comparisons of methods on the same test images.
* `published`: what the paper reports.
* `tables`: one table as Markdown and as LaTeX.
"""
