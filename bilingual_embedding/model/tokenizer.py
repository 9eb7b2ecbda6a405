"""Byte-level BPE on two languages: training, reading and writing `tokenizer.json`, texts to token tables.

Every byte is a token, so no text is unknown; a text is `<cls> ... <sep>`, as the encoder was published. The names of
special tokens in a text are ordinary bytes.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers, processors, trainers
from tokenizers import Tokenizer as FastTokenizer

from bilingual_embedding.model.ngrams import NgramHasher
from bilingual_embedding.model.presets import EncoderConfig
from bilingual_embedding.model.tokens import Numbers, TokenTable
from fuxictr_multimodal.errors import ConfigError, DataError
from fuxictr_multimodal.system.files import write_text

SPECIAL_TOKENS = ("<pad>", "<cls>", "<sep>", "<mask>")  # ids 0 to 3
SMALLEST_VOCABULARY = len(SPECIAL_TOKENS) + 256
METHODS = ("bpe", "parity")
FILE_NAME = "tokenizer.json"
# The words of GPT-2, but that a letter keeps its marks and joiners: vowel signs do not end a word.
WORDS = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}[\p{L}\p{M}\x{200C}\x{200D}]*| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"


@contextlib.contextmanager
def _panics_named() -> Iterator[None]:
    """A vocabulary that lacks tokens of its own merges makes the library panic, which is no `Exception`."""
    try:
        yield
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        raise DataError(f"{FILE_NAME} cannot encode a text ({error}): it is damaged; copy the encoder again") from None


class BilingualTokenizer:
    """Texts to token ids and back, in front of the standard `tokenizers` object `fast`.

    With `hasher` the rows have n-grams as well, for an encoder that reads them.
    """

    def __init__(self, fast: FastTokenizer, *, hasher: NgramHasher | None = None) -> None:
        for number, token in enumerate(SPECIAL_TOKENS):
            if fast.token_to_id(token) != number:
                raise DataError(
                    f"the tokenizer has {fast.token_to_id(token)} as the id of {token!r}, expected {number}; "
                    "train one with run_embedding.py"
                )
        # Neither the file nor a copy of the object keeps this switch.
        fast.encode_special_tokens = True
        self.fast, self.hasher = fast, hasher

    def __setstate__(self, state: dict[str, Any]) -> None:
        """A copy, or the object in another process."""
        BilingualTokenizer.__init__(self, state["fast"], hasher=state["hasher"])

    def for_encoder(self, config: EncoderConfig) -> BilingualTokenizer:
        """The same with the n-grams that an encoder reads, if any."""
        hasher = NgramHasher(config.ngram_buckets) if config.ngram_buckets else None
        return BilingualTokenizer(self.fast, hasher=hasher)

    @classmethod
    def train(
        cls,
        texts_by_language: Mapping[str, Sequence[str]],
        *,
        vocabulary_size: int,
        method: str = "bpe",
        aligned_texts_by_language: Mapping[str, Sequence[str]] | None = None,
        lower: bool = False,
    ) -> BilingualTokenizer:
        """Train on the texts of all languages.

        Args:
            texts_by_language: language code to texts, for example {"en": [...], "de": [...]}.
            vocabulary_size: tokens at most, the 4 special ones and the 256 bytes included.
            method: `bpe` merges the most frequent pair of all texts; `parity` takes each merge from the language
                that is compressed least so far, so that no language pays with longer inputs.
            aligned_texts_by_language: the same sentences in every language, on which `parity` measures the
                compression; without them it takes the training texts.
            lower: fold upper case to lower case, which suits small training sets.

        Raises:
            ConfigError: a vocabulary below 260 tokens or an unknown method.
            DataError: no text at all.
        """
        if vocabulary_size < SMALLEST_VOCABULARY:
            raise ConfigError(
                f"vocabulary_size {vocabulary_size} is too small: bytes and special tokens are {SMALLEST_VOCABULARY}"
            )
        if method not in METHODS:
            raise ConfigError(f"tokenizer method {method!r} is unknown; choose from {', '.join(METHODS)}")
        if not any(texts_by_language.values()):
            raise DataError("no text to train the tokenizer on")
        fast = _untrained(lower)
        shared: dict[str, Any] = {
            "special_tokens": list(SPECIAL_TOKENS),
            "initial_alphabet": sorted(pre_tokenizers.ByteLevel.alphabet()),
            "show_progress": False,
        }
        if method == "bpe":
            trainer = trainers.BpeTrainer(vocab_size=vocabulary_size, min_frequency=2, **shared)
            fast.train_from_iterator((text for texts in texts_by_language.values() for text in texts), trainer)
        else:
            parity = trainers.ParityBpeTrainer(
                num_merges=vocabulary_size - SMALLEST_VOCABULARY, min_frequency=2, **shared
            )
            measured = aligned_texts_by_language or texts_by_language
            parity.train_from_iterator(
                fast,
                train_iterators=[iter(texts) for texts in texts_by_language.values()],
                dev_iterators=[iter(measured[language]) for language in texts_by_language],
            )
        return cls(_with_frame(fast))

    @classmethod
    def read(cls, path: Path) -> BilingualTokenizer:
        """Read a `tokenizer.json`, or the one in a folder.

        Raises:
            DataError: the file is missing, or is not a tokenizer of this project.
        """
        file = path / FILE_NAME if path.is_dir() else path
        if not file.is_file():
            raise DataError(f"{file} does not exist; a trained model's folder holds its tokenizer")
        try:
            fast = FastTokenizer.from_file(str(file))
        except Exception as error:  # the library raises bare Exception for every fault
            raise DataError(f"{file} is not a tokenizer file: {error}") from None
        try:
            return cls(fast)
        except DataError as error:
            raise DataError(f"{file}: {error}") from None

    def write(self, path: Path) -> None:
        """Write `tokenizer.json` atomically; `path` is the file or its folder."""
        write_text(path / FILE_NAME if path.is_dir() else path, self.fast.to_str(pretty=True))

    @property
    def vocabulary_size(self) -> int:
        """Number of tokens; below the requested size if the texts hold no more merges."""
        return self.fast.get_vocab_size()

    def encode(self, texts: Sequence[str], *, max_length: int, workers_chunk: int = 8192) -> TokenTable:
        """Tokens of each text, at most `max_length` with the frame of two; the end of longer texts is cut.

        Raises:
            ConfigError: if `max_length` leaves no room for text.
        """
        if max_length < 3:
            raise ConfigError(f"max_length {max_length} leaves no room for text between <cls> and <sep>; use 3 or more")
        self.fast.enable_truncation(max_length)
        ids: list[Numbers] = []
        words: list[Numbers] = []
        # Encodings are heavy objects: a chunk of them is turned into arrays before the next is made.
        for start in range(0, len(texts), workers_chunk):
            with _panics_named():
                encodings = self.fast.encode_batch(list(texts[start : start + workers_chunk]))
            for encoding in encodings:
                ids.append(np.array(encoding.ids, dtype=np.int32))
                words.append(np.array([-1 if w is None else w for w in encoding.word_ids], dtype=np.int32))
        table = TokenTable.from_lists(ids, words)
        return replace(table, ngrams=self.hasher.hash(texts, max_words=max_length)) if self.hasher else table

    def decode(self, ids: Sequence[int]) -> str:
        """The text of some tokens, special ones left out."""
        return self.fast.decode(list(ids), skip_special_tokens=True).strip()

    def fertility(self, texts: Sequence[str]) -> float:
        """Tokens per word (text between white space), the frame not counted; lower is a better fit.

        Raises:
            DataError: if there is no word.
        """
        words = sum(len(text.split()) for text in texts)
        if not words:
            raise DataError("fertility needs at least one word")
        self.fast.no_truncation()
        return sum(len(e.ids) for e in self.fast.encode_batch(list(texts), add_special_tokens=False)) / words


def _untrained(lower: bool) -> FastTokenizer:
    fast = FastTokenizer(models.BPE())
    # With one space in front the first word of a text is the same token as in its middle.
    one_space = [normalizers.Strip(left=True, right=False), normalizers.Prepend(" ")]
    steps = [normalizers.NFC(), *([normalizers.Lowercase()] if lower else []), *one_space]
    fast.normalizer = normalizers.Sequence(steps)
    fast.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORDS), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    fast.decoder = decoders.ByteLevel()
    return fast


def _with_frame(fast: FastTokenizer) -> FastTokenizer:
    _, cls_token, sep_token, _ = SPECIAL_TOKENS
    fast.post_processor = processors.TemplateProcessing(
        single=f"{cls_token} $A {sep_token}", special_tokens=[(cls_token, 1), (sep_token, 2)]
    )
    return fast
