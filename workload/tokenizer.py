"""The tokenizer: byte-level BPE, trained on the training split, kept beside the checkpoints."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import cast

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from workload import WorkloadError
from workload.conversations import ROLES, Conversation

PADDING = "<|pad|>"
END_OF_TURN = "<|end|>"
ROLE_TOKENS = {role: f"<|{role}|>" for role in ROLES}
SPECIAL_TOKENS = (PADDING, END_OF_TURN, *ROLE_TOKENS.values())


class ConversationTokenizer:
    """Turns a conversation into token ids: for each turn its role, its text, the end of the turn."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        missing = [token for token in SPECIAL_TOKENS if tokenizer.token_to_id(token) is None]
        if missing:
            raise WorkloadError(f"the tokenizer has no {' '.join(missing)}; it belongs to another program")
        # Text that happens to read "<|assistant|>" is text: only we set the borders of turns.
        tokenizer.encode_special_tokens = True
        self._tokenizer = tokenizer
        self.padding_id = cast(int, tokenizer.token_to_id(PADDING))
        self._end_id = cast(int, tokenizer.token_to_id(END_OF_TURN))
        self._role_ids = {
            role: cast(int, tokenizer.token_to_id(token)) for role, token in ROLE_TOKENS.items()
        }

    @classmethod
    def trained_on(cls, conversations: Sequence[Conversation], vocabulary_size: int) -> ConversationTokenizer:
        """Train on every turn's text; a small set of texts gives fewer tokens than asked for."""
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=vocabulary_size,
            min_frequency=2,
            special_tokens=list(SPECIAL_TOKENS),
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        tokenizer.train_from_iterator(_texts(conversations), trainer)
        return cls(tokenizer)

    @classmethod
    def load(cls, path: Path) -> ConversationTokenizer:
        """Read what `save` wrote; `WorkloadError` when the file is missing or broken."""
        try:
            return cls(Tokenizer.from_str(path.read_text(encoding="utf-8")))
        except WorkloadError:
            raise
        except Exception as error:  # the library raises plain Exception for a broken file
            raise WorkloadError(
                f"cannot read the tokenizer {path} ({type(error).__name__}); a run goes on with the one it "
                "began with, so begin a new run"
            ) from None

    def save(self, path: Path) -> None:
        self._tokenizer.save(str(path))

    @property
    def vocabulary_size(self) -> int:
        return self._tokenizer.get_vocab_size()

    def encode(self, conversation: Conversation) -> list[int]:
        """Token ids of one conversation."""
        ids: list[int] = []
        texts = [turn.text for turn in conversation.turns]
        encodings = self._tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        for turn, encoding in zip(conversation.turns, encodings, strict=True):
            ids += (self._role_ids[turn.role], *encoding.ids, self._end_id)
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """The text of token ids, roles and ends of turns included."""
        return self._tokenizer.decode(list(ids), skip_special_tokens=False)


def _texts(conversations: Sequence[Conversation]) -> Iterator[str]:
    for conversation in conversations:
        for turn in conversation.turns:
            yield turn.text
