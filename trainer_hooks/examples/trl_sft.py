from datasets import Dataset
from tokenizers import Tokenizer, models
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast
from trl import SFTConfig, SFTTrainer  # type: ignore[attr-defined]

from trainer_hooks.transformers import TelemetryCallback

words = Tokenizer(models.WordLevel({"<end>": 0, "<unknown>": 1}, unk_token="<unknown>"))
tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<end>", pad_token="<end>")  # type: ignore
model = GPT2LMHeadModel(GPT2Config(vocab_size=64, n_embd=32, n_layer=2, n_head=2))
data = Dataset.from_dict({"input_ids": [[at % 64] * 8 for at in range(64)]})
config = SFTConfig("output", use_cpu=True, save_strategy="no", report_to="none")
SFTTrainer(
    model, config, train_dataset=data, processing_class=tokenizer, callbacks=[TelemetryCallback()]
).train()
