"""QIN, the Quadratic Interest Network (arXiv 2504.17699), as a model of the FuxiCTR zoo.

Shape legend: B rows, T padded history slots, D width of the target, F width of the interaction.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from fuxictr.pytorch.models import BaseModel
from fuxictr.pytorch.torch_utils import get_regularizer
from torch import Tensor, nn

from fuxictr_multimodal.data.batch import Batch, Jagged
from fuxictr_multimodal.errors import ConfigError, InputError, did_you_mean
from fuxictr_multimodal.system.torch_files import check_weights, read_torch
from model_zoo.QIN.attention import JaggedHistory, MeanPooling
from model_zoo.QIN.contrastive import history_contrast
from model_zoo.QIN.feature_dropout import FeatureDropout
from model_zoo.QIN.fields import FIRST, Fields
from model_zoo.QIN.first_order import FirstOrder
from model_zoo.QIN.folded import FoldedQIN
from model_zoo.QIN.folded_parts import TrainedParts
from model_zoo.QIN.inputs import Inputs, RowReader, columns_of, columns_on, items_of
from model_zoo.QIN.interest_network import InterestNetwork
from model_zoo.QIN.optimizer import own_optimizer, without
from model_zoo.QIN.options import REMOVED, QINOptions, flat_signature
from model_zoo.QIN.penalty import penalty, split_parameters
from model_zoo.QIN.precision import Precision, in_precision
from model_zoo.QIN.rowwise import add_penalty, clip_gradients, update_rowwise
from model_zoo.QIN.similarity import Similarity

if TYPE_CHECKING:
    from fuxictr.features import FeatureMap

    from fuxictr_multimodal.data.item_table import ItemTable

MIN_LEARNING_RATE = 1e-6


class QIN(BaseModel):
    """Logit = head(x), x = [context features, x_t, out]: x_t the target item, out its history pooled for it.

    The defaults are the published configuration: on MicroLens_1M_MMCTR 31,244,293 parameters and a valid AUC of 0.9701.
    Inputs are a `Batch` (ids; an item table must be attached), FuxiCTR's LongCTR triple
    `(batch_dict, item_dict, mask)`, or the flat columns of FuxiCTR's other models, by name. Any number of pretrained
    embeddings, tags and ids of an item take part, as the feature map says with `source: item`. In flat columns
    histories are the sequences that share the embedding of a target field, or `din_sequence_field`; without any, QIN is
    the quadratic network over the features. Each of several kinds of history has an attention of its own.

    Args:
        feature_map: features and labels; `source: item` marks what an item has, `event` what a history event has.
        **params: the options of `options.py` by name, and the rest of FuxiCTR's parameter dictionary (dataset, loader,
            seed), not read here.

    Raises:
        ConfigError: a value that an option does not have, options that do not go together, or one that was removed.
    """

    removed_options = REMOVED

    def __init__(self, feature_map: FeatureMap, **params: Any) -> None:
        options = QINOptions.of(params)
        optimizer, loss = options.optimizer, options.loss
        super().__init__(feature_map, **options.base.as_arguments(), **optimizer.regularizers())
        self.options = options
        self.form = "fast" if options.compute.form == "auto" else options.compute.form
        self.precision = Precision(options.compute.precision, self.device)
        self.accumulation_steps = optimizer.accumulation_steps
        self.mean_history = MeanPooling()
        self.item_table: ItemTable | None = None
        # What FuxiCTR's `fit` sets; these values make a single `train_step` outside of it a whole epoch.
        self._batch_index, self._steps_per_epoch, self._max_gradient_norm = 0, 1, 10.0

        specs = {name: spec for name, spec in feature_map.features.items() if spec["type"] != "meta"}
        self.fields = fields = Fields.of(
            feature_map,
            params,
            event_features=options.inputs.event_features,
            target_fields=options.inputs.din_target_field,
            sequence_fields=options.inputs.din_sequence_field,
        )
        if options.loss.contrastive_loss and not fields.behaviours:
            raise ConfigError("contrastive_loss ties histories to targets, but the dataset has no history: set it to 0")
        compared = options.attention.attention_similarity
        self.similarity = Similarity({n: specs[n] for n in fields.items}) if compared else None
        read = {name: spec for name, spec in specs.items() if name in (*fields.context, *fields.target)}
        self.feature_dropout = FeatureDropout(options.inputs.feature_dropout or {}, read, fields.target)
        similarities = 0 if self.similarity is None else len(self.similarity.names)
        self.network = network = InterestNetwork(feature_map, options, fields, similarities=similarities)
        # Its parts are the model's own: published weights have these names.
        self.embedding_layer, self.attention_layers = network.embedding_layer, network.attention_layers
        self.behaviour_attention = network.behaviour_attention
        self.qnn, self.mlp = network.qnn, network.mlp
        self.item_vectors = network.item_vectors
        self.context_features = fields.context
        self.rowwise_tables: dict[str, nn.Embedding] = {}
        if optimizer.embedding_update == "rowwise":
            tables = dict(self.embedding_layer.embedding_layer.embedding_layers.items())
            self.rowwise_tables = update_rowwise(tables, min_rows=optimizer.rowwise_min_rows)
        self.first_order: FirstOrder | None = None
        if terms := options.first_order.first_order:
            self.first_order = FirstOrder(
                read,
                terms,
                options.first_order.first_order_regularizer,
                averaging=options.first_order.first_order_averaging,
            )
        self.compile(optimizer.optimizer, loss.loss, optimizer.learning_rate)
        self.reset_parameters()
        self.model_to_device()

    def attach(self, item_table: ItemTable) -> None:
        """Give the model the item features that a `Batch` refers to; they are not part of its state.

        Raises:
            InputError: the table lacks a feature of the feature map.
        """
        if self.fields.flat:
            return
        for name in self.item_vectors.features:
            if name not in item_table.features:
                raise InputError(f"the item table lacks {name!r}. {did_you_mean(name, item_table.features)}")
        self.item_table = item_table.to(self.device)
        if self.similarity is not None:
            self.similarity.fit(self.item_table.features)
        self.forget()

    def forget(self) -> None:
        """Drop what was prepared for scoring. Needed only after writing to weights through `.data`."""
        self.network.forget()

    @in_precision
    def forward(self, inputs: Inputs) -> dict[str, Any]:
        """Return `y_pred` (B, 1), a probability in classification, and `logit` (B, 1).

        Where first-order terms have their own loss, the logit is the mean of the network's and theirs, by
        `first_order_share`, and `parts` (2, B, 1) are the `y_pred` of both. With `contrastive_loss`, in training,
        `contrasted` are target and mean history of the first behaviour, each (B, D) and of items alone, and `share` is
        that of the batch.
        """
        columns = self._columns(inputs)
        context = {name: columns[name] for name in self.context_features}
        reader = self._read(inputs, columns)
        options, network = self.options, self.network
        seen, shown = self.feature_dropout(context), self.feature_dropout.of_items(self.device)
        target_BD, interests = reader.interests(self.item_vectors, shown)
        x_BF = network.read(seen, target_BD, interests, self.precision)
        for_loss: dict[str, Any] = {}
        if options.loss.contrastive_loss and self.training:
            item_BD, history = items_of(*interests[0], None if self.fields.flat else network.item_width)
            for_loss["contrasted"] = item_BD, self.mean_history(item_BD, history)
            for_loss["share"] = inputs.share if isinstance(inputs, Batch) else None
        logit_B1 = network.interact(x_BF, form=self.form, precision=self.precision)
        if self.first_order is not None:
            linear_B1 = self.first_order(columns, reader.row_items)
            if options.first_order.own_loss:
                for_loss["parts"] = self.output_activation(torch.stack([logit_B1, linear_B1]))
                logit_B1 = torch.lerp(logit_B1, linear_B1, options.first_order.first_order_share)
            else:
                logit_B1 = logit_B1 + linear_B1
        return {"y_pred": self.output_activation(logit_B1), "logit": logit_B1, **for_loss}

    def fold(self) -> FoldedQIN:
        """The inference form of the model as it is now, which is switched to scoring; equal to float32 accuracy.

        Raises:
            InputError: no item table is attached, or the dataset is flat: such a model is scored as it is.
        """
        if self.fields.flat:
            raise InputError(
                f"QIN folds for datasets with items, but {self.feature_map.dataset_id} is flat: score with the model"
            )
        table = self._table()
        self.eval()
        terms = self.options.first_order
        return FoldedQIN(
            TrainedParts(
                network=self.network,
                fields=self.fields,
                specs=self.feature_map.features,
                similarity=self.similarity,
                first_order=self.first_order,
                share=terms.first_order_share if terms.own_loss else None,
                activation=self.output_activation,
                precision=self.precision,
                table=table,
            )
        )

    @torch.no_grad()
    def attention_weights(self, batch: Batch, behaviour: str = FIRST) -> Jagged:
        """The weight a_s of every item of a history, in the order of its values; dropout is off.

        Those of `pooling: mean` are 1 / (length of the history). In flat columns the items are the slots that hold one.

        Raises:
            InputError: the dataset has no such history.
        """
        names = [known.name for known in self.fields.behaviours]
        if behaviour not in names:
            raise InputError(f"there are no weights of the history {behaviour!r}: QIN reads {names or 'none'}")
        reader = self._read(batch, self._columns(batch), fast=True)
        place = names.index(behaviour)
        target_BD, history = reader.interests(self.item_vectors)[1][place]
        assert isinstance(history, JaggedHistory)
        return Jagged(self.network.attentions[place].weights(target_BD, history), history.slots.offsets)

    def get_inputs(self, inputs: Inputs, feature_source: str | Sequence[str] | None = None) -> Any:
        """The LongCTR triple on the model's device, or flat columns; labels and meta columns are left out."""
        if self.fields.flat:
            return super().get_inputs(
                {name: v for name, v in columns_of(inputs).items() if name in self.feature_map.features}, feature_source
            )
        (slots,) = self._read(inputs, {}, fast=False).slots
        return self._columns(inputs, feature_source), slots.features, slots.mask_BT

    def get_labels(self, inputs: Inputs) -> Tensor:
        """Labels (B, 1), float32."""
        return columns_of(inputs)[self.feature_map.labels[0]].to(self.device).float().view(-1, 1)

    def get_group_id(self, inputs: Inputs) -> Tensor:
        """Group ids (B,), on the CPU, where FuxiCTR reads them."""
        if isinstance(inputs, Batch) and inputs.group is not None:
            return inputs.group.cpu()
        return columns_of(inputs)[self.feature_map.group_id].cpu()

    @in_precision
    def train_step(self, batch_data: Inputs) -> Tensor:
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

        With `first_order_loss=own`, network and first-order terms are trained on the label by themselves, as by the
        auxiliary losses of DCNv3 (arXiv 2407.13349): the sum of loss(y_k, label). With `contrastive_loss`, that weight
        times the contrast of target and history is added.
        """
        y_pred = return_dict["y_pred"]
        y_true = y_true.to(y_pred.dtype)
        parts = return_dict.get("parts", [y_pred])
        losses = [self.loss_fn(y_part, y_true, reduction="mean") for y_part in parts]
        if "contrasted" in return_dict:
            target_BD, mean_BD = return_dict["contrasted"]
            contrast = history_contrast(target_BD, mean_BD, y_true.view(-1), return_dict["share"])
            losses.append(self.options.loss.contrastive_loss * contrast)
        return torch.stack(losses).sum()

    def regularization_loss(self) -> Tensor | float:
        """lambda / p * sum |w|^p over the parameters of embedding layers, and over all others: FuxiCTR's value.

        Tables that are updated row by row are left out: `train_step` adds the gradient of their rows' penalty.
        First-order terms have their own penalty.
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
        self.optimizer: torch.optim.Optimizer = own_optimizer(
            self.optimizer,
            fused=self.form == "fast",
            rowwise=bool(self.rowwise_tables),
            apart={self.options.first_order.first_order_learning_rate: first_order} if first_order else {},
        )
        forget = weakref.WeakMethod(self.forget)  # no reference cycle: a dropped model is freed at once
        self.optimizer.register_step_post_hook(lambda *_: (known := forget()) and known())

    def lr_decay(self, factor: float | None = None, min_lr: float = MIN_LEARNING_RATE) -> float:
        """Multiply the learning rate with `factor`, the model's own by default; return the new one."""
        return super().lr_decay(self.options.optimizer.factor if factor is None else factor, min_lr)

    def train(self, mode: bool = True) -> QIN:
        """Switch between training and scoring."""
        self.item_vectors.forget()
        return super().train(mode)

    def save_weights(self, checkpoint: str | Path) -> None:
        """Write the weights; the folder is made."""
        Path(checkpoint).parent.mkdir(parents=True, exist_ok=True)
        super().save_weights(checkpoint)

    def load_weights(self, checkpoint: str | Path) -> None:
        """Load weights; tensors only, no code from the file is run.

        Raises:
            DataError: the file is missing or damaged, or a weight does not fit the model or is not finite.
        """
        path, remedy = Path(checkpoint), "train it again, or name the weights of this model"
        weights = read_torch(path, device=self.device, remedy=remedy)
        self.load_state_dict(check_weights(weights, self, path, remedy=remedy))

    def _read(self, inputs: Inputs, columns: Mapping[str, Tensor], *, fast: bool | None = None) -> RowReader:
        of_ids = isinstance(inputs, Batch) and not self.fields.flat
        return RowReader.of(
            inputs,
            self.fields,
            columns=columns,
            table=self._table() if of_ids else None,
            device=self.device,
            fast=self.form == "fast" if fast is None else fast,
            similarity=self.similarity,
        )

    def _columns(self, inputs: Inputs, feature_source: str | Sequence[str] | None = None) -> dict[str, Tensor]:
        """Context features, and what else of a target is among the columns, on the device."""
        return columns_on(self.device, inputs, self.fields, self.feature_map.features, feature_source)

    def _table(self) -> ItemTable:
        if self.item_table is None:
            raise InputError("a Batch holds item ids only: call attach(item_table) before the model reads one")
        return self.item_table


# FuxiCTR, the runner and editors look here for the names of a model's parameters.
QIN.__init__.__dict__["__signature__"] = flat_signature()
