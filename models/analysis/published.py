"""What the papers report, in percent, for tables that set it beside what was measured."""

# He & Ding 2020.
METHODS = ("CTD", "CBD", "DAN", "JAN", "Ours")

# Their table 2: task -> method -> accuracy.
ACCURACY = {
    "F->I": dict(zip(METHODS, (24.81, 26.30, 25.93, 27.78, 29.63), strict=True)),
    "A->I": dict(zip(METHODS, (22.96, 24.44, 30.00, 27.41, 27.04), strict=True)),
    "F->A": dict(zip(METHODS, (39.66, 36.92, 36.24, 36.75, 37.61), strict=True)),
    "I->A": dict(zip(METHODS, (30.77, 34.56, 36.78, 34.81, 39.15), strict=True)),
}

# Images tested over the five folds. The paper does not print them; they are what its accuracies are fractions of (all
# ten on IAPS, seven of ten on ArtPhoto) and what 15 % of each class, rounded down, adds to, without IAPS's anger.
TESTED = {"F->I": 270, "A->I": 270, "F->A": 585, "I->A": 585}

# Rao, Xu & Xu, on Flickr and Instagram. Table I: convolutional layers -> accuracy.
DEPTH = {2: 52.12, 3: 58.34, 4: 67.24, 5: 67.55, 6: 67.68}

# Table II: training set -> fusion -> accuracy.
FUSION = {
    "well": {"concat": 66.92, "max": 64.79, "min": 62.44, "mean": 67.24},
    "noisy": {"concat": 55.34, "max": 53.68, "min": 49.32, "mean": 59.85},
}

# Table III: method -> accuracy.
FI = {
    "Zhao et al.": 46.52,
    "Rao et al.": 51.67,
    "AlexNet + SVM": 57.89,
    "AlexNet": 58.61,
    "VGG-19": 59.32,
    "ResNet-101": 60.82,
    "MldrNet": 67.24,
    "MldrNet + Bi-GRU": 73.03,
}

# Table IV, on MART, ten-fold cross-validation: method -> accuracy.
MART = {
    "TSVM": 69.2,
    "LMC": 71.8,
    "Lasso": 68.2,
    "Group Lasso": 70.5,
    "NLMC": 72.8,
    "AlexNet": 69.8,
    "MldrNet": 76.4,
}
