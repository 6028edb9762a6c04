"""The stand-in's models: small neural networks over a customer's purchases.

The features are recency, frequency, money spent and tenure at an anchor time, from purchases before
the anchor only. scikit-learn fits a model in a third of a second. The weights are stored as plain
arrays, so predicting needs numpy alone. The activations of the hidden layer are the embedding.
Fitting is deterministic, and days are counted from the start of the data, so the weights do not
depend on the day when the data folder was made.

These are stand-ins, not Kumo's models.
"""

from __future__ import annotations

import hashlib
import json
import threading
import uuid
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dagster_kumo.local.model.data import purchases
from dagster_kumo.local.model.tasks import BANDS, HORIZON_DAYS, Recipe

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Raise it when features or fitting change, so that cached weights are not used again.
_VERSION = 1
_WINDOWS = (14, 30, 60, 120)
# A few very large orders would otherwise steer the regression.
_SPEND_CAP = 200.0


@dataclass(frozen=True)
class Model:
    """A fitted model: the weights of a network with one hidden layer, and its metrics."""

    task: str
    mean: NDArray[Any]
    scale: NDArray[Any]
    hidden: NDArray[Any]
    hidden_bias: NDArray[Any]
    output: NDArray[Any]
    output_bias: NDArray[Any]
    target_scale: float
    # {"training_metrics": {name: value}, "validation_metrics": ..., "test_metrics": ...}
    metrics: dict[str, dict[str, float]]
    # The loss on the training data after each epoch; empty for a model that an older version has stored.
    losses: list[float] = field(default_factory=list[float])

    def embed(self, features: NDArray[Any]) -> NDArray[Any]:
        """The hidden layer's activations, one row for each row of features."""
        scaled = (features - self.mean) / self.scale
        return np.maximum(scaled @ self.hidden + self.hidden_bias, 0).astype(np.float32)

    def predict(self, features: NDArray[Any]) -> NDArray[Any]:
        """Binary: the probability of buying. Regression: dollars. Multiclass: a column for each band."""
        raw = self.embed(features) @ self.output + self.output_bias
        if self.task == "regression":
            return np.maximum(raw[:, 0] * self.target_scale, 0)
        if self.task == "binary_classification":
            return 1 / (1 + np.exp(-raw[:, 0]))
        exp = np.exp(raw - raw.max(axis=1, keepdims=True))
        return exp / exp.sum(axis=1, keepdims=True)


def entities_at(day: int) -> NDArray[np.int64]:
    """The customers known as `day` begins: those with a purchase on an earlier day, in order."""
    rows = purchases()
    return np.unique(rows.customer[rows.day < day])


def features_at(day: int, entities: NDArray[np.int64]) -> NDArray[Any]:
    """The features of the customers as `day` begins, from purchases on earlier days only."""
    rows = purchases()
    known = rows.day < day
    customer, when = rows.customer[known], rows.day[known]
    dollars, cds = rows.cents[known] / 100, rows.cds[known]
    size = int(max(rows.customer.max(), entities.max(initial=0))) + 1

    last = np.full(size, -1)
    np.maximum.at(last, customer, when)
    # A customer never seen before the anchor counts as new on the day of the anchor.
    first = np.full(size, day)
    np.minimum.at(first, customer, when)
    recency = np.where(last < 0, day, day - last)
    tenure = day - first

    columns = [
        np.log1p(recency),
        np.log1p(tenure),
        recency / np.maximum(tenure, 1),
        np.log1p(np.bincount(customer, minlength=size)),
        np.log1p(np.bincount(customer, dollars, minlength=size)),
        np.log1p(np.bincount(customer, cds, minlength=size)),
    ]
    for window in _WINDOWS:
        recent = when >= day - window
        columns.append(np.log1p(np.bincount(customer[recent], minlength=size)))
        columns.append(np.log1p(np.bincount(customer[recent], dollars[recent], minlength=size)))
    return np.stack(columns, axis=1)[entities]


def labels_after(day: int, entities: NDArray[np.int64], task: str) -> NDArray[Any]:
    """What the customers did in the 30 days from `day` on."""
    rows = purchases()
    after = (rows.day >= day) & (rows.day < day + HORIZON_DAYS)
    size = int(rows.customer.max()) + 1
    count = np.bincount(rows.customer[after], minlength=size)[entities]
    if task == "binary_classification":
        return (count > 0).astype(np.int64)
    if task == "multiclass_classification":
        return np.minimum(count, len(BANDS) - 1)
    return np.bincount(rows.customer[after], rows.cents[after] / 100, minlength=size)[entities]


_models: dict[tuple[str, Recipe], Model] = {}
_fitting = threading.RLock()


