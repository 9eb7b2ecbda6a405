"""Files of a trained encoder that are damaged or do not belong together: one error that names the file."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from bilingual_embedding.model.checkpoint import CONFIG, WEIGHTS, load_encoder, save_encoder
from bilingual_embedding.model.encoder import Encoder
from bilingual_embedding.model.tokenizer import FILE_NAME, BilingualTokenizer
from fuxictr_multimodal.errors import DataError

MORE = ["many more words than an encoder with so few rows knows"] * 9


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("encoder")
    texts = {"en": ["one two three"] * 9, "de": ["eins zwei drei"] * 9}
    tokenizer = BilingualTokenizer.train(texts, vocabulary_size=280)
    encoder = Encoder.from_preset("nano", vocabulary_size=tokenizer.vocabulary_size)
    save_encoder(folder, encoder, tokenizer)
    return folder


def config(**other):
    def damage(path):
        path.write_text(json.dumps({**json.loads(path.read_text()), **other}))

    return damage


def weight(change):
    def damage(path):
        weights = load_file(path)
        change(weights)
        save_file(weights, path)

    return damage


def with_nan(weights):
    weights["pooler.bias"][3] = float("nan")


def in_half(weights):
    weights["pooler.bias"] = weights["pooler.bias"].half()


def without_one(weights):
    weights.pop("pooler.bias")


def longer(weights):
    weights["pooler.bias"] = torch.ones(7)


@pytest.mark.parametrize(
    ("name", "damage", "said"),
    [
        (
            CONFIG,
            config(vocabulary_size=2**31 - 1),
            r"config\.json is not .*: it describes [\d,]+ weights, more than .*room",
        ),
        (CONFIG, config(layers="2"), r"config\.json is not .*: layers must be a whole number from 0 to \d+, found '2'"),
        (CONFIG, config(layers=-1), r"config\.json is not .*: layers must be a whole number from 0 to \d+, found '-1'"),
        (CONFIG, config(max_length=10**30), r"config\.json is not .*: max_length must be a whole number from 1 to"),
        (CONFIG, config(dropout=7), r"config\.json is not .*: dropout must be from 0 to below 1"),
        (CONFIG, lambda path: path.write_text("[1]"), r"config\.json is not an encoder's configuration"),
        (CONFIG, lambda path: path.write_bytes(b"\xff\xfe"), r"config\.json is not an encoder's configuration"),
        (CONFIG, lambda path: path.write_text("[" * 99_999), r"config\.json is not an encoder's configuration"),
        (WEIGHTS, lambda path: path.write_bytes(path.read_bytes()[:999]), r"model\.safetensors cannot be read"),
        (WEIGHTS, lambda path: path.write_bytes(b""), r"model\.safetensors cannot be read"),
        (WEIGHTS, lambda path: path.write_bytes(b"\xff" * 99), r"model\.safetensors cannot be read"),
        (WEIGHTS, weight(with_nan), r"model\.safetensors: the weight 'pooler.bias' holds a value that is not finite"),
        (WEIGHTS, weight(in_half), r"model\.safetensors: the weight 'pooler.bias' is torch.float16, but the model"),
        (WEIGHTS, weight(without_one), r"model\.safetensors lacks the weight 'pooler.bias' that the model has"),
        (
            WEIGHTS,
            weight(longer),
            r"model\.safetensors: the weight 'pooler.bias' has shape \(7,\), but the model needs",
        ),
        (FILE_NAME, lambda path: path.write_text("{}"), r"tokenizer\.json is not a tokenizer file"),
        (
            FILE_NAME,
            lambda path: path.write_text(path.read_text().replace("<sep>", "<end>")),
            r"tokenizer\.json: the tokenizer has None as the id of '<sep>'",
        ),
        (
            FILE_NAME,
            lambda path: BilingualTokenizer.train({"en": MORE}, vocabulary_size=320).write(path),
            r"tokenizer\.json has \d+ tokens, but .*config\.json has rows for \d+: they are of different encoders",
        ),
    ],
)
def test_a_damaged_file_is_named(trained, tmp_path, name, damage, said):
    folder = tmp_path / "encoder"
    shutil.copytree(trained, folder)
    damage(folder / name)
    with pytest.raises(DataError, match=said) as caught:
        load_encoder(folder)
    assert str(caught.value).startswith(str(folder / name))
    assert "\n" not in str(caught.value)
