"""QIN, the Quadratic Interest Network (arXiv 2504.17699), as a model of the FuxiCTR zoo.

Shape legend: B rows, T padded history slots, D item width, C context width, F = C + 2 D width of the interaction.
"""

from __future__ import annotations

import inspect
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from fuxictr.pytorch.models import BaseModel
from fuxictr.pytorch.torch_utils import get_regularizer
from fuxictr.utils import not_in_whitelist
from torch import Tensor, nn

from fuxictr_multimodal.data.batch import Batch, Jagged
from fuxictr_multimodal.errors import ConfigError, InputError, did_you_mean
from fuxictr_multimodal.zoo.layouts import as_longctr
from model_zoo.QIN.attention import JaggedHistory, MeanPooling, PaddedHistory
from model_zoo.QIN.contrastive import history_contrast
from model_zoo.QIN.feature_dropout import FeatureDropout
from model_zoo.QIN.first_order import FirstOrder
from model_zoo.QIN.interest_network import InterestNetwork
from model_zoo.QIN.item_vectors import ItemVectors
from model_zoo.QIN.optimizer import own_optimizer, without
from model_zoo.QIN.penalty import as_regularizer, penalty, split_parameters
from model_zoo.QIN.precision import PRECISIONS, Precision, in_precision
from model_zoo.QIN.row_items import RowItems
from model_zoo.QIN.rowwise import add_penalty, clip_gradients, update_rowwise
from model_zoo.QIN.similarity import SimilarityTiers

if TYPE_CHECKING:
    from fuxictr.features import FeatureMap

    from fuxictr_multimodal.data.item_table import ItemTable

# The batch of FuxiCTR's LongCTR models: context columns, flat item features (B * (T + 1), ...), mask (B, T).
Triple = tuple[dict[str, Tensor], dict[str, Tensor], Tensor]
FORMS = ("auto", "plain", "fast")
MIN_LEARNING_RATE = 1e-6