def load_model(task: str, recipe: Recipe, cache: Path) -> Model:
    """The model for a task, fitted on first use and kept in `cache` and in memory."""
    with _fitting:
        model = _models.get((task, recipe))
        if model is None:
            name = f"{task}-{recipe.split.cutoff}"
            if recipe != Recipe(recipe.split):
                name += f"-{hashlib.sha256(repr(recipe).encode()).hexdigest()[:12]}"
            path = cache / f"{name}-v{_VERSION}.npz"
            base = recipe.base and load_model(task, recipe.base, cache)
            model = _read(path) or _fit(task, recipe, base)
            _models[task, recipe] = model
            if not path.exists():
                _write(path, model)
        return model


def _fit(task: str, recipe: Recipe, base: Model | None) -> Model:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.neural_network import MLPClassifier, MLPRegressor

    split = recipe.split
    entities = [entities_at(day) for day in split.train]
    features = np.concatenate(
        [features_at(day, who) for day, who in zip(split.train, entities, strict=True)]
    )
    labels = np.concatenate(
        [labels_after(day, who, task) for day, who in zip(split.train, entities, strict=True)]
    )
    mean, scale = features.mean(axis=0), features.std(axis=0)
    if base is not None:
        mean, scale = base.mean, base.scale
    options: dict[str, Any] = {
        "hidden_layer_sizes": (len(base.hidden_bias) if base else recipe.channels,),
        "max_iter": recipe.epochs,
        "batch_size": 512,
        "alpha": 1e-3,
        "random_state": 7,
    }
    target_scale = 1.0
    if task == "regression":
        labels = np.minimum(labels, _SPEND_CAP)
        target_scale = base.target_scale if base else float(labels.std())
        network = MLPRegressor(learning_rate_init=recipe.learning_rate or 2e-3, **options)
        labels = labels / target_scale
    else:
        network = MLPClassifier(learning_rate_init=recipe.learning_rate or 5e-3, **options)
    scaled = (features - mean) / scale
    with warnings.catch_warnings():
        # A few passes over the data are enough here. scikit-learn warns that the fit has not converged.
        warnings.simplefilter("ignore", ConvergenceWarning)
        if base is not None:
            network.set_params(max_iter=1, warm_start=True).fit(scaled, labels)  # makes the layers
            network.coefs_ = [base.hidden.copy(), base.output.copy()]
            network.intercepts_ = [base.hidden_bias.copy(), base.output_bias.copy()]
            network.set_params(max_iter=recipe.epochs)
        network.fit(scaled, labels)
    weights: Any = network.coefs_
    biases: Any = network.intercepts_
    model = Model(
        task=task,
        mean=mean,
        scale=scale,
        hidden=weights[0],
        hidden_bias=biases[0],
        output=weights[1],
        output_bias=biases[1],
        target_scale=target_scale,
        metrics={},
        losses=[float(loss) for loss in network.loss_curve_[-recipe.epochs :]],
    )
    model.metrics.update(
        training_metrics=_measure(model, split.train[-1]),
        validation_metrics=_measure(model, split.validation),
        test_metrics=_measure(model, split.holdout),
    )
    return model


def _measure(model: Model, day: int) -> dict[str, float]:
    """The metrics of the model at one anchor, against what the customers then did."""
    from sklearn import metrics

    entities = entities_at(day)
    truth = labels_after(day, entities, model.task)
    guess = model.predict(features_at(day, entities))
    if model.task == "binary_classification":
        values = {
            "auroc": metrics.roc_auc_score(truth, guess),
            "auprc": metrics.average_precision_score(truth, guess),
            "acc": metrics.accuracy_score(truth, guess >= 0.5),
        }
    elif model.task == "regression":
        values = {
            "mae": metrics.mean_absolute_error(truth, guess),
            "mse": metrics.mean_squared_error(truth, guess),
            "rmse": metrics.mean_squared_error(truth, guess) ** 0.5,
        }
    else:
        values = {
            "acc": metrics.accuracy_score(truth, guess.argmax(axis=1)),
            "ce": metrics.log_loss(truth, guess, labels=range(len(BANDS))),
        }
    return {name: float(value) for name, value in values.items()}


_ARRAYS = ("mean", "scale", "hidden", "hidden_bias", "output", "output_bias")


def _write(path: Path, model: Model) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    about = {name: getattr(model, name) for name in ("task", "target_scale", "metrics", "losses")}
    part = path.with_name(f".{uuid.uuid4().hex}.npz")
    arrays = {name: getattr(model, name) for name in _ARRAYS}
    np.savez(part, about=np.array(json.dumps(about)), **arrays)
    part.replace(path)


def _read(path: Path) -> Model | None:
    if not path.exists():
        return None
    with np.load(path, allow_pickle=False) as stored:
        about = json.loads(str(stored["about"]))
        arrays = {name: stored[name] for name in _ARRAYS}
    return Model(**about, **arrays)