class QIN(BaseModel):
    """Logit = head(x), x = [context features, x_t, out]: x_t the target item, out its history pooled for it.

    The defaults are the published configuration: on MicroLens_1M_MMCTR 31,244,293 parameters and a valid AUC of 0.9701.
    Inputs are a `Batch` (ids; an item table must be attached) or FuxiCTR's LongCTR triple
    `(batch_dict, item_dict, mask)`. Any number of given embeddings, tags and ids of an item take part, as the feature
    map says with `source: item`.

    Args:
        feature_map: features and labels; `source: item` marks what an item has.
        model_id: name of the checkpoint.
        gpu: index of the GPU, -1 for the CPU.
        form: `plain` computes everything as the paper writes it, over padded histories; `fast` gives the same values
            and gradients up to rounding; `auto` is `fast`.
        precision: of the matrix products: `float32`, `tf32`, `bf16` or `auto` (`precision.py`).
        compile: fuse the quadratic layers of the fast form by `torch.compile` (`quadratic_compiled.py`).
        embedding_dim: width of each embedded feature that does not set its own.
        num_layers: quadratic layers.
        num_row: linear maps in each of them, R; 3 where training with 4 is unstable.
        net_dropout: dropout rate of the interaction.
        batch_norm: batch norm in the interaction.
        activation: `prelu` or `relu`, in the quadratic layers.
        interaction: `quadratic`, or `mlp` for the ablation.
        quadratic_variant: `rows`, or `heads` with the activation inside (`quadratic_heads.py`).
        heads: maps in each layer of the `heads` variant.
        self_ensemble: train on two passes with different dropout, each also towards their mean (see `add_loss`).
        networks: independent networks with embeddings of their own, each trained on the label by itself; the logit is
            the mean of theirs.
        similarity_tiers: above 0, the network also reads how many history items are how similar to the target in each
            given embedding, as a histogram of that many parts (`similarity.py`).
        feature_dropout: names of features, each with the share of training in which the networks read it as unknown, as
            for users whom train does not know: of the rows, or of the values of a categorical item feature, such as the
            ids of items (`feature_dropout.py`); first-order terms still read it.
        contrastive_loss: weight of a second loss that ties the mean history of a positive row to its target
            (`contrastive.py`); 3 to 100 on MovieLens.
        first_order: names of features whose values get a weight each, in the logit, and of crosses of them, as in
            `user*item_tags` (`first_order.py`); none by default.
        first_order_loss: `joint` adds their logit; `own` trains it on the label by itself, and the logit is a mean of
            theirs and the networks' (see `add_loss`).
        first_order_share: the weight of their logit in this mean.
        first_order_regularizer: L2 weight of these weights, or one for each feature by name.
        first_order_learning_rate: of these weights at the start.
        first_order_averaging: above 0, scoring takes the weights' average over the last steps; what it keeps of itself
            in a step, such as 0.995.
        mlp_hidden_units: widths of the MLP of the ablation.
        pooling: `attention`, or `mean` for the ablation.
        attention_dim: attention width A, 2 D by default.
        attention_activation: `relu`, `softmax`, `relu2` or `silu`.
        attention_dropout: dropout rate of the attention weights.
        learning_rate: of the optimizer at the start.
        factor: the learning rate is multiplied with it at a plateau, down to 1e-6.
        optimizer: name of a torch optimizer.
        loss: name of a torch loss on probabilities.
        accumulation_steps: batches whose gradients are averaged for one optimizer step.
        embedding_regularizer: FuxiCTR's; a number is an L2 weight. Covers whole tables and projections, each step.
        embedding_update: `dense` as published, or `rowwise`: a step updates and penalises only the rows of large tables
            that its batch looks up, so that its cost does not grow with the vocabulary (`rowwise.py`); Adam only.
        rowwise_min_rows: the least number of rows of a table that `rowwise` applies to; below, dense costs little.
        net_regularizer: the same for all other parameters.
        task: `binary_classification` or `regression`.
        metrics: names of metrics for `evaluate`.
        monitor: metric, or mapping of metrics to weights, that early stopping watches.
        monitor_mode: `max` or `min`.
        early_stop_patience: evaluations without a gain until training stops.
        eval_steps: steps between evaluations; an epoch by default.
        save_best_only: keep the best checkpoint only.
        reduce_lr_on_plateau: multiply the learning rate with `factor` at an evaluation without a gain.
        model_root: folder of checkpoints.
        verbose: 0 hides progress bars.
        **params: the rest of FuxiCTR's parameter dictionary (data set, loader, seed), not read here.

    Raises:
        ConfigError: a value that is not one of those above.
    """

    def __init__(
        self,
        feature_map: FeatureMap,
        *,
        model_id: str = "QIN",
        gpu: int = -1,
        form: str = "auto",
        precision: str = "float32",
        compile: bool = False,
        embedding_dim: int = 128,
        num_layers: int = 4,
        num_row: int = 4,
        net_dropout: float = 0.1,
        batch_norm: bool = True,
        activation: str = "prelu",
        interaction: str = "quadratic",
        quadratic_variant: str = "rows",
        heads: int = 4,
        self_ensemble: bool = False,
        networks: int = 1,
        similarity_tiers: int = 0,
        feature_dropout: Mapping[str, float] | None = None,
        contrastive_loss: float = 0.0,
        first_order: Sequence[str] = (),
        first_order_loss: str = "joint",
        first_order_share: float = 0.5,
        first_order_regularizer: float | Mapping[str, float] = 1e-5,
        first_order_learning_rate: float = 0.03,
        first_order_averaging: float = 0.0,
        mlp_hidden_units: Sequence[int] = (1024, 512, 256),
        pooling: str = "attention",
        attention_dim: int | None = None,
        attention_activation: str = "relu",
        attention_dropout: float = 0.0,
        learning_rate: float = 2e-3,
        factor: float = 0.5,
        optimizer: str = "adam",
        loss: str = "binary_crossentropy",
        accumulation_steps: int = 1,
        embedding_regularizer: float | str | None = 2e-4,
        embedding_update: str = "dense",
        rowwise_min_rows: int = 50_000,
        net_regularizer: float | str | None = None,
        task: str = "binary_classification",
        metrics: Sequence[str] = ("AUC", "logloss"),
        monitor: str | Mapping[str, float] = "AUC",
        monitor_mode: str = "max",
        early_stop_patience: int = 8,
        eval_steps: int | None = None,
        save_best_only: bool = True,
        reduce_lr_on_plateau: bool = True,
        model_root: str = "./checkpoints/",
        verbose: int = 1,
        **params: Any,
    ) -> None:
        _one_of("form", form, FORMS)
        _one_of("precision", precision, PRECISIONS)
        _one_of("interaction", interaction, ("quadratic", "mlp"))
        _one_of("pooling", pooling, ("attention", "mean"))
        _one_of("quadratic_variant", quadratic_variant, ("rows", "heads"))
        _one_of("embedding_update", embedding_update, ("dense", "rowwise"))
        _one_of("first_order_loss", first_order_loss, ("joint", "own"))
        if compile and (form == "plain" or interaction != "quadratic" or quadratic_variant != "rows"):
            raise ConfigError("compile is for the fast form of quadratic layers: set it to False, or form to fast")
        if self_ensemble and not net_dropout:
            raise ConfigError("self_ensemble compares two passes with different dropout: set net_dropout above 0")
        if networks < 1:
            raise ConfigError(f"networks must be at least 1, got {networks}")
        if self_ensemble and (networks > 1 or (first_order and first_order_loss == "own")):
            raise ConfigError("self_ensemble has a loss of its own: use it with networks=1 and first_order_loss=joint")
        if not 0 <= first_order_share <= 1:
            raise ConfigError(f"first_order_share must be from 0 to 1, got {first_order_share}")
        for name, rate in (("", learning_rate), ("first_order_", first_order_learning_rate)):
            if isinstance(rate, str):
                raise ConfigError(
                    f"{name}learning_rate is the text {rate!r}: YAML reads 1.e-3 as a number, 1e-3 as text"
                )
        if contrastive_loss < 0:
            raise ConfigError(f"contrastive_loss must be 0 (none) or a weight above it, got {contrastive_loss}")
        if accumulation_steps < 1:
            raise ConfigError(f"accumulation_steps must be at least 1, got {accumulation_steps}")
        super().__init__(
            feature_map,
            model_id=model_id,
            task=task,
            gpu=gpu,
            monitor=monitor,
            save_best_only=save_best_only,
            monitor_mode=monitor_mode,
            early_stop_patience=early_stop_patience,
            eval_steps=eval_steps,
            embedding_regularizer=as_regularizer("embedding_regularizer", embedding_regularizer),
            net_regularizer=as_regularizer("net_regularizer", net_regularizer),
            reduce_lr_on_plateau=reduce_lr_on_plateau,
            verbose=verbose,
            model_root=model_root,
            metrics=list(metrics),
        )
        self.form = "fast" if form == "auto" else form
        self.factor = factor
        self.precision = Precision(precision, self.device)
        self.accumulation_steps = accumulation_steps
        self.self_ensemble = self_ensemble
        self.contrastive_loss, self.mean_history = contrastive_loss, MeanPooling()
        self.item_table: ItemTable | None = None
        # What FuxiCTR's `fit` sets; these values make a single `train_step` outside of it a whole epoch.
        self._batch_index, self._steps_per_epoch, self._max_gradient_norm = 0, 1, 10.0

        specs = {name: spec for name, spec in feature_map.features.items() if spec["type"] != "meta"}
        self.similarity = SimilarityTiers(specs, tiers=similarity_tiers) if similarity_tiers else None
        options = {
            "embedding_dim": embedding_dim,
            "pooling": pooling,
            "attention_dim": attention_dim,
            "attention_activation": attention_activation,
            "attention_dropout": attention_dropout,
            "interaction": interaction,
            "quadratic_variant": quadratic_variant,
            "num_layers": num_layers,
            "num_row": num_row,
            "heads": heads,
            "mlp_hidden_units": mlp_hidden_units,
            "net_dropout": net_dropout,
            "batch_norm": batch_norm,
            "activation": activation,
            "compile": compile,
            "histogram_width": 0 if self.similarity is None else self.similarity.width,
        }
        self.feature_dropout = FeatureDropout(feature_dropout or {}, specs)
        first, *others = self.networks = [InterestNetwork(feature_map, **options) for _ in range(networks)]
        # The parts of the first one are the model's own: published weights have these names.
        self.embedding_layer, self.attention_layers = first.embedding_layer, first.attention_layers
        self.qnn, self.mlp, self.similarity_map = first.qnn, first.mlp, first.similarity_map
        self.item_vectors = first.item_vectors
        self.other_networks = nn.ModuleList(others)
        self.context_features = first.context_features
        self.rowwise_tables: dict[str, nn.Embedding] = {}
        if embedding_update == "rowwise":
            tables = {
                f"{name} of network {number}" if networks > 1 else name: table
                for number, network in enumerate(self.networks, start=1)
                for name, table in network.embedding_layer.embedding_layer.embedding_layers.items()
            }
            self.rowwise_tables = update_rowwise(tables, min_rows=rowwise_min_rows)
        self.first_order: FirstOrder | None = None
        if first_order:
            self.first_order = FirstOrder(specs, first_order, first_order_regularizer, averaging=first_order_averaging)
        self.first_order_loss, self.first_order_share = first_order_loss, first_order_share
        self._first_order_rate = first_order_learning_rate
        self.compile(optimizer, loss, learning_rate)
        self.reset_parameters()
        self.model_to_device()

    @classmethod
    def signature_keys(cls) -> frozenset[str]:
        """Names of the parameters that this model reads."""
        named = inspect.signature(cls.__init__).parameters.values()
        return frozenset(p.name for p in named if p.kind is inspect.Parameter.KEYWORD_ONLY)

    def attach(self, item_table: ItemTable) -> None:
        """Give the model the item features that a `Batch` refers to; they are not part of its state.

        Raises:
            InputError: the table lacks a feature of the feature map.
        """
        for name in self.item_vectors.features:
            if name not in item_table.features:
                raise InputError(f"the item table lacks {name!r}. {did_you_mean(name, item_table.features)}")
        self.item_table = item_table.to(self.device)
        if self.similarity is not None:
            self.similarity.fit(self.item_table.features)
        self.forget()

    def forget(self) -> None:
        """Drop what was prepared for scoring. Needed only after writing to weights through `.data`."""
        for network in self.networks:
            network.forget()

    @in_precision
    def forward(self, inputs: Batch | Triple) -> dict[str, Any]:
        """Return `y_pred` (B, 1), a probability in classification, and `logit` (B, 1).

        Where several logits are trained, the logit is their mean (of the networks' mean and that of the first-order
        terms in their share, if these have their own loss), and `parts` (K, B, 1) are their `y_pred`. With
        `self_ensemble`, in training, `parts` are those of two passes, and `y_pred` is the mean of them. With
        `contrastive_loss`, in training, `contrasted` are target and mean history, each (B, D), of every network.
        """
        if self.form == "fast" and isinstance(inputs, Batch):
            context = self._context(inputs.features)
            # Meta columns stay on the host: copying them would wait for the device.
            ids = replace(inputs, features={}, group=None).to(self.device)
            table = self._table()
            row_items = RowItems.of_batch(ids, table)

            def items(vectors: ItemVectors) -> tuple[Tensor, JaggedHistory]:
                return vectors.of_batch(ids, table, shown)
        else:
            context, item_dict, mask_BT = self.get_inputs(inputs)
            row_items = RowItems.of_triple(item_dict, mask_BT)

            def items(vectors: ItemVectors) -> tuple[Tensor, JaggedHistory | PaddedHistory]:
                if self.form == "fast":
                    return vectors.jagged(row_items, shown)
                return vectors.padded(item_dict, mask_BT, shown)

        passes = 2 if self.self_ensemble and self.training else 1
        histogram_BH = None if self.similarity is None else self.similarity(row_items)
        seen, shown = self.feature_dropout(context), self.feature_dropout.of_items(self.device)
        logits, contrasted = [], []
        for network in self.networks:
            x_BF, (target_BD, history) = network.read(seen, items, self.precision, histogram_BH=histogram_BH)
            if self.contrastive_loss and self.training:
                contrasted.append((target_BD, self.mean_history(target_BD, history)))
            logits += [network.interact(x_BF, form=self.form, precision=self.precision) for _ in range(passes)]
        logits_KB1 = torch.stack(logits)
        logit_B1 = logits_KB1.mean(dim=0)
        if self.first_order is not None:
            linear_B1 = self.first_order(context, row_items)
            if self.first_order_loss == "own":
                logits_KB1 = torch.cat([logits_KB1, linear_B1[None]])
                logit_B1 = torch.lerp(logit_B1, linear_B1, self.first_order_share)
            else:
                logits_KB1, logit_B1 = logits_KB1 + linear_B1, logit_B1 + linear_B1
        found = {"y_pred": self.output_activation(logit_B1), "logit": logit_B1}
        if len(logits_KB1) > 1:
            found["parts"] = self.output_activation(logits_KB1)
            if passes == 2:
                found["y_pred"] = found["parts"].mean(dim=0)
        if contrasted:
            found["contrasted"] = contrasted
        return found

    @torch.no_grad()
    def attention_weights(self, batch: Batch) -> Jagged:
        """The weight a_s of every history item, in the order of `batch.history`; dropout is off.

        Those of `pooling: mean` are 1 / (length of the history); several networks give the mean of theirs.
        """
        batch = batch.to(self.device)
        weights = []
        for network in self.networks:
            target_BD, history = network.item_vectors.of_batch(batch, self._table())
            weights.append(network.attention_layers.weights(target_BD, history))
        return Jagged(torch.stack(weights).mean(dim=0), history.slots.offsets)

    def get_inputs(self, inputs: Batch | Triple, feature_source: str | Sequence[str] | None = None) -> Triple:
        """Return the LongCTR triple on the model's device; labels and meta columns are left out."""
        if isinstance(inputs, Batch):
            inputs = as_longctr(inputs.to(self.device), self._table())
        batch_dict, item_dict, mask_BT = inputs
        item_dict = {name: item_dict[name].to(self.device) for name in self.item_vectors.features}
        return self._context(batch_dict, feature_source), item_dict, mask_BT.to(self.device)

    def get_labels(self, inputs: Batch | Triple) -> Tensor:
        """Labels (B, 1), float32."""
        return _columns(inputs)[self.feature_map.labels[0]].to(self.device).float().view(-1, 1)

    def get_group_id(self, inputs: Batch | Triple) -> Tensor:
        """Group ids (B,), on the CPU, where FuxiCTR reads them."""
        if isinstance(inputs, Batch) and inputs.group is not None:
            return inputs.group.cpu()
        return _columns(inputs)[self.feature_map.group_id].cpu()

    @in_precision
    def train_step(self, batch_data: Batch | Triple) -> Tensor:
        """Add one batch's gradients; at the end of an accumulation window clip them and step.

        The window at the end of an epoch may be shorter; its gradients are averaged over its true size and stepped, so
        none leak into the next epoch. Returns the batch's loss with penalties, detached.

        NOTE[DIFF] FuxiCTR's zoo returns the loss divided by `accumulation_steps`.
        """
        first = self._batch_index - self._batch_index % self.accumulation_steps
        window = max(min(self.accumulation_steps, self._steps_per_epoch - first), 1)
        if self._batch_index == first:
            self.optimizer.zero_grad()
        loss = self.compute_loss(self.forward(batch_data), self.get_labels(batch_data))
        (loss if window == 1 else loss / window).backward()
        if self._batch_index + 1 >= first + window:
            if self.rowwise_tables:
                add_penalty(self.rowwise_tables.values(), get_regularizer(self._embedding_regularizer))
                clip_gradients(self.parameters(), self._max_gradient_norm)
            else:
                nn.utils.clip_grad_norm_(self.parameters(), self._max_gradient_norm)
            self.optimizer.step()
            if self.first_order is not None:
                self.first_order.average()
        return loss.detach()

    def add_loss(self, return_dict: dict[str, Any], y_true: Tensor) -> Tensor:
        """FuxiCTR's loss of the probabilities, in the precision of the model.

        With several logits, each is trained on the label by itself: the sum of loss(y_k, label). These are networks, as
        in a deep ensemble (arXiv 1612.01474), and first-order terms with `first_order_loss=own`, as the auxiliary
        losses of DCNv3 (arXiv 2407.13349). With `self_ensemble`: loss(y, label) + loss(y_1, y) + loss(y_2, y) with y =
        (y_1 + y_2) / 2 the mean of two passes, held fixed in the last two terms. With `contrastive_loss`, that weight
        times the contrast of each network's target and history is added.
        """
        y_pred = return_dict["y_pred"]
        y_true = y_true.to(y_pred.dtype)
        parts = return_dict.get("parts", ())
        if self.self_ensemble:
            losses = [self.loss_fn(y_pred, y_true, reduction="mean")]
            losses += [self.loss_fn(y_pass, y_pred.detach(), reduction="mean") for y_pass in parts]
        else:
            losses = [self.loss_fn(y_part, y_true, reduction="mean") for y_part in (parts if len(parts) else [y_pred])]
        for target_BD, mean_BD in return_dict.get("contrasted", ()):
            losses.append(self.contrastive_loss * history_contrast(target_BD, mean_BD, y_true.view(-1)))
        return torch.stack(losses).sum()

    def regularization_loss(self) -> Tensor | float:
        """lambda / p * sum |w|^p over the parameters of embedding layers, and over all others: FuxiCTR's value.

        Tables that are updated row by row are left out: `train_step` adds the gradient of their rows' penalty.
        First-order terms have a penalty of their own.
        """
        if self.form == "plain" and not self.rowwise_tables and self.first_order is None:
            return super().regularization_loss()
        embedding, net = split_parameters(self)
        own = [] if self.first_order is None else list(self.first_order.parameters())
        total = 0.0 if self.first_order is None else self.first_order.penalty()
        for parameters, left_out, regularizer in (
            (embedding, [table.weight for table in self.rowwise_tables.values()], self._embedding_regularizer),
            (net, own, self._net_regularizer),
        ):
            for order, weight in get_regularizer(regularizer):
                total = total + penalty(without(parameters, left_out), order=order, weight=weight)
        return total

    def compile(self, optimizer: str, loss: str, lr: float) -> None:
        """Make the optimizer and the loss; Adam in its fused form, which is one pass over the weights."""
        super().compile(optimizer, loss, lr)
        first_order = [] if self.first_order is None else list(self.first_order.parameters())
        self.optimizer = own_optimizer(
            self.optimizer,
            fused=self.form == "fast",
            rowwise=bool(self.rowwise_tables),
            apart={self._first_order_rate: first_order} if first_order else {},
        )
        forget = weakref.WeakMethod(self.forget)  # no reference cycle: a dropped model is freed at once
        self.optimizer.register_step_post_hook(lambda *_: (known := forget()) and known())

    def lr_decay(self, factor: float | None = None, min_lr: float = MIN_LEARNING_RATE) -> float:
        """Multiply the learning rate with `factor`, the model's own by default; return the new one."""
        return super().lr_decay(self.factor if factor is None else factor, min_lr)

    def train(self, mode: bool = True) -> QIN:
        """Switch between training and scoring."""
        for network in self.networks:
            network.item_vectors.forget()
        return super().train(mode)

    def save_weights(self, checkpoint: str | Path) -> None:
        """Write the weights; the folder is made."""
        Path(checkpoint).parent.mkdir(parents=True, exist_ok=True)
        super().save_weights(checkpoint)

    def load_weights(self, checkpoint: str | Path) -> None:
        """Load weights; tensors only, no code from the file is run."""
        self.load_state_dict(torch.load(checkpoint, map_location=self.device, weights_only=True))

    def _context(
        self, columns: Mapping[str, Tensor], feature_source: str | Sequence[str] | None = None
    ) -> dict[str, Tensor]:
        names = self.context_features
        if feature_source:
            specs = self.feature_map.features
            names = [name for name in names if not not_in_whitelist(specs[name]["source"], feature_source)]
        for name in names:
            if name not in columns:
                raise InputError(f"a batch lacks the feature {name!r}. {did_you_mean(name, columns)}")
        return {name: columns[name].to(self.device) for name in names}

    def _table(self) -> ItemTable:
        if self.item_table is None:
            raise InputError("a Batch holds item ids only: call attach(item_table) before the model reads one")
        return self.item_table


def _columns(inputs: Batch | Triple) -> Mapping[str, Tensor]:
    return inputs.features if isinstance(inputs, Batch) else inputs[0]


def _one_of(name: str, value: str, known: Sequence[str]) -> None:
    if value not in known:
        raise ConfigError(f"{name}={value!r} is not known. {did_you_mean(str(value), known)}")
